"""Which processes are still there."""

from __future__ import annotations

import psutil


def alive(process: int) -> bool:
    """Whether a process runs: one that has ended, and is only kept for whoever started it, does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
