"""k clips a class out of a list, as a list: what training from a few clips reads (ZeroI2V, Table 8: VidTAB with 4 and 16 shots).

The benchmark itself (VideoEval, arXiv 2407.06491) comes with its draws, train_4_fold1.txt and so on: with these at hand, take
them, they are list files as any other. What is drawn here is for lists that have none.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from i2vlib.data.classes import ListError, class_names, write_names
from i2vlib.data.lists import Entry, read_list, write_list

FOLDS = 3  # draws; the paper's numbers are the mean over so many


def few_shot(entries: Sequence[Entry], shots: int, fold: int = 1, seed: int = 0, names: Sequence[str] = ()) -> list[Entry]:
    """`shots` clips of each class, in the order of the list: those of the lowest SHA-256 of the text "seed/fold/path".

    Whether a clip is drawn depends on its path and on the other clips of its class, not on where they stand in the list nor on
    any other class. So the 4 shots of a fold are among its 16. Folds are draws of their own, which may share clips, as VidTAB's
    do. An entry that stands twice counts once. names: of the classes, each of which must then have its clips; without them each
    label up to the highest must. Raises ListError for a class with fewer clips than shots, which it names, and ValueError for
    shots or a fold below 1.
    """
    for name, value in (("shots", shots), ("fold", fold)):
        if value < 1:
            raise ValueError(f"{name} = {value}: allowed is 1 or more")
    classes: dict[int, dict[str, Entry]] = defaultdict(dict)
    for entry in entries:
        classes[entry.label].setdefault(posixpath.normpath(entry.path), entry)
    drawn: set[Entry] = set()
    for label in range(max([len(names), *(label + 1 for label in classes)])):
        clips = classes[label]
        if len(clips) < shots:
            known = f" {names[label]!r}" if label < len(names) else ""
            raise ListError(f"class {label}{known} has {len(clips)} clip(s): allowed is {shots} or more, to draw {shots} of them")
        drawn |= {clips[path] for path in sorted(clips, key=lambda path: _rank(path, fold, seed))[:shots]}
    return [entry for entry in dict.fromkeys(entries) if entry in drawn]


def few_shot_lists(list_file: str | Path, out: str | Path, shots: int, *, folds: int = FOLDS, seed: int = 0,
                   root: str | Path | None = None, outside: bool = False, encoding: str = "", **options) -> list[Path]:
    """Write a list a fold, out/<list>-<shots>shot-fold<1, 2, ...>.txt, and the classes' names beside it; returns the paths.

    list_file and all behind seed (options: first_label, ending) as read_list has them. What is written has labels from 0 and
    needs no more than root and outside: a VideoDataset takes it as any list. Raises ListError (a list that cannot be read; a
    class with too few clips; a folder `out` with names that give its numbers another meaning), and ValueError for shots or folds
    below 1.
    """
    list_file, out = Path(list_file), Path(out)
    if folds < 1:
        raise ValueError(f"folds = {folds}: allowed is 1 or more")
    entries = read_list(list_file, root=root, outside=outside, encoding=encoding, **options)
    names = class_names(list_file, encoding)
    try:
        draws = [few_shot(entries, shots, fold, seed, names) for fold in range(1, folds + 1)]
    except ListError as error:
        raise ListError(f"{list_file}: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{list_file.stem}-{shots}shot-fold{fold}.txt" for fold in range(1, folds + 1)]
    if names and not class_names(paths[0]):
        write_names(out / "classes.txt", names)
    for path, draw in zip(paths, draws, strict=True):
        write_list(path, draw)
        if class_names(path) != names or not _reads_as(draw, path, root, outside):
            path.unlink()
            raise ListError(f"{path}: would not read as it was drawn, for the names of classes that lie in {out}: allowed is a "
                            "folder of its own")
    return paths


def _rank(path: str, fold: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{fold}/{path}".encode()).digest()


def _reads_as(draw: list[Entry], path: Path, root: str | Path | None, outside: bool) -> bool:
    try:
        return read_list(path, root=root, outside=outside) == draw
    except ListError:
        return False
