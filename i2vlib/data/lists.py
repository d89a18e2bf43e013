"""List files: which videos a set holds, and under which labels. What is accepted: data/README.md, "List files"."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from i2vlib.data.classes import ListError, numbered_names, quoted, read_text
from i2vlib.data.list_formats import FORM, is_video, rows

BARE = re.compile(r"[\w./+=@()-]+")  # paths that need no quotes


@dataclass(frozen=True)
class Entry:
    """A line of a list file. total_frames: None for a video file, the number of images for a folder of frames."""

    path: str
    label: int
    total_frames: int | None = None


def read_list(path: str | Path, *, root: str | Path | None = None, outside: bool = False, first_label: int | None = None,
              encoding: str = "", ending: str = "") -> list[Entry]:
    """The entries of a list file, in its order, with labels from 0.

    Lines are `relative/path label` (K400, SSv2, UCF101, HMDB51) or, for folders of frames, `folder total_frames label`, with
    spaces, tabs, commas or semicolons between; CSV with quotes or a header; or records of JSON (SSv2's own, Diving48's). A label
    is a whole number, or a name that classes.txt, classInd.txt or labels.json beside the list has; without any label in the
    list it is the name of the video's folder. What else is accepted, and what is refused: data/README.md.

    root: where the paths start; absolute paths must lie in it. outside: allow any absolute path, and `..`. first_label: the
    number of the first class in the list, 1 for UCF101; None: what classInd.txt says, else 0. encoding: of what is neither
    UTF-8 nor has a byte order mark. ending: of videos that the list names without one, `.webm` for SSv2 and `.mp4` else.
    Raises ListError, which names file, line and value, and says what is allowed; warns of lines that stand twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ListError(f"{path}: there is no such list file")
    text = read_text(path, encoding)
    found, unit = rows(path, text, ending)
    names, first, source = numbered_names(path, encoding)
    classes = _Classes({name: i for i, name in enumerate(names)}, first if first_label is None else first_label, source.name)
    base = "" if root is None else os.path.abspath(root).replace("\\", "/").rstrip("/") + "/"
    entries: list[Entry] = []
    seen: dict[str, tuple[int, int]] = {}  # path -> number of its line, label
    again, folders, start = [], False, f"{path}, {unit} "  # folders: the folder's name is the label
    for number, name, label, count in found:
        where = f"{start}{number}"
        name = _inside(name, base, outside, where)
        if label is None and entries and not folders or label is not None and folders:
            raise ListError(f"{where}: {name!r} has {'no' if label is None else 'a'} label, those before have "
                            f"{'one' if label is None else 'none'}; {FORM}")
        folders = label is None
        entry = Entry(name, classes.number(where, name, label), None if count is None else _images(where, count))
        key = os.path.normpath(name) if "./" in name or "//" in name else name
        before = seen.setdefault(key, (number, entry.label))
        if before[1] != entry.label:
            raise ListError(f"{where}: {name!r} has the label {label}, and another in {unit} {before[0]}: allowed is one a file")
        if before[0] != number:
            again.append((number, before[0]))
        entries.append(entry)
    if not entries:
        raise ListError(f"{path}: holds no entries; {FORM}")
    if names and not folders and first_label is None:
        _refuse_shifted(path, entries, classes)
    elif not names and first_label is None and min(labels := {e.label for e in entries}) == 1 < len(labels):
        warnings.warn(f"{path}: no entry has label 0: if its labels count from 1, as UCF101's, give first_label=1", stacklevel=2)
    if again:
        warnings.warn(f"{path}: {len(again)} of its {len(entries)} entries stand twice, such as {unit} {again[0][0]}, which "
                      f"repeats {again[0][1]}: each counts as often as it stands there", stacklevel=2)
    return entries


