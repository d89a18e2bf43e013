"""Frames out of video files, exactly those asked for and as a player shows them, or an error that names the file.

The frames of a file are the pictures that FFmpeg presents of it: those of its best picture track (marked as default, then
of the highest bit rate; no cover), in order, without what an edit list hides, turned and mirrored as it says; each once,
however long it is shown. Interlaced pictures are given as they are stored, both fields in one; pixels are not stretched
where they are not square; where the size changes, later pictures are scaled to the first one's. Whichever decoder reads
a file, a frame's number means the same picture (data/README.md has the table).
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path

import av
import torch
from torch import Tensor

from i2vlib.data import decoders
from i2vlib.data.decoders import Unable
from i2vlib.data.index import VideoError, named, read_index

DECODERS = {"decord": decoders.Decord, "torchcodec": decoders.TorchCodec, "pyav": decoders.PyAV}


class VideoFile:
    """One open video: `with VideoFile(path) as v: v.frames([0, len(v) - 1])`.

    Open it in the process that reads it and close it after the clip: a decord reader does not survive a fork and holds
    a thread and tens of megabytes. len(v) is the number of frames. v.decoder names what decodes, v.why says why.
    Raises VideoError.
    """

    def __init__(self, path: str | Path, decoder: str | None = None) -> None:
        """decoder: "decord", "torchcodec" or "pyav", refused where it is not exact. The default is decord (torchcodec
        where there is no decord) if the packets prove it exact, else PyAV."""
        self.path = os.fspath(path)
        if decoder not in {None, *DECODERS}:
            raise ValueError(f"decoder = {decoder!r}: allowed is {', '.join(map(repr, DECODERS))} or None")
        if not os.path.isfile(self.path):
            raise VideoError(path, "is a folder" if os.path.isdir(self.path) else "there is no such file")
        if os.path.getsize(self.path) == 0:
            raise VideoError(path, "is empty (0 bytes)")
        self.decoder = decoder or ("decord" if decoders.decord else "torchcodec")
        self.why = "asked for" if decoder else "every key frame is an IDR picture with nothing before it"
        with named(self.path):
            index = read_index(self.path)
            try:
                self._decoder = DECODERS[self.decoder](index)
            except Unable as error:
                if decoder:
                    raise VideoError(self.path, f"{decoder} cannot read it exactly ({error})") from error
                self.decoder, self.why, self._decoder = "pyav", str(error), decoders.PyAV(index)

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
        with named(self.path):
            return torch.from_numpy(self._decoder.frames(wanted))


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
