"""Files that a browser sent, out of an upload button's value, and as files on disk for as long as they are looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from i2vlib.data.video import VideoError


def uploaded_files(value: Mapping | Sequence) -> list[tuple[str, bytes]]:
    """(name, content) of each file in the value of an ipywidgets FileUpload.

    Version 7 has {name: {"metadata": ..., "content": bytes}}, version 8 ({"name": ..., "content": memoryview}, ...). Raises
    TypeError for anything else.
    """
    try:
        pairs = value.items() if isinstance(value, Mapping) else [(file["name"], file) for file in value]
        return [(str(name), bytes(file["content"])) for name, file in pairs]
    except (TypeError, KeyError, AttributeError) as error:
        raise TypeError(f"{type(value).__name__} is not the value of a FileUpload of ipywidgets 7 or 8") from error


def answer_upload(name: str, content: bytes, answer: Callable[[Path], object]) -> object:
    """answer(path of a temporary file with this content), which is gone afterwards. A VideoError names the upload."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    with tempfile.TemporaryDirectory() as folder:
        suffix = Path(name).suffix
        path = Path(folder) / f"upload{suffix if len(suffix) < 9 and suffix.isascii() else ''}"  # the user's name may be anything
        path.write_bytes(content)
        try:
            return answer(path)
        except VideoError as error:
            raise VideoError(name or "the upload", error.reason) from error
