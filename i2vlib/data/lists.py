"""List files: which videos a set holds, and under which labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path


class ListError(ValueError):
    """A list file cannot be used. The message names the file and the line."""


@dataclass(frozen=True)
class Entry:
    """A line of a list file. total_frames: None for a video file, the number of images for a folder of frames."""

    path: str
    label: int
    total_frames: int | None = None


def read_list(path: str | Path) -> list[Entry]:
    """The entries of a list file.

    Lines are `relative/path label` (K400, SSv2, UCF101, HMDB51) or, for folders of frames, `folder total_frames label`;
    between the fields stand spaces, a tab or a comma, and paths may hold spaces. A .json file is Diving48's: records
    with vid_name and label, whose videos are `vid_name.mp4`. Raises ListError.
    """
    path = Path(path)
    if not path.is_file():
        raise ListError(f"{path}: there is no such list file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ListError(f"{path}: is not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    entries = _records(path, text) if path.suffix == ".json" else _lines(path, text)
    if not entries:
        raise ListError(f"{path}: holds no entries; expected is `relative/path label` a line")
    return entries


def _lines(path: Path, text: str) -> list[Entry]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = re.fullmatch(r"\s*(.*[^\s,])\s*[\s,]\s*([^\s,]+)\s*", line)
        if not fields:
            raise ListError(f"{path}, line {number}: {line.strip()!r} has no label; expected is `relative/path label`")
        name, label = fields.groups()
        counted = re.fullmatch(r"(.*[^\s,])\s*[\s,]\s*(\d+)", name)
        name, total = (counted[1], int(counted[2])) if counted else (name, None)
        entries.append(Entry(name, _label(label, f"{path}, line {number}"), total))
    return entries


def _records(path: Path, text: str) -> list[Entry]:
    try:
        records = json.loads(text)
        named = [(str(r["vid_name"]), r["label"]) for r in records]
    except (ValueError, KeyError, TypeError) as error:
        raise ListError(f"{path}: is not a list of records with vid_name and label ({error})") from error
    return [Entry(f"{name}.mp4", _label(label, f"{path}, record {i}")) for i, (name, label) in enumerate(named, 1)]


def _label(text: str | int, where: str) -> int:
    if not re.fullmatch(r"\d+", str(text)):
        raise ListError(f"{where}: label {text!r}: allowed is a whole number, 0 or more")
    return int(text)


def class_names(list_file: Path) -> list[str]:
    """The names in the classes.txt beside a list file, in the order of the labels; [] where there is none."""
    beside = list_file.with_name("classes.txt")
    return beside.read_text(encoding="utf-8").splitlines() if beside.is_file() else []
