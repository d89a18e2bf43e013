"""Frames out of video files, exactly those asked for, or an error that names the file and the reason.

decord decodes where it has a wheel, PyAV elsewhere and what decord cannot read (AV1, a few frame widths).
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

try:
    import decord
except ImportError:  # no wheel for this platform: Apple silicon, ARM Linux
    decord = None

# What a decoder says on stderr about a broken file, a VideoError says with the file's name.
av.logging.set_level(av.logging.PANIC)
if decord:
    decord.logging.set_level(decord.logging.QUIET)


DAMAGED = "is damaged: a frame cannot be decoded"


class VideoError(RuntimeError):
    """A video cannot give the frames asked for. The message is `path: reason`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):  # so that it travels from a worker process
        return type(self), (self.path, self.reason)


class VideoFile:
    """One open video: `with VideoFile(path) as v: v.frames([0, len(v) - 1])`.

    Open it in the process that reads it and close it after the clip: a decord reader does not survive a fork and holds
    a thread and tens of megabytes. len(v) is the number of presentable frames. Raises VideoError.
    """

    def __init__(self, path: str | Path, decoder: str | None = None) -> None:
        """decoder: "decord" or "pyav"; default is decord where it is installed and able, else PyAV."""
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise VideoError(path, "is a folder" if os.path.isdir(self.path) else "there is no such file")
        if os.path.getsize(self.path) == 0:
            raise VideoError(path, "is empty (0 bytes)")
        self._decoder = self._open(decoder or ("decord" if decord else "pyav"), fall_back=decoder is None)

    def _open(self, decoder: str, fall_back: bool) -> _Decord | _PyAV:
        if decoder == "decord":
            try:
                return _Decord(self.path)
            except _Unable as error:
                if not fall_back:
                    raise VideoError(self.path, f"decord cannot read it ({error})") from error
        return _PyAV(self.path)

    def __len__(self) -> int:
        return len(self._decoder)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._decoder.close()

    def frames(self, indices: Sequence[int]) -> Tensor:
        """Frames by number, in the order asked for, repeats allowed: uint8 (len(indices),H,W,3), RGB."""
        wanted = [operator.index(i) for i in indices]
        if not wanted:
            raise ValueError(f"{self.path}: no frame was asked for")
        for i in wanted:
            if not 0 <= i < len(self):
                raise VideoError(self.path, f"has no frame {i}: allowed is 0 to {len(self) - 1}")
        try:
            return torch.from_numpy(self._decoder.frames(wanted))
        except _Unable:
            self.close()
            self._decoder = _PyAV(self.path)
            return torch.from_numpy(self._decoder.frames(wanted))


class _Unable(Exception):
    """decord cannot read this file; another decoder may, or may know why not."""


class _Decord:
    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # More threads make VP9 fail and a forked worker die, and are slower on short clips.
            self.reader = decord.VideoReader(path, num_threads=1)
            starts = self.reader.get_frame_timestamp(range(len(self.reader)))[:, 0]
        except (RuntimeError, decord.DECORDError) as error:
            raise _Unable(str(error).splitlines()[0]) from error
        if not len(starts):
            raise _Unable("has no frames")
        if (starts < -1e9).any():  # frames without a time stamp (AVI with B-frames): decord sorts by time stamps
            raise _Unable("has frames without time stamps")
        _refuse_cut(path, int((starts < -1e-6).sum()), len(starts))

    def __len__(self) -> int:
        return len(self.reader)

    def frames(self, wanted: list[int]) -> np.ndarray:
        try:
            return self.reader.get_batch(wanted).asnumpy()
        except (RuntimeError, decord.DECORDError) as error:
            if "size must exactly match" in str(error):  # rows padded to a multiple of 3 bytes: widths such as 48
                raise _Unable(str(error).splitlines()[0]) from error
            raise VideoError(self.path, DAMAGED) from error

    def close(self) -> None:
        self.reader = None  # the decoder's thread and memory go with its last reference


class _PyAV:
    """Decodes from the first frame on, so that a frame's number is a matter of counting."""

    def __init__(self, path: str) -> None:
        self.path = path
        with self._container() as container:
            stream = container.streams.video[0]
            packets = [p for p in self._guard(container.demux(stream)) if p.size]
            promised = stream.frames if "mp4" in container.format.name else 0  # AVI may overstate, WebM does not say
        self.total = len(packets)
        _refuse_cut(path, sum(p.pts is not None and p.pts < 0 for p in packets), self.total)
        if self.total < max(promised, 1) or packets[-1].is_corrupt:
            raise VideoError(path, f"is cut off: {self.total} of its {promised or 'unknown number of'} frames are left")

    def __len__(self) -> int:
        return self.total

    def frames(self, wanted: list[int]) -> np.ndarray:
        found, needed, seen = {}, set(wanted), 0
        with self._container() as container:
            for frame in self._guard(container.decode(video=0)):
                if seen in needed:
                    found[seen] = frame.to_ndarray(format="rgb24")
                seen += 1
                if len(found) == len(needed):
                    return np.stack([found[i] for i in wanted])
        raise VideoError(self.path, f"is damaged: {seen} of its {self.total} frames can be decoded")

    def _container(self) -> av.container.InputContainer:
        try:
            container = av.open(self.path, metadata_errors="ignore")
        except av.error.FFmpegError as error:
            mp4 = self._start()[4:8] == b"ftyp"
            raise VideoError(self.path, "is cut off: an MP4 file without its index (moov)" if mp4
                             else f"is not a video ({error.strerror})") from error
        if not container.streams.video:
            kinds = sorted({s.type for s in container.streams})
            container.close()
            raise VideoError(self.path, f"holds no video, only {' and '.join(kinds) or 'an empty container'}")
        return container

    def _start(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                return file.read(12)
        except OSError as error:  # no permission, or gone since it was looked at
            raise VideoError(self.path, f"cannot be opened ({error.strerror})") from error

    def _guard(self, items: Iterable) -> Iterator:
        try:
            yield from items
        except av.error.FFmpegError as error:
            raise VideoError(self.path, DAMAGED) from error

    def close(self) -> None:
        """Nothing stays open between calls."""


def _refuse_cut(path: str, hidden: int, total: int) -> None:
    # Packets before time 0 are there for the decoder only. decord counts them and shows another frame in their place.
    if hidden:
        raise VideoError(path, f"was cut by stream copy: {hidden} of its {total} frames lie before its start; "
                               "encode it anew")


def frame_count(path: str | Path) -> int:
    """The number of presentable frames of a video. Raises VideoError."""
    with VideoFile(path) as video:
        return len(video)


def read_clip(path: str | Path, indices: Sequence[int]) -> Tensor:
    """Frames of a video by number: uint8 (len(indices),H,W,3), RGB, in the order asked for.

    Negative and too large numbers are refused: every frame returned is the one asked for. Raises VideoError.
    """
    with VideoFile(path) as video:
        return video.frames(indices)


def write_clip(path: str | Path, frames: Tensor, fps: int = 8) -> None:
    """Write uint8 (T,H,W,3) RGB as an H.264 .mp4 that holds exactly these values; H and W even.

    Lossless RGB (qp 0), and every frame a key frame: with predicted frames the first one is sharper than the others,
    and that would tell a model which way time runs.
    """
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[3] != 3:
        raise ValueError(f"{path}: frames are {frames.dtype} {tuple(frames.shape)}: allowed is torch.uint8 (T,H,W,3)")
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0", "preset": "ultrafast", "g": "1"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "rgb24"
        stream.codec_context.thread_count = 1  # the same bytes whatever the machine
        for frame in frames.contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
