"""Damage inside a video, found where it shows: reading alone notices little, for a decoder is made to show something.

The whole file is decoded with FFmpeg's error detection set to explode. Damage is what raises, a packet or picture that is
marked as corrupt, an error in the log of the video's demuxer or decoder, a wrong checksum of Matroska, a transport stream
that ends within a packet, a picture that a second decoder refuses or shows otherwise, and zeros where H.264 and HEVC have
none. What breaks no rule of its codec cannot be seen; how much that is: data/README.md, "Files that are broken".
"""

from __future__ import annotations

import mmap
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import av

from i2vlib.data.datasets import _read_images, _total
from i2vlib.data.index import MAX_PIXELS, VideoError, best_stream
from i2vlib.data.video import VideoFile

# Without "aggressive" and "compliant", which refuse sound files of old encoders.
DETECT = "crccheck+bitstream+buffer+careful+explode"
# Another decoder of the same: sound streams give equal pictures. Threads of HEVC begin each row where the header says.
SECOND = {"vp8": ("libvpx", 1), "vp9": ("libvpx-vp9", 1), "hevc": ("hevc", 4)}
NEVER = re.compile(rb"\0\0[\0\1\2]")  # inside a unit of H.264 or HEVC
MATROSKA, SEGMENT, CRC = b"\x1a\x45\xdf\xa3", 0x18538067, b"\xbf\x84"


