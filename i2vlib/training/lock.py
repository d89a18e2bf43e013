"""A lock that one process holds, with the holder's name beside it.

The operating system keeps the lock (flock, on Windows a locked byte), so it is free at the moment its holder is dead, kill -9
included, and nothing has to be removed by hand. The name is a text for the one who is refused. On a file system without locks a
warning says that nothing keeps a second process out, or filelock's own that a file with the holder's process stands in for it.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import warnings
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

LINGER = 10  # seconds that forked processes of a dead holder may keep its lock: those that decode end after 5


class Lock:
    """The lock file `path`, and `path`.json with the process that holds it: host, process, since, command."""

    def __init__(self, path: str | Path):
        self.path, self.name = Path(path), Path(f"{path}.json")
        self._lock = None

    def take(self) -> str:
        """Hold the lock, or return in words who does; "" once it is held, by this process until `release` or its end."""
        lock = FileLock(str(self.path))
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not self._dead():
                    return self.holder()
                lock.acquire(timeout=LINGER)
        except Timeout:
            return self.holder()
        except PermissionError:  # where nothing can be written, there is nothing to be held
            return ""
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", None) != errno.EROFS:
                warnings.warn(f"{self.path.parent}: this file system has no locks ({error}): nothing keeps a second process "
                              "out", stacklevel=2)
            return ""
        self._lock = lock
        with suppress(OSError):
            self.name.write_text(json.dumps({
                "host": socket.gethostname(), "process": os.getpid(), "command": shlex.join(sys.argv),
                "since": datetime.now().astimezone().isoformat(" ", "seconds")}))
        return ""

    def release(self) -> None:
        if self._lock is not None:
            with suppress(OSError):
                self.name.unlink()
            self._lock.release()
            self._lock = None

    def holder(self) -> str:
        """Who holds the lock, in words."""
        found = self._read()
        if not found:
            return "another process"
        return f"`{found['command']}` (process {found['process']} on {found['host']}, since {found['since']})"

    def _dead(self) -> bool:
        """Whether the holder was a process of this machine that is no more."""
        found = self._read()
        if not found or found["host"] != socket.gethostname() or os.name != "posix":
            return False
        try:
            os.kill(found["process"], 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        return False

    def _read(self) -> dict:
        try:
            found = json.loads(self.name.read_text())
            return found if {"host", "process", "since", "command"} <= set(found) else {}
        except (OSError, ValueError, TypeError):
            return {}