def write_list(path: str | Path, entries: Iterable[Entry]) -> None:
    """A list file that `read_list` reads as these entries: paths that could be read otherwise stand in quotes.

    Raises UnicodeEncodeError for a path that is no Unicode text.
    """
    lines = []
    for e in entries:
        name = e.path if BARE.fullmatch(e.path) and (is_video(e.path) or e.total_frames) else quoted(e.path)
        lines.append(f"{name} {e.label}\n" if e.total_frames is None else f"{name} {e.total_frames} {e.label}\n")
    Path(path).write_text("".join(lines), encoding="utf-8", newline="")


@dataclass(frozen=True)
class _Classes:
    """What a label in a list stands for."""

    names: dict[str, int]
    first: int  # the number that the list gives to class 0
    source: str  # the file of the names

    def number(self, where: str, path: str, label: str | None) -> int:
        """The class, from 0, of a label, or of the folder of a path without one."""
        if label is None:
            folder = path.rpartition("/")[0].rpartition("/")[2]
            if folder not in self.names:
                which = f", and its folder {folder!r} is no class in {self.source}" if self.names else ""
                raise ListError(f"{where}: {path[:200]!r} has no label{which}; {FORM}; or, where the folders are named as the "
                                "classes are, put classes.txt or UCF101's classInd.txt beside the list")
            return self.names[folder]
        if label.isdecimal() and label.isascii() and len(label) < 7:
            number, last = int(label) - self.first, len(self.names) - 1
            if number < 0 or self.names and number > last:
                most = f"{self.first + last}, the classes of {self.source}" if self.names else "999999"
                raise ListError(f"{where}: label {label}: allowed is {self.first} to {most}; where the first class of a list has "
                                f"another number, give it: first_label={1 - self.first}")
            return number
        if label not in self.names:
            known = f", or a name in {self.source}" if self.names else (
                "; for names instead of numbers put classes.txt, UCF101's classInd.txt or SSv2's labels.json beside the list")
            more = ("; a video has one label and no number of frames; a path that holds blanks may stand in quotes"
                    if re.search("[ \t,;]", label) else "")
            raise ListError(f"{where}: label {label[:200]!r}: allowed is a whole number from 0 to 999999{known}{more}")
        return self.names[label]


def _images(where: str, count: str) -> int:
    if not (count.isdecimal() and count.isascii() and len(count) < 10):
        raise ListError(f"{where}: {count!r} images: allowed is a whole number")
    return int(count)


def _inside(name: str, base: str, outside: bool, where: str) -> str:
    """The path with slashes. Raises ListError where it leads out of the root, or can be no file's."""
    if "\\" in name:
        name = name.replace("\\", "/")
    if "\0" in name or not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
        raise ListError(f"{where}: {name!r} can be the name of no file")
    out = ".." in name and ".." in name.split("/")
    absolute = name[:1] == "/" or name[1:3] == ":/"
    if not outside and (out or absolute and not (base and name.startswith(base))):
        raise ListError(f"{where}: {name!r} leads out of {base or 'the root'}: allowed is a path that starts there, without ..; "
                        "outside=True allows any")
    return name


def _refuse_shifted(path: Path, entries: list[Entry], classes: _Classes) -> None:
    """Folders named as classes say what the labels should be: refuse a list where most say something else."""
    found = [(e, classes.names[folder]) for e in entries
             if (folder := e.path.rpartition("/")[0].rpartition("/")[2]) in classes.names]
    wrong = [(e, due) for e, due in found if e.label != due]
    if 2 * len(wrong) <= len(found):
        return
    entry, due = wrong[0]
    remedy = "take the numbers and the names from the same source"
    start = classes.first + entry.label - due
    if start in (0, 1) and len({e.label - due for e, due in found}) == 1:
        remedy = f"if the list counts from {start}, give first_label={start}"
    raise ListError(f"{path}: {entry.path!r} has the label {entry.label + classes.first}, and its folder is class "
                    f"{due + classes.first} in {classes.source}; so with {len(wrong)} of {len(found)} such entries: {remedy}")
