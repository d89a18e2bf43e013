"""When too much of a set cannot be read: a run or a test that went on would end well, on next to nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from i2vlib.data.loading import clip_path

FIRST = 32  # clips of which one must be readable, whatever share is allowed
LOOK_UP = 1000  # files looked up before the first step, spread over the list


class UnreadableError(ValueError):
    """More of a set than is allowed cannot be read. The message names its root, the first files and what to look at."""


def check_found(dataset, share: float, name: str) -> None:
    """Raise UnreadableError if more than `share` of the listed files are not there; for a set with `entries` and a `root`.

    Looks at LOOK_UP of them, at every nth of a longer list: seconds on a network drive, and a wrong root is found before a step.
    """
    entries, root = getattr(dataset, "entries", None), getattr(dataset, "root", None)
    if not entries or root is None:
        return
    looked = range(0, len(entries), -(-len(entries) // LOOK_UP))
    missing = [i for i in looked if not os.path.exists(clip_path(dataset, i))]
    if len(missing) > share * len(looked):
        bad = [(clip_path(dataset, i), "there is no such file") for i in missing]
        raise UnreadableError(f"{len(missing)} of {len(looked)} files of the {name} that were looked up are not there, more than "
                                f"{words(share)}. {advice(dataset, bad)}")


def too_many(dataset, bad: Sequence[tuple[str, str]], tried: int, share: float, done: bool) -> str:
    """Why a set cannot be gone on with, or "".

    bad: (path, reason) of each clip out of `tried` that could not be read. share: what is allowed, 0 to 1, of the whole set and,
    when `done`, of the clips tried.
    """
    tried = min(tried, len(dataset))
    if bad and len(bad) >= tried and (done or tried >= min(FIRST, len(dataset))):
        return f"none of the {tried} clips could be read. {advice(dataset, bad)}"
    if len(bad) > share * (tried if done else len(dataset)):
        return f"{len(bad)} of {tried} clips could not be read, more than {words(share)}. {advice(dataset, bad)}"
    return ""


def words(share: float) -> str:
    return f"the share of {share:g} that max_unreadable allows"


def advice(dataset, bad: Sequence[tuple[str, str]], most: int = 3) -> str:
    """The root, the first of the files with their reasons, and what to look at."""
    root = getattr(dataset, "root", None)
    under = f"Under the root {root}: " if root is not None else ""
    shown = "; ".join(f"{path}: {reason}" for path, reason in bad[:most])
    return f"{under}{shown}{' ...' if len(bad) > most else ''}. {_cause(Path(root or ''), bad[0][0], bad[0][1])}"


def _cause(root: Path, path: str, reason: str) -> str:
    """What is wrong with the first path, where another spelling of it is there; else what to look at."""
    name = os.path.relpath(path, root) if os.path.isabs(path) == root.is_absolute() else path
    spellings = {"with / in place of \\": name.replace("\\", "/"), "without its quotes": name.replace('"', "").replace("'", ""),
                 "without spaces around it": name.strip(), "without its folder": Path(name.replace("\\", "/")).name}
    spellings |= {f"ending in {end}": str(Path(name).with_suffix(end)) for end in (".mp4", ".webm", ".avi", ".mkv")}
    if not os.path.exists(path):
        for how, other in spellings.items():
            if other != name and (root / other).exists():
                return f"Written {how} it is there: mend the list ({other})"
    return ("Look at the root, which the paths are relative to; at backslashes, which part folders on Windows only; at the "
            "quotes of a CSV file; at the permissions and the format of the files")
