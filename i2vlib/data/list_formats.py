"""The forms of list files, read into rows: plain lines, CSV with quotes or a header, records of JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Set
from pathlib import Path

from i2vlib.data.classes import ListError

VIDEOS = "mp4 m4v mov mkv webm avi mpg mpeg mts m2ts ts wmv flv f4v 3gp ogv vob asf divx".split()
BEHIND = re.compile(rf"(.*\.(?:{'|'.join(VIDEOS)}))[ \t]*[ \t,;][ \t,;]*(.+)", re.IGNORECASE | re.DOTALL)  # a video, what follows
QUOTED = re.compile(r'^[ \t]*"(?:[^"]|"")*"[ \t]*([,; \t]|$)|([,;\t])[ ]*"', re.MULTILINE)
SPLIT_FLAG = re.compile(r"[^/\\\r\n]+ [012][ \t]+")  # a line of HMDB51's split files
PATHS = ("path", "video_path", "clip_path", "file_path", "filepath", "filename", "file_name", "file", "video", "vid_name")
LABELS = ("label", "label_id", "class", "class_id", "target")
FRAMES = ("total_frames", "num_frames", "frames")
FORM = "expected is `relative/path label`, with a blank, a tab, a comma or a semicolon between"

Row = tuple[int, str, "str | None", "str | None"]  # number of the line or record, path, label, number of images


def is_video(path: str) -> bool:
    """Whether the path ends as video files do."""
    _, dot, ending = path.rpartition(".")
    return bool(dot) and ending.lower() in VIDEOS


def rows(path: Path, text: str, ending: str) -> tuple[Iterator[Row], str]:
    """The rows of a list file with this text, and what its rows are called, "line" or "record". Raises ListError.

    ending: of videos that are named without one.
    """
    start = text.lstrip()
    if _is_json(path, text):
        return _records(path, text, ending), "record"
    lines = [line for line in start.split("\n", 64)[:64] if line.strip()]  # the first ones tell
    if re.search(r"_test_split[1-3]\.txt\Z", path.name) or (
            lines and all(SPLIT_FLAG.fullmatch(line.rstrip("\r")) for line in lines)):
        raise ListError(f"{path}: looks like a split file of HMDB51, whose 1, 2 and 0 mean train, test and unused, and not "
                        "classes: write the clips with 1 into a training list and those with 2 into a test list, as "
                        "`class/clip.avi label`; if these are labels, take the blanks at the ends of the lines away")
    header = lines[0] if lines else ""
    for delimiter in ",;\t ":
        names = [name.strip(' \t\r"').lower() for name in header.split(delimiter)]
        if (set(names) & set(PATHS) and set(names) & set(LABELS)) or "youtube_id" in names:
            return _table(path, text, delimiter, names, ending), "line"
    if found := '"' in text and QUOTED.search(text):
        return _table(path, text, found[1] or found[2] or ",", [], ending), "line"
    return _plain(path, text), "line"


def _plain(path: Path, text: str) -> Iterator[Row]:
    """Lines without quotes, split from the right, so that a path may hold blanks and commas."""
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        line = line.strip(" \t")
        if not line:
            continue
        if line[0] in '#"':
            raise ListError(f"{path}, line {number}: {line[:200]!r}: a path that begins with {line[0]} is written in quotes, "
                            "each quote in it twice; comments are not understood: take them out")
        name, label = _cut(line)
        count = None
        if name[-1:] in (",", ";"):
            raise ListError(f"{path}, line {number}: {line[:200]!r} has an empty field; {FORM}")
        if not name or "." in label and is_video(line):  # a label never ends like a video
            name, label = line, None
        elif not is_video(name):
            folder, images = _cut(name)
            if found := BEHIND.fullmatch(line):  # `a.mp4 120 7`, `a.mp4 riding a bike`
                name, label = found.groups()
            elif folder and images.isdecimal():
                name, count = folder, images
        yield number, name, label, count


def _cut(line: str) -> tuple[str, str]:
    """What stands before and behind the last separator: blanks with at most one comma or semicolon; ("", line) without one."""
    at = max(line.rfind(" "), line.rfind("\t"), line.rfind(","), line.rfind(";"))
    before, behind = line[:max(at, 0)].rstrip(" \t"), line[at + 1:]
    if at > 0 and line[at] in " \t" and before[-1:] in (",", ";"):
        before = before[:-1].rstrip(" \t")
    return before, behind


def _table(path: Path, text: str, delimiter: str, header: list[str], ending: str) -> Iterator[Row]:
    """Rows of CSV: path and label, or path, number of images and label; or what its header says."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    last = 0
    try:
        for fields in reader:
            where, last = f"{path}, line {last + 1}", reader.line_num
            while fields and not fields[-1].strip():
                fields.pop()
            if not fields or (header and [f.strip().lower() for f in fields] == header):
                continue
            if header:
                if len(fields) > len(header):
                    raise ListError(f"{where}: has {len(fields)} fields, the header names {len(header)}: a path that holds "
                                    f"{delimiter!r} is written in quotes")
                yield last, *_record(where, dict(zip(header, fields, strict=False)), ending)
                continue
            if len(fields) > 3 or len(fields) == 3 and not fields[1].isdecimal():
                raise ListError(f"{where}: has the fields {fields}: allowed is path and label, or for a folder of images path, "
                                f"number and label; a path that holds {delimiter!r} is written in quotes")
            if not fields[0]:
                raise ListError(f"{where}: has no path; {FORM}")
            if len(fields) == 3 and is_video(fields[0]):
                fields = [fields[0], " ".join(fields[1:])]
            yield last, fields[0], fields[-1].strip() if len(fields) > 1 else None, fields[1] if len(fields) == 3 else None
    except csv.Error as error:
        raise ListError(f"{path}, from line {last + 1} on: is not quoted as CSV is ({error}): a path that holds quotes stands in "
                        "quotes, with each of its own twice") from error


