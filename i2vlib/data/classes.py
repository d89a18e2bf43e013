"""The names of the classes, out of the file that lies beside a list; and text as people's files hold it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path

BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",  # before UTF-16's, which
        codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # the first of UTF-32 begins with
LINE = re.compile(r'[ \t]*"((?:[^"]|"")*)"[ \t]*(?:\r\n?|\n|\Z)|([^\r\n]*)(?:\r\n?|\n|\Z)')  # quoted, or as it stands
NUMBERED = re.compile(r"[ \t]*([0-9]{1,6})[ \t,;:.)]+(.+)")
PLAIN = re.compile(r'[^\s\d"#][^\r\n"]*(?<!\s)')  # what classes.txt holds without quotes


class ListError(ValueError):
    """A list file, or the names beside it, cannot be used. The message names file and line, and what is allowed."""


def read_text(path: Path, encoding: str = "") -> str:
    """The text of a file: by its byte order mark, else UTF-8, else in `encoding` if one is given. Raises ListError."""
    data = path.read_bytes()
    found = next((name for mark, name in BOMS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(found)
        reason = "it holds zero bytes, as UTF-16 without a byte order mark does" if "\0" in text else ""
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
    if not reason:
        return text
    if not encoding:
        raise ListError(f"{path}: is not a text file in UTF-8 ({reason}): save it as UTF-8, or give its encoding, such as "
                        "encoding=\"latin-1\" or \"utf-16-le\"")
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise ListError(f"{path}: is no text in the encoding {encoding!r} either ({error})") from error
    if "\0" in text:
        raise ListError(f"{path}: is no text in the encoding {encoding!r} either (it holds zero bytes)")
    return text


def quoted(name: str) -> str:
    """A name in quotes, as list files and classes.txt hold any name whatever."""
    return '"' + name.replace('"', '""') + '"'


def write_names(path: Path, names: Sequence[str]) -> None:
    """A classes.txt that reads back as these names. Raises UnicodeEncodeError for a name that is no Unicode text."""
    lines = (name if PLAIN.fullmatch(name) else quoted(name) for name in names)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")


def class_names(list_file: str | Path, encoding: str = "") -> list[str]:
    """The names of the classes, in the order of the labels; [] where no file beside the list has them. Raises ListError."""
    return numbered_names(Path(list_file), encoding)[0]


def numbered_names(list_file: Path, encoding: str = "") -> tuple[list[str], int, Path]:
    """(names in order, the number that lists give to the first, the file), of the first of these that lies beside the list.

    classes.txt: a name a line, numbers from 0. classInd.txt of UCF101: `1 ApplyEyeMakeup`, numbers as they stand there.
    Beside a list in JSON also SSv2's labels.json, or the one file whose name ends so: {name: number}, from 0.
    """
    beside, indexed = list_file.with_name("classes.txt"), list_file.with_name("classInd.txt")
    if beside.is_file():
        names, first = _plain_names(beside, read_text(beside, encoding)), 0
    elif indexed.is_file():
        beside = indexed
        names, first = _indexed_names(beside, read_text(beside, encoding))
    else:
        tables = sorted(list_file.parent.glob("*labels.json")) if list_file.suffix.lower() in (".json", ".jsonl") else []
        if len(tables) != 1:
            return [], 0, beside
        beside = tables[0]
        names, first = _json_names(beside, read_text(beside, encoding)), 0
    seen: dict[str, int] = {}
    for number, name in enumerate(names, first):
        if name in seen:
            raise ListError(f"{beside}: the name {name!r} stands for {seen[name]} and for {number}: every class needs its own")
        seen[name] = number
    if not names:
        raise ListError(f"{beside}: holds no names: write one a line, in the order of the labels, or take the file away")
    return names, first, beside


def _lines(text: str) -> list[tuple[str, bool]]:
    """(name, whether it stood in quotes) of each line, to the last that is not blank."""
    found = [(line[1].replace('""', '"'), True) if line[1] is not None else (line[2].strip(" \t"), False)
             for line in LINE.finditer(text)]
    while found and not found[-1][0].strip() and not found[-1][1]:
        found.pop()
    return found


def _plain_names(path: Path, text: str) -> list[str]:
    lines = _lines(text)
    for number, (name, exact) in enumerate(lines, 1):
        if not name.strip():
            raise ListError(f"{path}, line {number}: is blank, and names count by their lines: take the blank line out, or name "
                            "the class that it stands for")
        if name[0] in '#"' and not exact:
            raise ListError(f"{path}, line {number}: {name!r}: a name that begins with {name[0]} is written in quotes, each "
                            f"quote in it twice: {quoted(name)}; comments are not understood")
    numbers = [None if exact or not (found := NUMBERED.fullmatch(name)) else int(found[1]) for name, exact in lines]
    for start in (0, 1):  # 1: below a header
        rest = numbers[start:]
        if len(rest) >= 2 + start and rest[0] in (0, 1) and rest == list(range(rest[0], rest[0] + len(rest))):
            raise ListError(f"{path}: its lines are numbered from {rest[0]}: take the numbers out, a name a line; or call the "
                            "file classInd.txt, whose numbers are the labels of the list; or, if the numbers belong to the "
                            f"names, write them in quotes: {quoted(lines[start][0])}")
    return [name for name, _ in lines]


def _indexed_names(path: Path, text: str) -> tuple[list[str], int]:
    names, first = [], 0
    for number, (line, _) in enumerate(_lines(text), 1):
        found = NUMBERED.fullmatch(line)
        first = int(found[1]) if found and not names else first
        if not found or int(found[1]) != first + len(names):
            raise ListError(f"{path}, line {number}: {line!r}: expected is `{first + len(names) or 1} name`, each number by one "
                            "more than that before")
        names.append(found[2].strip(" \t"))
    return names, first


def _json_names(path: Path, text: str) -> list[str]:
    try:
        given = json.loads(text)
        table = {int(str(number)): str(name) for name, number in given.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ListError(f"{path}: is not an object of names and numbers, as SSv2's labels.json ({error})") from error
    if sorted(table) != list(range(len(given))):
        raise ListError(f"{path}: the numbers of its {len(given)} names are not 0 to {len(given) - 1}, each once")
    return [table[number] for number in sorted(table)]
