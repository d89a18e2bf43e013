"""AVA's files: boxes and their actions by the second, seconds to leave out, a person detector's boxes, the evaluated actions.

Gu et al., arXiv 1705.08421; the files are ava_{train,val}_v2.{1,2}.csv, ava_{train,val}_excluded_timestamps_v2.{1,2}.csv and
ava_action_list_v2.*_for_activitynet_*.pbtxt. Boxes of people at test time come as a CSV file of the same columns.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from i2vlib.data.classes import ListError, read_text

COLUMNS = ("video", "second", "x1", "y1", "x2", "y2", "action", "person")
ITEM = re.compile(r"\b(?:item|label)\s*\{([^}]*)\}")
NAME, NUMBER = re.compile(r'\bname:\s*"([^"]*)"'), re.compile(r"\b(?:label_)?id:\s*(\d+)")

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 as shares of the frame's width and height, from its upper left


@dataclass(frozen=True)
class Keyframe:
    """The boxes at one second of a video. Of each its actions, numbers from 1; none where a detector found it."""

    video: str
    second: float
    boxes: tuple[Box, ...]
    actions: tuple[tuple[int, ...], ...]


def read_boxes(path: str | Path, *, excluded: str | Path | None = None, classes: int = 80) -> list[Keyframe]:
    """The keyframes of an annotation file, in the order in which they first stand there.

    A line is `video,second,x1,y1,x2,y2,action,person` (person may be missing): a box with k actions stands in k lines.
    excluded: a file of `video,second` that are left out. Raises ListError, which names file, line and field and says what is
    allowed: a missing file, a wrong number of fields, a coordinate outside 0..1, x2 <= x1 or y2 <= y1, an action outside
    1..classes, nothing left.
    """
    left_out = _seconds(excluded) if excluded else set()
    found: dict[tuple[str, float], dict[tuple[Box, str], set[int]]] = {}
    for where, fields in _rows(path, (7, 8)):
        key, box = (fields[0], _number(where, "second", fields[1])), _box(where, fields)
        action = _whole(where, fields[6], classes)
        if key not in left_out:
            found.setdefault(key, {}).setdefault((box, "".join(fields[7:])), set()).add(action)
    return _keyframes(path, {key: {box: sorted(ids) for box, ids in boxes.items()} for key, boxes in found.items()})


def read_proposals(path: str | Path, least_score: float = 0.8, *, excluded: str | Path | None = None) -> list[Keyframe]:
    """A person detector's boxes of at least that score: lines of `video,second,x1,y1,x2,y2,,score`, as in SlowFast's data.

    They may reach out of the frame, and are cut at its edge. excluded: as for read_boxes. A pickled file is not read, since it
    could run code. Raises ListError as read_boxes does.
    """
    left_out = _seconds(excluded) if excluded else set()
    found: dict[tuple[str, float], dict[tuple[Box, str], list[int]]] = {}
    for where, fields in _rows(path, (8,)):
        key, score = (fields[0], _number(where, "second", fields[1])), _number(where, "score", fields[7])
        box = _box(where, fields, cut=True)
        if score >= least_score and key not in left_out:
            found.setdefault(key, {})[box, ""] = []
    return _keyframes(path, found)


def read_actions(path: str | Path) -> dict[int, str]:
    """Number -> name of the actions in a .pbtxt list: those that the benchmark evaluates, 60 of AVA's 80. Raises ListError."""
    found: dict[int, str] = {}
    for item in ITEM.finditer(_text(path)):
        name, number = NAME.search(item[1]), NUMBER.search(item[1])
        if not name or not number:
            raise ListError(f"{path}: {' '.join(item[0].split())[:200]!r}: expected is `item {{ name: \"...\" id: 1 }}`")
        if found.setdefault(int(number[1]), name[1]) != name[1]:
            raise ListError(f"{path}: action {number[1]} is {found[int(number[1])]!r} and {name[1]!r}: allowed is one name")
    if not found:
        raise ListError(f"{path}: holds no actions; expected is `item {{ name: \"...\" id: 1 }}`")
    return found


def _keyframes(path: str | Path, found: dict) -> list[Keyframe]:
    if not found:
        raise ListError(f"{path}: no box is left in it; a line is `{','.join(COLUMNS)}`")
    return [Keyframe(video, second, tuple(box for box, _ in boxes), tuple(map(tuple, boxes.values())))
            for (video, second), boxes in found.items()]


def _text(path: str | Path) -> str:
    if not Path(path).is_file():
        raise ListError(f"{path}: there is no such file")
    return read_text(Path(path))


def _rows(path: str | Path, lengths: tuple[int, ...]) -> Iterator[tuple[str, list[str]]]:
    """Where a line stands, and its fields."""
    for number, fields in enumerate(csv.reader(_text(path).splitlines(), skipinitialspace=True), 1):
        if fields:
            where = f"{path}, line {number}"
            if len(fields) not in lengths or not fields[0]:
                raise ListError(f"{where}: {','.join(fields)[:200]!r} has {len(fields)} fields: allowed is "
                                f"{' or '.join(map(str, lengths))}, {','.join(COLUMNS)}")
            yield where, [field.strip() for field in fields]


def _seconds(path: str | Path) -> set[tuple[str, float]]:
    return {(video, _number(where, "second", second)) for where, (video, second) in _rows(path, (2,))}


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ListError(f"{where}: {name} = {text!r}: allowed is a number of 0 or more")
    return value


def _whole(where: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= most):
        raise ListError(f"{where}: action = {text!r}: allowed is a whole number from 1 to {most}")
    return int(text)


def _box(where: str, fields: list[str], cut: bool = False) -> Box:
    names = COLUMNS[2:6]
    if cut:
        values = [min(max(_signed(where, n, t), 0.0), 1.0) for n, t in zip(names, fields[2:6], strict=True)]
    else:
        values = [_signed(where, n, t) for n, t in zip(names, fields[2:6], strict=True)]
    for name, value in zip(names, values, strict=True):
        if not 0 <= value <= 1:
            raise ListError(f"{where}: {name} = {value:g}: allowed is 0 to 1, a share of the frame's width or height")
    x1, y1, x2, y2 = values
    for name, low, high in (("x", x1, x2), ("y", y1, y2)):
        if high <= low:
            raise ListError(f"{where}: {name}2 = {high:g}: allowed is more than {name}1 = {low:g}")
    return x1, y1, x2, y2


def _signed(where: str, name: str, text: str) -> float:
    return math.copysign(_number(where, name, text.removeprefix("-")), -1.0 if text.startswith("-") else 1.0)
