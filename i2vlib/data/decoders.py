"""The decoders behind VideoFile: each gives frames by number, or says why it cannot.

Every one numbers the pictures as Index does. decord and torchcodec find pictures by jumping to key frames and are used
only where an Index has no doubt; PyAV jumps there too, and elsewhere decodes from the first picture on and counts.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import types
from bisect import bisect_right
from collections.abc import Iterator

import av
import numpy as np

from i2vlib.data.index import DAMAGED, Index, VideoError, matrix, opened

try:
    import decord
except ImportError:  # no wheel for this platform: Apple silicon, ARM Linux
    decord = None
else:
    decord.logging.set_level(decord.logging.QUIET)

KEPT = 1 << 27  # bytes of decoded pictures that are kept from the counting of a short clip


class Unable(Exception):
    """This decoder cannot read this file exactly; another one may."""


class Decord:
    """decord, with one thread: more make VP9 fail and a forked worker die, and are slower on short clips."""

    def __init__(self, index: Index) -> None:
        if decord is None:
            raise Unable("decord is not installed")
        if index.doubt or index.plain:
            raise Unable(index.doubt or index.plain)
        self.path = index.path
        try:
            self.reader = decord.VideoReader(self.path, num_threads=1)
            starts = self.reader.get_frame_timestamp(range(len(self.reader)))[:, 0]
        except (RuntimeError, LookupError, decord.DECORDError) as error:
            raise Unable(f"decord: {str(error).splitlines()[0]}") from error
        times = np.array(index.times) * index.seconds
        if len(starts) != len(times) or np.abs(starts - starts[0] - (times - times[0])).max() > 1e-3:
            raise Unable("decord reads other time stamps")

    def __len__(self) -> int:
        return len(self.reader)

    def frames(self, wanted: list[int]) -> np.ndarray:
        try:
            return self.reader.get_batch(wanted).asnumpy()
        except decord.DECORDError as error:
            raise VideoError(self.path, DAMAGED) from error

    def close(self) -> None:
        self.reader = None  # the decoder's thread and memory go with its last reference


@functools.cache
def torchcodec() -> types.ModuleType | None:
    """torchcodec's decoders, where the package and the FFmpeg libraries that it needs can be imported."""
    try:
        return importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        return None


class TorchCodec:
    """torchcodec, with one thread, for the same files as decord."""

    def __init__(self, index: Index) -> None:
        if torchcodec() is None:
            raise Unable("torchcodec is not installed, or finds no FFmpeg")
        if index.doubt or index.plain:
            raise Unable(index.doubt or index.plain)
        try:
            self.reader = torchcodec().VideoDecoder(index.path, stream_index=index.stream, dimension_order="NHWC",
                                                    num_ffmpeg_threads=1)
        except (RuntimeError, ValueError) as error:
            raise Unable(f"torchcodec: {str(error).strip().splitlines()[0]}") from error
        if len(self.reader) != len(index.times):
            raise Unable("torchcodec counts other pictures")

    def __len__(self) -> int:
        return len(self.reader)

    def frames(self, wanted: list[int]) -> np.ndarray:
        return self.reader.get_frames_at(wanted).data.numpy()

    def close(self) -> None:
        self.reader = None


class PyAV:
    """PyAV: by time stamp from the nearest key frame where the index has no doubt, else counted from the first picture."""

    def __init__(self, index: Index) -> None:
        self.path, self.index = index.path, index
        self.kept: list[av.VideoFrame] = []
        self.size: tuple[int, int] | None = None
        self.total = len(index.times) or self._count()

    def __len__(self) -> int:
        return self.total

    def _count(self) -> int:
        total = size = 0
        for frame in self._decoded():
            total, size = total + 1, size + sum(plane.buffer_size for plane in frame.planes)
            if size <= KEPT:
                self.kept.append(frame)
        if not total:
            raise VideoError(self.path, "is damaged: none of its frames can be decoded")
        if len(self.kept) < total:
            self.kept = []
        return total

    def frames(self, wanted: list[int]) -> np.ndarray:
        numbers = sorted(set(wanted))
        found = {number: upright(self.path, self._rgb(frame), matrix(frame))
                 for number, frame in (self._counted if self.index.doubt else self._sought)(numbers)}
        return np.stack([found[i] for i in wanted])

    def _counted(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        for number, frame in enumerate(self.kept or self._decoded()):
            self.size = self.size or (frame.width, frame.height)  # where it changes, FFmpeg scales to the first one
            if number in numbers:
                yield number, frame
            if number == numbers[-1]:
                return
        raise VideoError(self.path, DAMAGED)  # less came than when the pictures were counted

    def _sought(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        number_at = {time: number for number, time in enumerate(self.index.times)}
        with opened(self.path) as container:
            stream = container.streams[self.index.stream]
            for key, group in itertools.groupby(numbers, lambda n: self.index.keys[bisect_right(self.index.keys, n) - 1]):
                container.seek(self.index.times[key], stream=stream)
                missing = set(group)
                for frame in decode(container, stream):
                    number = number_at.get(frame.pts)
                    if number in missing:
                        missing.remove(number)
                        yield number, frame
                    if not missing:
                        break
                if missing:
                    raise VideoError(self.path, f"is damaged: frame {min(missing)} cannot be decoded")

    def _decoded(self) -> Iterator[av.VideoFrame]:
        with opened(self.path) as container:
            yield from decode(container, container.streams[self.index.stream])

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = self.size or (frame.width, frame.height)
        return frame.reformat(width, height, format="rgb24").to_ndarray()

    def close(self) -> None:
        self.kept = []


def decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Every picture from where the container stands, as FFmpeg presents them."""
    codec, started = stream.codec_context, False
    if not codec.is_open:
        codec.thread_count = 1  # workers share the cores already
    for packet in container.demux(stream):
        try:
            frames = codec.decode(packet) if packet.size else []  # an empty packet would end the decoding
        except av.error.FFmpegError:
            if started or packet.is_keyframe:
                raise
            continue  # what a cut left before its first key frame
        started = started or bool(frames)
        yield from frames
    yield from codec.decode(None)


def upright(path: str, picture: np.ndarray, display: tuple[float, ...]) -> np.ndarray:
    """Turn and mirror a picture (H,W,3) by its display matrix (x,y) -> (ax+cy, bx+dy). Its scale is left out, as in FFmpeg."""
    if not any(display):
        return picture
    a, b, c, d = display
    straight, turned = sorted((abs(a), abs(d))), sorted((abs(b), abs(c)))
    if min(straight[1], turned[1]) > .02 * max(straight[0], turned[0]):
        angle = math.degrees(math.atan2(b, a))
        raise VideoError(path, f"is to be shown turned by {angle:.0f} degrees: allowed are quarter turns")
    if turned[1] > straight[1]:
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[::-1 if d < 0 else 1, ::-1 if a < 0 else 1])