def fault(path: str | Path, frames: int = 1, total: int | None = None) -> str:
    """Why a video cannot be read, or "": it opens, has `frames` frames or more, and gives its first, middle and last.

    total: it is a folder of so many images, which are all read. May hang or end its process, as decoders do.
    """
    try:
        if total is None:
            with VideoFile(path) as video:
                refuse_short(path, len(video), frames)
                video.frames([0, len(video) // 2, len(video) - 1])
        else:
            refuse_short(path, _total(Path(path), total), frames)
            for start in range(0, total, 32):
                _read_images(Path(path), [0, *range(start, min(start + 32, total))])
    except VideoError as error:
        return error.reason
    return ""


def refuse_short(path: str | Path, total: int, frames: int) -> None:
    """Raise VideoError where a video has fewer frames than a clip takes: repeated frames are no motion."""
    if total < frames:
        raise VideoError(path, f"is too short: it has {total} frame{'s' * (total > 1)}, a clip takes {frames}")


def damage(path: str | Path, total: int | None = None) -> str:
    """What is wrong inside a video that has no `fault`, or "" where nothing shows: all of it is decoded.

    total: it is a folder of so many images. May hang or end its process, as decoders do.
    """
    if total is None:
        return _damage(os.fspath(path))
    named = ((name, _damage(os.path.join(path, name), "jpeg_pipe")) for name in (f"img_{i + 1:05d}.jpg" for i in range(total)))
    return next((f"{name} {reason}" for name, reason in named if reason), "")


def _damage(path: str, format: str | None = None) -> str:
    level = av.logging.get_level()
    with av.logging.Capture() as log:
        av.logging.set_level(av.logging.ERROR)
        try:
            return _sums(path) or next(_stream(path, format, log), "")
        except av.error.FFmpegError as error:
            return f"is damaged: {_said(log) or error.strerror}"
        finally:
            av.logging.set_level(level)


def _stream(path: str, format: str | None, log: list) -> Iterator[str]:
    """The signs of damage in the order in which they are met."""
    with av.open(path, format=format, metadata_errors="ignore", options={"max_pixels": str(MAX_PIXELS)}) as container:
        stream = best_stream(path, container)
        name, own = stream.codec_context.name, {container.format.name, stream.codec_context.name, ""}
        pair, length, count, marked, started = _Pair(stream.codec_context), _length_bytes(stream.codec_context), 0, 0, False
        for packet in container.demux(stream):
            count += 1
            if packet.is_keyframe:
                marked = 0  # two transport streams were joined here
            elif marked and (count == marked + 2 or not packet.size):
                yield f"is damaged: packet {marked} is marked as corrupt"
            marked = marked or count * packet.is_corrupt
            if length and _holed(bytes(packet), length):
                yield f"is damaged: packet {count} holds zeros where {name} has none"
            try:
                frames = pair.decode(packet)
            except av.error.FFmpegError:
                if started or packet.is_keyframe:
                    raise
                frames = []
            if any(frame.is_corrupt for frame in frames):
                yield f"is damaged: a picture near packet {count} is marked as corrupt"
            if pair.differ:
                yield f"is damaged: two decoders show other pictures of packet {count} or before ({name})"
            started = started or packet.is_keyframe or bool(frames)  # what is before is what a cut left, not shown by any player
            log[:] = [entry for entry in log if started and entry[1] in own]  # those of the sound are its own affair
            if log:
                yield f"is damaged: {_said(log)}"


class _Pair:
    """A stream's decoder and, where there is one, a second, whose pictures of the same times are compared."""

    def __init__(self, context: av.CodecContext) -> None:
        context.options, context.thread_count = {"err_detect": DETECT}, 1
        name, threads = SECOND.get(context.name, ("", 0))
        self.first, self.second = context, av.CodecContext.create(name, "r") if name in av.codecs_available else None
        self.sums: tuple[dict, dict] = {}, {}  # time -> checksum of a picture that the other has not shown yet
        self.differ = False
        if self.second:
            self.second.extradata, self.second.thread_count, self.second.thread_type = context.extradata, threads, "SLICE"

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        frames = packet.decode()
        if self.second:
            self._compare(frames, 0)
            self._compare(self.second.decode(packet if packet.size else None), 1)
        return frames

    def _compare(self, frames: list[av.VideoFrame], which: int) -> None:
        for frame in frames:
            if frame.pts is not None and frame.format.name in av.video.frame.supported_np_pix_fmts:
                total = zlib.crc32(frame.to_ndarray())
                self.differ |= self.sums[1 - which].pop(frame.pts, total) != total
                self.sums[which][frame.pts] = total


def _length_bytes(context: av.CodecContext) -> int:
    """How many bytes tell the length of a unit in a packet of H.264 or HEVC; 0 where no length stands there."""
    place = {"h264": 4, "hevc": 21}.get(context.name, 0)
    known = place and context.extradata and len(context.extradata) > place and context.extradata[0] == 1
    return (context.extradata[place] & 3) + 1 if known else 0


def _holed(packet: bytes, length: int) -> bool:
    at = 0
    while at + length <= len(packet):
        end = at + length + int.from_bytes(packet[at:at + length], "big")
        if NEVER.search(packet[at + length:end].rstrip(b"\0")):
            return True
        at = end
    return False


def _said(log: list) -> str:
    return " ".join(log[0][2].split()).rstrip(".") + f" ({log[0][1] or 'FFmpeg'})" if log else ""


# ---- what a container says about itself ----

def _sums(path: str) -> str:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == MATROSKA:
            try:
                return next((f"is damaged: a checksum is wrong (bytes {start} to {end})"
                             for start, end in _elements(data, 0, len(data)) if not _sound(data, start, end)), "")
            except (ValueError, IndexError):
                return "is damaged: its Matroska elements do not follow each other"
        step = next((n for n in (188, 192, 204) if _transport(data, n)), 0)
        return "is cut off: it ends within a packet of its transport stream" if step and len(data) % step else ""


def _elements(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the contents of the file's and the segment's elements lie."""
    while start < end:
        number, start = _number(data, start)
        size, start = _number(data, start, sized=True)
        stop = end if size is None else start + size  # None: a live recording, which goes on to the end
        if number == SEGMENT:
            yield from _elements(data, start, min(stop, end))
        else:
            yield start, stop
        start = stop


def _number(data: mmap.mmap, at: int, sized: bool = False) -> tuple[int | None, int]:
    length = 9 - data[at].bit_length()
    if length > 8:
        raise ValueError("no number of EBML")
    value = int.from_bytes(data[at:at + length], "big")
    if sized:
        value &= (1 << 7 * length) - 1
        value = None if value == (1 << 7 * length) - 1 else value
    return value, at + length


def _sound(data: mmap.mmap, start: int, end: int) -> bool:
    """False where the element begins with a checksum that the rest of it does not have."""
    if data[start:start + 2] != CRC:
        return True
    with memoryview(data) as view, view[start + 6:end] as rest:
        return zlib.crc32(rest) == int.from_bytes(data[start + 2:start + 6], "little")


def _transport(data: mmap.mmap, step: int) -> bool:
    return len(data) > 5 * step and any(all(data[at + i * step] == 0x47 for i in range(5)) for at in {0, 4 * (step == 192)})
