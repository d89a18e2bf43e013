"""A folder with one folder a class, as list files: what can be read, dealt into clips to train on and clips held out.

A held-out number is only worth what separates the two sides: a clip and its reversal, or two pieces of one recording, must not
lie on both. Files that are equal byte by byte are certain to be one clip; of the rest the names are asked (`recordings`).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from i2vlib.data.classes import class_names, write_names
from i2vlib.data.isolated import Isolated, IsolatedError
from i2vlib.data.lists import Entry, ListError, read_list, write_list
from i2vlib.data.strict import damage, fault

# endings that a name gets where a clip is made out of another one: a_rev, a-flipped, a copy 2, a_aug3
COPIES = re.compile(r"(?:[ _.-]+(?:rev|reversed?|backwards?|flip|flipped|mirror|mirrored|copy|dup|aug)[ _-]*\d*)+$")
# endings that number the pieces of a recording: g01_c03 (UCF101), a_part2, a (2), id_000010_000020 (Kinetics), 11_3
PIECES = re.compile(r"[ _.-]+(?:part|pt|piece|segment|seg|cut|clip|scene|shot|take|p|c)[ _-]*\d+$|\s*\(\d+\)$|_\d{6}_\d{6}$"
                    r"|(?<=\d)[ _.-]+\d+$")
MIXED = ("a class has too few recordings to divide: by their names, or byte by byte, clips of one lie on both sides, and the "
         "held-out number may be that of recognising a recording")


VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


class FolderError(ValueError):
    """A folder cannot be trained on. The message names the folder or class, and what is expected."""


@dataclass(frozen=True)
class FolderLists:
    """List files of a folder: what VideoDataset takes, with root = the folder. classes.txt lies beside them.

    Of list files of your own, FolderLists(train, val, root) is enough.
    """

    train: Path
    val: Path
    root: Path
    class_names: tuple[str, ...] = ()
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)  # class: clips to train on, clips held out
    skipped: dict[str, str] = field(default_factory=dict)  # class/clip.mp4: reason
    warning: str = ""  # what the names say against the held-out number, if anything


def folder_lists(folder: str | Path, out: str | Path, val_share: float = 0.25, seed: int = 0, *, frames: int = 1,
                 strict: bool = True) -> FolderLists:
    """Write train.txt, val.txt and classes.txt into `out` for videos that lie as `folder/class/clip.mp4`.

    Classes are the folders inside, sorted by name, those with a dot in front left out. Of each class about val_share of its
    clips are held out, at least 1 and at most all but 1, drawn by (seed, class): round(val_share · clips) where each clip is a
    recording of its own. Copies of a clip (a reversal, whatever its class) and pieces of a recording stay on one side; where a
    class is one recording by its files' names, so that nothing of it could be held out, pieces are dealt one by one, if need be
    copies too, and `warning` says so, which is printed. Every file is tried, in a process that may hang or die of it: it must
    have `frames` frames or more, its first, middle and last one are read, and all of it is searched for damage
    (i2vlib.data.strict; strict=False leaves that out, and keeps what can be read). What fails is printed once with the reason,
    listed in `skipped`, and left out.
    Raises FolderError: no such folder, not two class folders, a class with no readable video or with only one, a name that
    cannot stand in a list file. Raises ValueError for a val_share outside 0 to 1.
    """
    folder, out = Path(folder), Path(out)
    if not 0 < val_share < 1:
        raise ValueError(f"val_share = {val_share}: allowed is above 0 and below 1")
    classes = _class_folders(folder)
    skipped: dict[str, str] = {}
    with Isolated() as call:
        clips = {place.name: _readable(place, frames, strict, skipped, call) for place in classes}
    for name, reason in skipped.items():
        print(f"left out: {name}: {reason}")
    held, warning = _held_out(folder, clips, val_share, seed)
    if warning:
        print(f"beware: {warning}")
    parts: dict[str, list[Entry]] = {"train": [], "val": []}
    for label, found in enumerate(clips.values()):
        for clip in found:
            parts["val" if clip in held else "train"].append(Entry(clip, label))
    counts = {name: (len(found) - sum(c in held for c in found), sum(c in held for c in found)) for name, found in clips.items()}
    out.mkdir(parents=True, exist_ok=True)
    return FolderLists(*_write_lists(out, tuple(clips), parts), folder, tuple(clips), counts, skipped, warning)


def recordings(clips: Sequence[str], pieces: bool = True) -> list[str]:
    """For each class/clip.mp4 what it was recorded as, as far as the names tell: equal texts are one recording.

    a_rev.mp4, whatever its folder, is of the recording of a.mp4; with pieces=True a_part1.mp4 and a_part2.mp4 are of one. A name
    that says nothing is a recording of its own.
    """
    stems = [PurePosixPath(clip).stem.casefold() for clip in clips]
    roots = [_root(stem, pieces) for stem in stems]
    told = {root for root, stem in zip(roots, stems, strict=True) if root != stem}
    return [root if root in told else clip for root, clip in zip(roots, clips, strict=True)]


def _root(name: str, pieces: bool) -> str:
    """The name without what says that it is a copy, and, once, without what says that it is a piece."""
    for pattern in (COPIES, PIECES, COPIES) if pieces else (COPIES,):
        name = pattern.sub("", name) or name
    return name.removeprefix("copy of ")


def _held_out(folder: Path, clips: Mapping[str, list[str]], val_share: float, seed: int) -> tuple[set[str], str]:
    """The clips held out, and a warning where recordings could not be kept apart."""
    for name, found in clips.items():
        if len(found) < 2:
            raise FolderError(f"class {name!r} has 1 readable video: allowed is 2 or more, to train on and to hold out")
    every = sum(clips.values(), [])
    twins = _equal_files(folder, every)
    for names, equal in ((recordings(every), twins), (recordings(every, pieces=False), twins), (every, [])):
        groups: dict[str, list[str]] = defaultdict(list)
        for clip, name in zip(every, names, strict=True):
            groups[name].append(clip)
        held = _deal(_joined(groups.values(), equal), clips, val_share, seed)
        if held:
            break
    return held, "" if names == recordings(every) else MIXED


def _deal(groups: Sequence[list[str]], clips: Mapping[str, list[str]], val_share: float, seed: int) -> set[str]:
    """Whole groups, so that of each class about its share is held out; empty where a class would have none on one side."""
    rank, target = {}, {}
    for name, found in clips.items():
        shuffled = random.Random(f"{seed}/{name}").sample(found, len(found))
        rank |= {clip: i / len(found) for i, clip in enumerate(shuffled)}
        target[name] = min(max(round(val_share * len(found)), 1), len(found) - 1)
    label = {clip: name for name, found in clips.items() for clip in found}
    held: set[str] = set()
    count: Counter[str] = Counter()
    for exact in (True, False):  # then, for classes with none, what is more than the share
        for group in sorted(groups, key=lambda g: min((rank[c], c) for c in g)):
            new = Counter(label[c] for c in group)
            fits = all(count[k] + n <= (target[k] if exact else len(clips[k]) - 1) for k, n in new.items())
            if fits and (exact or any(not count[k] for k in new)) and not held & set(group):
                held |= set(group)
                count += new
    return held if all(count[name] for name in clips) else set()


def _equal_files(folder: Path, clips: Sequence[str]) -> list[list[str]]:
    """Clips whose files are the same, byte by byte."""
    alike: dict[object, list[str]] = defaultdict(list)
    for clip in clips:
        alike[(folder / clip).stat().st_size].append(clip)
    equal: dict[object, list[str]] = defaultdict(list)
    for clip in (c for some in alike.values() if len(some) > 1 for c in some):
        equal[hashlib.sha256((folder / clip).read_bytes()).digest()].append(clip)
    return [some for some in equal.values() if len(some) > 1]


def _joined(groups, more: Sequence[list[str]]) -> list[list[str]]:
    """Groups that share a clip, as one."""
    joined = [list(g) for g in groups]
    for some in more:
        touched = [g for g in joined if set(g) & set(some)]
        joined = [g for g in joined if g not in touched] + [sum(touched, [])]
    return joined


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FolderError(f"{folder}: there is no such folder")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for place in classes:
        if place.name != _unicode(place.name):
            raise FolderError(f"{folder}: the name of the folder {place.name!r} is no Unicode text: rename it")
    if len(classes) < 2:
        found = f"only the folder {classes[0].name!r}" if classes else "no folders"
        raise FolderError(f"{folder}: holds {found}; expected are two or more, one a class, with videos in them: class/clip.mp4")
    return classes


def _readable(place: Path, frames: int, strict: bool, skipped: dict[str, str], call: Isolated) -> list[str]:
    """The videos of a class as `class/clip.mp4`, sorted; the others go into `skipped`."""
    found, first = [], None
    for path in sorted(p for p in place.iterdir() if not p.name.startswith(".")):
        name = f"{place.name}/{path.name}"
        if (shown := _unicode(name)) != name:
            skipped[shown] = "has a name that is no Unicode text: rename it"
            continue
        try:
            reason = call(fault, path, frames) or (call(damage, path) if strict else "")
        except IsolatedError as error:
            reason = error.reason
        if not reason:
            found.append(name)
            continue
        skipped[name] = reason
        first = first or f"; the first file: {path.name}: {reason}"
    if not found:
        raise FolderError(f"class {place.name!r} has no readable video{first or ': its folder is empty'}")
    return found


def _unicode(name: str) -> str:
    """The name itself, or with \\udcff and the like where it holds bytes of another encoding."""
    return name.encode("utf-8", "backslashreplace").decode()


def _write_lists(out: Path, classes: Sequence[str], parts: Mapping[str, list[Entry]]) -> list[Path]:
    """classes.txt and a list a part, written and read back: a name that they cannot hold must not become another's."""
    try:
        write_names(out / "classes.txt", classes)
        if class_names(out / "any.txt") != list(classes):
            raise FolderError(f"{out / 'classes.txt'} cannot hold the classes' names as they are")
        for part, entries in parts.items():
            write_list(out / f"{part}.txt", entries)
            for wanted, found in zip(entries, read_list(out / f"{part}.txt"), strict=False):
                if wanted != found:
                    raise FolderError(f"{wanted.path!r} cannot stand in a list file, where it reads as {found.path!r}: rename it")
    except (UnicodeEncodeError, ListError) as error:
        raise FolderError(f"a name cannot stand in a list file, rename it: {error}") from error
    return [out / f"{part}.txt" for part in parts]


def videos_in(where: str | Path) -> list[Path]:
    """A file by itself, or all below a folder that have the ending of a video, sorted. Raises FolderError where there is none."""
    where = Path(where)
    found = [where] if where.is_file() else sorted(path for path in where.rglob("*") if path.suffix.lower() in VIDEOS)
    if not found:
        raise FolderError(f"{where}: no video there: allowed is a file, or a folder with {', '.join(VIDEOS)} below it")
    return found
