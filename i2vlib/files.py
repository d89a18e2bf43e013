"""Files that are replaced by whole ones or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

FULL = {errno.ENOSPC: "no space left on the file system", errno.EFBIG: "no space left for a file of this size"}
if hasattr(errno, "EDQUOT"):  # not on Windows
    FULL[errno.EDQUOT] = "no space left in the quota"
WITHOUT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # what network and FUSE file systems say that cannot sync


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes `path` once the block has ended well and all of it is on disk.

    Until then it lies beside `path` as .NAME.<random>.part; a block that fails leaves neither it nor a changed `path`. The file
    has the rights that any new file has there: nothing is set afterwards, so a file system without chmod is as good. Raises
    OSError; one that says "no space left", with the path, where a disk or quota is full, whatever error the writer made of it.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            _sync(file)
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(part):
            error.filename = str(path)  # the name that was asked for: its folder is missing, or read-only
        number = _full(error)
        if number is None:
            raise
        raise OSError(number, f"{FULL[number]}; nothing was changed", str(path)) from error


def _sync(file: BinaryIO) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in WITHOUT_SYNC:
            raise


def _full(error: BaseException | None) -> int | None:
    """The number of the error behind `error` that says that a disk is full; torch.save turns it into one of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error.errno
        error = error.__cause__ or error.__context__
    return None
