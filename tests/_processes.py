"""Other processes: whether they are still there, and waiting until they have come or gone."""

from __future__ import annotations

import time

import psutil


def alive(process: int) -> bool:
    """Whether a process runs: one that has ended, and is only kept for whoever started it, does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, seconds: float = 60.0):
    """What `condition()` returns as soon as it is true; AssertionError if that takes longer."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"still not so after {seconds} s"
        time.sleep(0.05)
    return found
