"""The embedded tasks: the world of i2vlib.data.drawing as labelled H.264 clips, rendered on first use.

Pre-training images and video frames come from the same `draw`, so that an image tower trained on the former meets
nothing new in the latter but time (and, in `corrupted`, junk). Everything is a function of a seed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm.auto import tqdm

from i2vlib.data.drawing import (
    ATTRIBUTES,
    PATCH,
    REACH,
    SIZE,
    WIDE,
    corrupt,
    draw,
    generator,
    junk_places,
    random_scene,
    random_words,
    uniform,
)
from i2vlib.data.transforms import unnormalised
from i2vlib.data.video import write_clip
from i2vlib.places import kept_in

VERSION = 2  # a change to anything that is drawn or stored raises it, and old caches are rendered anew
CHUNK = 64  # clips drawn from one random state, and the unit of work of a process


@dataclass(frozen=True)
class MiniTask:
    """One embedded task. twins: clips 2k and 2k+1 hold the same frames in opposite order; their labels are 2j, 2j+1."""

    name: str
    frames: int
    class_names: tuple[str, ...]
    train: int  # clips
    val: int
    twins: bool

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def junk(self) -> bool:
        """Whether its frames are junk in places, and the truth about which lies beside the clips."""
        return self.name == "corrupted"


_DIRECTIONS = ("moves left", "moves right", "moves up", "moves down")
_OBJECTS = tuple(f"{c} {s}" for s in ATTRIBUTES["shape"] for c in ATTRIBUTES["colour"])
TASKS: dict[str, MiniTask] = {t.name: t for t in (
    MiniTask("motion", 4, (*_DIRECTIONS, "goes away", "comes closer"), 4096, 384, True),
    MiniTask("appearance", 4, _OBJECTS, 2048, 384, False),
    MiniTask("blink", 8, _DIRECTIONS, 4096, 384, True),
    MiniTask("corrupted", 4, _OBJECTS, 4096, 384, False),
)}


# ---- clips ----

def _clips(task: MiniTask, first: int, n: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
    """Clips number first..first+n: uint8 (n,T,48,64,3), labels (n,) and, with junk, its places: bool (n,T,8,8).

    With twins: the clips of even label.
    """
    T, words = task.frames, random_words(n, g)
    kind = torch.arange(first, first + n) % (task.classes // 2 if task.twins else task.classes)
    if task.class_names == _OBJECTS:
        words[:, 0], words[:, 1] = kind // len(ATTRIBUTES["colour"]), kind % len(ATTRIBUTES["colour"])
        words[:, 5] = words[:, 5].clamp(min=1)  # not small: the task is to name the shape, not to find it
    scene = random_scene(words, g)
    time = torch.linspace(-0.5, 0.5, T)
    path = {k: scene[k][:, None].repeat(1, T) for k in ("x", "y", "radius")}
    if task.twins:
        span = uniform(0.6, 0.85, (n, 1), g) * 2 * REACH  # travelled from the first frame to the last
        middle = uniform(-1, 1, (n, 1), g) * (REACH - span / 2)
        for i, axis in enumerate(("x", "y")):
            path[axis] = torch.where((kind == i)[:, None], middle - span * time, path[axis])
        growth = uniform(0.75, 1.1, (n, 1), g)  # of log radius: to 1/2 or 1/3 of the size
        path["radius"] = torch.where((kind == 2)[:, None], 0.29 * torch.exp(-growth * time), path["radius"])
    elif not task.junk:  # somewhere else in every frame: what it is can be seen in each, where it goes means nothing
        path |= {k: uniform(-REACH, REACH, (n, T), g) for k in ("x", "y")}
    for k in ("x", "y"):
        path[k] = path[k] + 0.012 * torch.randn(n, T, generator=g)  # a quarter of a pixel: no frame is a plain copy
    visible = torch.ones(n, T)
    if task.name == "blink":
        phase = torch.randint(2, (n, 1), generator=g)
        visible = ((torch.arange(T) + phase) % 2 == 0).float()
    scene = {k: v.repeat_interleave(T, 0) for k, v in scene.items()}
    scene.update({k: v.flatten() for k, v in path.items()}, visible=visible.flatten())
    frames, junk = draw(scene, g, WIDE).permute(0, 2, 3, 1).reshape(n, T, SIZE, WIDE, 3), None
    if task.junk:
        junk = junk_places(n, T, g)
        frames = corrupt(frames, junk, g)
    return frames, kind * 2 if task.twins else kind, junk


# ---- files ----

def _write_chunk(task: MiniTask, folder: Path, split: str, seed: int, first: int) -> tuple[list[str], Tensor | None]:
    """Write clips first..first+CHUNK (each with its twin); return their lines of the list file and their junk."""
    each = 2 if task.twins else 1
    count = min(CHUNK, getattr(task, split) // each - first)
    clips, labels, junk = _clips(task, first, count, generator(seed, task.name, split, first))
    lines = []
    for i, (clip, label) in enumerate(zip(clips, labels.tolist(), strict=True), first):
        for twin in range(each):
            path = f"{split}/{i * each + twin:05d}.mp4"
            write_clip(folder / path, clip.flip(0) if twin else clip)
            lines.append(f"{path} {label + twin}")
    return lines, junk


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


def render(task: str, root: str | Path, seed: int = 0, progress: bool = True) -> Path:
    """Write the clips and list files of an embedded task into root/<task> and return that folder.

    Files: {train,val}.txt with `relative/path label` a line, classes.txt with one name a line, {train,val}/*.mp4,
    manifest.json with the size and SHA-256 of each and, for `corrupted`, {train,val}_junk.npy (see `junk_map`). A folder that is
    as its manifest says is kept, whatever else lies in it; any other is drawn again, which for a seed gives the same clips, and
    replaced at once when the new one is whole, so that no reader ever meets half a data set. Raises ValueError for an unknown
    task.
    """
    if task not in TASKS:
        raise ValueError(f"there is no embedded task {task!r}: allowed are {', '.join(TASKS)}")
    spec, folder = TASKS[task], Path(root) / task
    manifest = {"version": VERSION, "seed": seed, **json.loads(json.dumps(asdict(spec)))}
    fault = _fault(folder, manifest)
    if not fault:
        return folder
    if progress and folder.exists():
        tqdm.write(f"{folder}: {fault}; the clips are drawn again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{task}-", dir=folder.parent))
    try:
        _write(spec, work, seed, progress)
        (work / "manifest.json").write_text(json.dumps({**manifest, "files": _list_files(work)}))
        _install(work, folder, manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _write(task: MiniTask, folder: Path, seed: int, progress: bool) -> None:
    each = 2 if task.twins else 1
    bar = tqdm(total=task.train + task.val, desc=f"rendering {task.name} clips", unit="clip", disable=not progress)
    with bar, ThreadPoolExecutor(2) as pool:  # drawing and encoding let go of Python's lock
        for split in ("train", "val"):
            (folder / split).mkdir()
            starts = range(0, getattr(task, split) // each, CHUNK)
            lines: list[str] = []
            truth: list[Tensor] = []
            for chunk, junk in pool.map(lambda first, s=split: _write_chunk(task, folder, s, seed, first), starts):
                lines += chunk
                truth += [] if junk is None else [junk]
                bar.update(len(chunk))
            (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
            if truth:
                np.save(folder / f"{split}_junk.npy", torch.cat(truth).numpy())
    (folder / "classes.txt").write_text("\n".join(task.class_names) + "\n")


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


def mini_data(task: str, root: str | Path | None = None, seed: int = 0) -> Path:
    """The folder of an embedded task, rendered on first use.

    root: default is data/mini of the repository, or of ~/.cache/i2vlib where that cannot be written (i2vlib.places).
    """
    return render(task, root or kept_in(f"data/mini/{task}").parent, seed)


def junk_map(folder: str | Path, split: str) -> Tensor:
    """The truth about a rendered `corrupted` task: bool (clips,T,8,8), True where that frame's patch is junk.

    Row i is the clip of line i of <split>.txt. The 8x8 places are the 6x6 patches of the middle 48 columns, which is
    what the model sees. Of the frames 2k and 2k+1 at most one is junk at a place. split: "train" or "val". Raises
    FileNotFoundError where the folder holds no such file, and ValueError for another split or a damaged file.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r}: allowed is 'train' or 'val'")
    path = Path(folder) / f"{split}_junk.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; of the embedded tasks only `corrupted` has one")
    try:
        junk = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: is damaged ({error})") from error
    places = (TASKS["corrupted"].frames, SIZE // PATCH, SIZE // PATCH)
    if junk.dtype != np.bool_ or junk.shape[1:] != places:
        raise ValueError(f"{path}: holds {junk.dtype} {junk.shape}: allowed is bool (clips, {', '.join(map(str, places))})")
    return torch.from_numpy(junk)


def object_place(clips: Tensor) -> Tensor:
    """Where the object is in clips of `motion`, (n,T,3,48,48) as the model sees them: bool (n,T,8,8).

    A patch counts where a tenth of its pixels are coloured: the largest and the smallest channel differ by over a fifth of the
    range. Walls are nearly grey, objects are not; notebook 07 tests the rule against the labels.
    """
    pixels = unnormalised(clips)
    coloured = (pixels.amax(2) - pixels.amin(2) > 0.2).float()
    return avg_pool2d(coloured, PATCH) >= 0.1