def without(path: Path, text: str, places: Set[int]) -> str:
    """The text of a list file without the rows of these numbers (those of `rows`): all others as they stand."""
    if _is_json(path, text):
        return json.dumps([r for number, r in enumerate(_parsed(path, text), 1) if number not in places], ensure_ascii=False)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in places)


def _is_json(path: Path, text: str) -> bool:
    return path.suffix.lower() in (".json", ".jsonl") or text.lstrip().startswith(("[{", '{"'))


def _parsed(path: Path, text: str) -> list[dict]:
    """A list of JSON records, or one record a line."""
    try:
        records = json.loads(text)
        records = [records] if isinstance(records, dict) and "label" in records else records
    except (ValueError, RecursionError) as error:
        try:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
        except (ValueError, RecursionError):
            raise ListError(f"{path}: is not JSON ({error})") from error
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise ListError(f"{path}: is not a list of records, such as SSv2's with id and template or Diving48's with vid_name and "
                        "label")
    return records


def _records(path: Path, text: str, ending: str) -> Iterator[Row]:
    for number, record in enumerate(_parsed(path, text), 1):
        fields = {key: json.dumps(value) if isinstance(value, (bool, list, dict)) else str(value)
                  for key, value in record.items() if value is not None}
        yield number, *_record(f"{path}, record {number}", fields, ending)


def _record(where: str, row: dict[str, str], ending: str) -> tuple[str, str, str | None]:
    """(path, label, number of images) of a record whose fields have names. Which these are depends on where it comes from."""
    count = None
    if "template" in row and "id" in row:  # SSv2: its label is the caption of one clip
        return row["id"] + (ending or ".webm"), re.sub(r"[\[\]]", "", row["template"]), None
    if "youtube_id" in row:  # Kinetics, in the names of the clips that the CVD Foundation keeps
        try:
            start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
        except (KeyError, ValueError, OverflowError) as error:
            raise ListError(f"{where}: needs time_start and time_end in seconds beside youtube_id ({error})") from error
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}{ending or '.mp4'}"
    else:
        named = [key for key in PATHS if row.get(key)]
        if len(named) != 1:
            raise ListError(f"{where}: has {' and '.join(named) or 'no field'} for the path: allowed is exactly one of "
                            f"{', '.join(PATHS)}; SSv2's records have id and template")
        name = row[named[0]]
        name += (ending or ".mp4") if named == ["vid_name"] and not is_video(name) else ""
        count = next((row[key] for key in FRAMES if row.get(key)), None) if not is_video(name) else None
    labels = [key for key in LABELS if row.get(key)]
    if len(labels) != 1:
        raise ListError(f"{where}: has {' and '.join(labels) or 'no field'} for the label: allowed is exactly one of "
                        f"{', '.join(LABELS)}; test sets that come without labels cannot be used")
    return name, row[labels[0]].strip(), count
