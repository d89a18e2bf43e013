"""A look at every file of a list before a run: `python -m i2vlib.data.preflight LIST --root DIR --out cleaned.txt`.

Each file is opened, its first, middle and last frame are read, and all of it is decoded under the strict check
(i2vlib.data.strict), in processes that may hang or die. What was found goes into a report, a line of JSON a file, at once:
a second call goes on from there. Files that fail are named with the reason and left out of the cleaned list, which has the
other lines as they stand. Ends with 0 (all files are sound), 1 (some are not), 2 (the list cannot be used or nothing is
left of it) or 130 (stopped by Ctrl-C).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import queue
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from tqdm.auto import tqdm

from i2vlib.data.classes import ListError, numbered_names, read_text
from i2vlib.data.isolated import Isolated, IsolatedError
from i2vlib.data.list_formats import rows, without
from i2vlib.data.lists import Entry, read_list
from i2vlib.data.strict import damage, fault

CHECK = 1  # the number of the check: one more when it finds more, so that old reports are not believed
SECONDS = 600.0  # for one file
SOUND, MISSING, UNREADABLE, DAMAGED, HUNG, CRASHED = KINDS = ("sound", "missing", "unreadable", "damaged", "hung", "crashed")


def preflight(entries: Sequence[Entry], root: str | Path, report: str | Path, *, frames: int = 1, jobs: int = 2,
              seconds: float = SECONDS, progress: bool = True) -> dict[str, tuple[str, str]]:
    """path -> (kind, reason) of every file of a list, in its order; kind is one of KINDS, the reason of sound ones "".

    frames: how many a file must have. report: a file that is added to; what it says of a file whose size and time are still
    the same is believed, so delete it to have all looked at anew. seconds: for one file. Prints a line a file that fails.
    """
    root, report = Path(root), Path(report)
    stamps = {e.path: _stamp(root, e, frames) for e in entries}
    known = _known(report)
    found = {path: (MISSING, "there is no such file") for path, stamp in stamps.items() if stamp is None}
    found |= {path: tuple(known[path][1]) for path, stamp in stamps.items() if path in known and known[path][0] == stamp}
    for path, what in found.items():
        _name(path, *what)
    todo = [e for e in {e.path: e for e in entries}.values() if e.path not in found]
    with open(report, "a+b") as log, tqdm(total=len(stamps), initial=len(found), unit="file", disable=not progress) as bar:
        _end_line(log)
        for path, kind, reason in _looked_at(todo, root, frames, jobs, seconds):
            log.write(json.dumps({"path": path, "stamp": stamps[path], "found": [kind, reason]}).encode() + b"\n")
            log.flush()
            found[path] = kind, reason
            _name(path, kind, reason)
            bar.update()
    return {path: found[path] for path in stamps}


def look(path: str, total: int | None, frames: int) -> tuple[str, str]:
    """(kind, reason) of one video, or of a folder of `total` images. May hang or end its process."""
    reason = fault(path, frames, total)
    if reason:
        return UNREADABLE, reason
    reason = damage(path, total)
    return (DAMAGED, reason) if reason else (SOUND, "")


def _looked_at(entries: Sequence[Entry], root: Path, frames: int, jobs: int, seconds: float) -> Iterator[tuple[str, str, str]]:
    """(path, kind, reason) of each, as they come: `jobs` threads with a process each."""
    todo, done, stop = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
    for entry in entries:
        todo.put(entry)

    def work() -> None:
        with Isolated(seconds) as call:
            while not stop.is_set():
                try:
                    entry = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((entry.path, *call(look, str(root / entry.path), entry.total_frames, frames)))
                except IsolatedError as error:
                    kind = UNREADABLE if not error.died else HUNG if "gave no answer" in error.reason else CRASHED
                    done.put((entry.path, kind, error.reason))
                except BaseException as error:
                    done.put(error)
                    return

    for _ in range(min(jobs, len(entries))):
        threading.Thread(target=work, daemon=True).start()  # a daemon: what it is at is not waited for after Ctrl-C
    try:
        for _ in entries:
            yield _next(done)
    finally:
        stop.set()


def _next(done: queue.SimpleQueue) -> tuple[str, str, str]:
    while True:
        try:
            answer = done.get(timeout=1)  # Ctrl-C gets through between two waits, on Windows too
        except queue.Empty:
            continue
        if isinstance(answer, BaseException):
            raise answer
        return answer


# ---- the report ----

def _stamp(root: Path, entry: Entry, frames: int) -> list | None:
    """What must be the same for an old finding to hold; None where there is no file."""
    path = root / entry.path
    try:
        if entry.total_frames is None:
            states = [path.stat()]
        else:
            with os.scandir(path) as images:
                states = [image.stat() for image in images]
    except OSError:
        return None
    return [CHECK, frames, entry.total_frames, sum(s.st_size for s in states), max((s.st_mtime_ns for s in states), default=0)]


def _known(report: Path) -> dict[str, tuple[list, list]]:
    """path -> (stamp, found) by a report; of two lines the later one, and a line cut off by the end of a process is none."""
    known = {}
    for line in report.read_bytes().splitlines() if report.exists() else ():
        try:
            row = json.loads(line)
            known[row["path"]] = row["stamp"], row["found"]
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _end_line(log) -> None:
    if log.tell() and (log.seek(-1, os.SEEK_END), log.read(1))[1] != b"\n":
        log.write(b"\n")


def _name(path: str, kind: str, reason: str) -> None:
    if kind != SOUND:
        tqdm.write(f"{kind}: {path}: {reason}")


# ---- the command ----

def cleaned(list_file: Path, left_out: Set[str], out: Path, **how) -> int:
    """Write a list without the entries of these paths, in its own form, and the file of names beside it; how many stay.

    how: what `read_list` takes. Raises ListError where nothing is left, or where what is written would be read otherwise.
    """
    entries, text = read_list(list_file, **how), read_text(list_file, how.get("encoding", ""))
    found, _ = rows(list_file, text, how.get("ending", ""))
    gone = {row[0] for row, entry in zip(found, entries, strict=True) if entry.path in left_out}
    kept = [entry for entry in entries if entry.path not in left_out]
    if not kept:
        raise ListError(f"{list_file}: none of its files can be used")
    names = numbered_names(list_file, how.get("encoding", ""))[2]
    beside = out.with_name(names.name)
    if names.is_file() and out.parent.resolve() != list_file.parent.resolve():
        if beside.exists() and beside.read_bytes() != names.read_bytes():
            raise ListError(f"{beside}: holds other names than {names}: give the cleaned list a folder of its own")
        shutil.copyfile(names, beside)
    # not files.whole_file: what is read back must end as the list does, for that tells its form
    part = out.with_name(f"cleaning {os.getpid()} {out.name}")
    try:
        part.write_text(without(list_file, text, gone), encoding="utf-8", newline="")
        if read_list(part, **how) != kept:
            raise ListError(f"{list_file}: cannot be cleaned in its own form: write its entries as `relative/path label`")
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return len(kept)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m i2vlib.data.preflight", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="the folder that the paths in the list start from")
    parser.add_argument("--out", type=Path, required=True, help="the cleaned list, written when all files are looked at")
    parser.add_argument("--report", type=Path, help="a line of JSON a file; default: beside the cleaned list")
    parser.add_argument("--frames", type=int, default=1, help="how many a file must have: those of a clip")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that decode")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one file")
    parser.add_argument("--keep-damaged", action="store_true", help="leave in what can be read and is damaged inside")
    parser.add_argument("--first-label", type=int, help="the number of the first class in the list")
    parser.add_argument("--outside", action="store_true", help="let paths lead out of the root")
    for name in ("encoding", "ending"):
        parser.add_argument(f"--{name}", default="", help="as read_list takes it")
    given = parser.parse_args(arguments)
    how = {"root": given.root, "outside": given.outside, "first_label": given.first_label, "encoding": given.encoding,
           "ending": given.ending}
    report = given.report or given.out.with_name(f"{given.out.name}.report.jsonl")
    try:
        if not given.root.is_dir():
            raise ListError(f"{given.root}: there is no such folder")
        entries = read_list(given.list, **how)
        found = preflight(entries, given.root, report, frames=given.frames, jobs=given.jobs, seconds=given.seconds)
        count = Counter(kind for kind, _ in found.values())
        print(f"{len(found)} files: " + ", ".join(f"{count[kind]} {kind}" for kind in KINDS))
        good = {SOUND, DAMAGED} if given.keep_damaged else {SOUND}
        left_out = {path for path, (kind, _) in found.items() if kind not in good}
        print(f"{given.out}: {cleaned(given.list, left_out, given.out, **how)} of {len(entries)} entries; report: {report}")
    except (ListError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {report} holds what was found: the same call goes on from there", file=sys.stderr)
        return 130
    return int(count[SOUND] < len(found))


if __name__ == "__main__":
    sys.exit(importlib.import_module("i2vlib.data.preflight").main())  # functions of __main__ do not travel to other processes
