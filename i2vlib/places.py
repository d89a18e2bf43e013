"""Where the library keeps what it makes: rendered clips, runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def kept_in(name: str) -> Path:
    """The folder `name`, such as data/mini/motion or runs, of the repository around this package; else of ~/.cache/i2vlib.

    The repository's is taken where it is there already or can be made: not in a course that is mounted read-only, nor where the
    package was installed without one. Nothing is made here.
    """
    inside = REPOSITORY / name
    course = (REPOSITORY / "notebooks").is_dir()
    return inside if course and (inside.exists() or _can_be_made(inside)) else Path.home() / ".cache" / "i2vlib" / name


def _can_be_made(folder: Path) -> bool:
    nearest = next(p for p in folder.parents if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):  # what a mode says does not hold for root, nor on every file system
            return True
    except OSError:
        return False
