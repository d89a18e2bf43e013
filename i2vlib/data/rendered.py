"""Clips that are drawn, not downloaded: rendered on first use into a folder that is whole or not there.

What is drawn is the task's own affair (i2vlib.data.mini, i2vlib.data.photos); this is the folder, its manifest and its files.
Everything is a function of a seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from i2vlib.data.drawing import generator
from i2vlib.data.video import write_clip

CHUNK = 64  # clips drawn from one random state, and the unit of work of a thread


@dataclass(frozen=True)
class RenderedTask:
    """One task of drawn clips. twins: clips 2k and 2k+1 hold the same frames in opposite order; their labels are 2j, 2j+1."""

    name: str
    frames: int
    class_names: tuple[str, ...]
    train: int  # clips
    val: int
    twins: bool

    version: ClassVar[int]  # a change to anything that is drawn or stored raises it, and old caches are rendered anew
    splits: ClassVar[tuple[str, ...]] = ("train", "val")  # each the name of a field: its number of clips

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def draw(self, split: str, first: int, n: int, g: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Clips number first..first+n of a split: uint8 (n,T,H,W,3), labels (n,) and truths by name, each (n,T,...).

        With twins these are the clips of even label; a twin has their frames, and the truths' rows, in opposite order.
        """
        raise NotImplementedError


def render(tasks: Mapping[str, RenderedTask], name: str, root: str | Path, seed: int, progress: bool) -> Path:
    """Write the clips and list files of one of `tasks` into root/<name> and return that folder.

    Files: for each split <split>.txt with `relative/path label` a line, <split>/*.mp4 and <split>_<truth>.npy; classes.txt with
    one name a line, manifest.json with the size and SHA-256 of each. A folder that is as its manifest says is kept, whatever
    else lies in it; any other is drawn again, which for a seed gives the same clips, and replaced at once when the new one is
    whole, so that no reader ever meets half a data set. Raises ValueError for an unknown task.
    """
    if name not in tasks:
        raise ValueError(f"there is no embedded task {name!r}: allowed are {', '.join(tasks)}")
    task, folder = tasks[name], Path(root) / name
    manifest = {"version": task.version, "seed": seed, **json.loads(json.dumps(asdict(task)))}
    fault = _fault(folder, manifest)
    if not fault:
        return folder
    if progress and folder.exists():
        tqdm.write(f"{folder}: {fault}; the clips are drawn again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        _write(task, work, seed, progress)
        (work / "manifest.json").write_text(json.dumps({**manifest, "files": _list_files(work)}))
        _install(work, folder, manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _write_chunk(task: RenderedTask, folder: Path, split: str, seed: int, first: int) -> tuple[list[str], dict[str, Tensor]]:
    """Write clips first..first+CHUNK (each with its twin); return their lines of the list file and their truths."""
    each = 2 if task.twins else 1
    count = min(CHUNK, getattr(task, split) // each - first)
    clips, labels, truths = task.draw(split, first, count, generator(seed, task.name, split, first))
    lines = []
    for i, (clip, label) in enumerate(zip(clips, labels.tolist(), strict=True), first):
        for twin in range(each):
            path = f"{split}/{i * each + twin:05d}.mp4"
            write_clip(folder / path, clip.flip(0) if twin else clip)
            lines.append(f"{path} {label + twin}")
    if task.twins:
        truths = {name: torch.stack([rows, rows.flip(1)], 1).flatten(0, 1) for name, rows in truths.items()}
    return lines, truths


def _write(task: RenderedTask, folder: Path, seed: int, progress: bool) -> None:
    each, total = 2 if task.twins else 1, sum(getattr(task, split) for split in task.splits)
    bar = tqdm(total=total, desc=f"rendering {task.name} clips", unit="clip", disable=not progress)
    with bar, ThreadPoolExecutor(2) as pool:  # drawing and encoding let go of Python's lock
        for split in task.splits:
            (folder / split).mkdir()
            starts = range(0, getattr(task, split) // each, CHUNK)
            lines: list[str] = []
            truths: dict[str, list[Tensor]] = {}
            for chunk, found in pool.map(lambda first, s=split: _write_chunk(task, folder, s, seed, first), starts):
                lines += chunk
                for name, rows in found.items():
                    truths.setdefault(name, []).append(rows)
                bar.update(len(chunk))
            (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
            for name, rows in truths.items():
                np.save(folder / f"{split}_{name}.npy", torch.cat(rows).numpy())
    (folder / "classes.txt").write_text("\n".join(task.class_names) + "\n")


# ---- the manifest ----

def _fault(folder: Path, wanted: dict) -> str:
    """What of `folder` is not as its manifest says, "" if nothing. What the manifest does not name does not count.

    The size of every file is compared on every call; its hash when it was written, copied or touched since the last call that
    found all well, which the manifest's own time tells.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        files, looked, hashed = manifest.pop("files"), path.stat().st_mtime_ns, False
        if manifest != wanted:
            return "of another version or seed"
        for name, (size, digest) in files.items():
            file = f"{folder}/{name}"
            found = os.stat(file)
            changed = max(found.st_mtime_ns, found.st_ctime_ns) >= looked
            if found.st_size != size or (changed and _digest(file) != digest):
                return f"{name} is damaged"
            hashed = hashed or changed
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json is damaged"
    if hashed:
        with suppress(OSError):  # read-only: hashed again the next time
            os.utime(path)
    return ""


def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _list_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of every file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): (p.stat().st_size, _digest(p)) for p in files}


def _install(work: Path, folder: Path, manifest: dict) -> None:
    """Put the finished folder in its place; where another process was first with the same, keep that one."""
    for _ in range(10):
        try:
            os.chmod(work, 0o755)  # mkdtemp makes it private
            return os.rename(work, folder)
        except OSError:
            if not _fault(folder, manifest):
                return None
            if folder.exists():  # of another version or seed, or damaged
                old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
                os.rename(folder, old / "old")
                shutil.rmtree(old)
    raise OSError(f"{folder}: cannot be replaced by the newly rendered clips in {work}")


# ---- the truth beside the clips ----

def read_truth(folder: str | Path, split: str, name: str, task: RenderedTask, kept_by: str) -> Tensor:
    """<split>_<name>.npy of a rendered folder: bool (clips,T,8,8), row i that of the clip of line i of <split>.txt.

    kept_by: the words for the tasks that have such a file. Raises FileNotFoundError where the folder holds none, and ValueError
    for a split that the task does not have or a damaged file.
    """
    if split not in task.splits:
        raise ValueError(f"split {split!r}: allowed is {' or '.join(map(repr, task.splits))}")
    path = Path(folder) / f"{split}_{name}.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; {kept_by}")
    try:
        truth = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: is damaged ({error})") from error
    if truth.dtype != np.bool_ or truth.ndim != 4 or truth.shape[1:] != (task.frames, 8, 8):
        raise ValueError(f"{path}: holds {truth.dtype} {truth.shape}: allowed is bool (clips, {task.frames}, 8, 8)")
    return torch.from_numpy(truth)
