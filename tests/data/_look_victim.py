"""What stands in for the look at a file in test_preflight.py; a module of its own, so that a process imports no more."""

import os
import time


def look(path: str, total: int | None, frames: int) -> tuple[str, str]:
    name = os.path.basename(path)
    if name == "hangs.mp4":
        time.sleep(1000)
    if name == "aborts.mp4":
        os.abort()
    if name == "raises.mp4":
        raise IndexError("deep inside")
    return "sound", ""
