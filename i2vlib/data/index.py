"""What a video file holds, told by its packets: which picture is which, and whether a decoder may jump to it.

Numbers of pictures can be told from packets only where one packet is one picture and each picture that a decoder may
start from stands alone. That is proven here for H.264 in MP4, QuickTime and Matroska; any doubt is given in words, and
the pictures of such a file are counted by decoding it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import av

# What the decoders say on stderr about a broken file, a VideoError says with the file's name.
av.logging.set_level(av.logging.PANIC)

MAX_PIXELS = 1 << 26  # of one picture, 8192 x 8192: a header may ask for more than a machine has; raise it for larger ones
DAMAGED = "is damaged: a frame cannot be decoded"
UNCOPIED = {16, 24, 48, 72}  # widths, of 16 to 499, whose rows decord pads and then fails to copy
HIGH = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}  # H.264 profiles that state their chroma format


class VideoError(RuntimeError):
    """A video cannot give the frames asked for. The message is `path: reason`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):  # so that it travels from a worker process
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Index:
    """stream: the number of the picture track. doubt: why its pictures cannot be numbered by packets, or "".

    Without a doubt, times holds when each picture is shown, in order and in ticks of the stream, and keys the numbers of
    those at which decoding may start. plain: one track, neither turned nor mirrored, of a width that decord can copy.
    """

    path: str
    stream: int
    doubt: str = ""
    times: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()
    seconds: float = 0.0  # of a tick
    plain: str = ""  # why not, or ""


def read_index(path: str) -> Index:
    """Read every packet of a video file, decoding one picture at most. Raises VideoError."""
    with opened(path) as container:
        stream = best_stream(path, container)
        check_size(path, stream.codec_context.width, stream.codec_context.height)
        packets = [p for p in container.demux(stream) if p.size]
        _refuse_cut(path, stream, packets)
        doubt = _doubt(container, stream, packets)
        if doubt:
            return Index(path, stream.index, doubt)
        times = tuple(sorted(p.pts for p in packets))
        keys = tuple(i for i, p in enumerate(packets) if p.is_keyframe)
        return Index(path, stream.index, "", times, keys, float(stream.time_base), _not_plain(container, stream, packets[0]))


@contextmanager
def named(path: str) -> Iterator[None]:
    """Turn whatever fails in a decoder's library into a VideoError that names the file."""
    try:
        yield
    except VideoError:
        raise
    except MemoryError as error:
        raise VideoError(path, "asks for more memory than there is") from error
    except av.error.ArgumentError as error:  # what FFmpeg answers to pictures beyond its limit
        raise VideoError(path, f"{DAMAGED}, or asks for one of more than MAX_PIXELS = {MAX_PIXELS}") from error
    except av.error.FFmpegError as error:
        raise VideoError(path, DAMAGED) from error
    except (RuntimeError, ValueError, LookupError, ArithmeticError, OSError) as error:
        raise VideoError(path, f"{DAMAGED} ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error


@contextmanager
def opened(path: str) -> Iterator[av.container.InputContainer]:
    """An open container. Raises VideoError, also for what fails while it is open."""
    try:
        container = av.open(path, metadata_errors="ignore", options={"max_pixels": str(MAX_PIXELS)})
    except (av.error.FFmpegError, MemoryError, ValueError, ArithmeticError) as error:
        raise VideoError(path, _reason(path, error)) from error
    with container, named(path):
        yield container


def _reason(path: str, error: Exception) -> str:
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError as reason:  # no permission, or gone since it was looked at
        return f"cannot be opened ({reason.strerror})"
    if start[4:8] == b"ftyp" and isinstance(error, av.error.InvalidDataError):
        return "is cut off: an MP4 file without its index (moov)"
    return f"is not a video ({getattr(error, 'strerror', None) or error})"


def best_stream(path: str, container: av.container.InputContainer) -> av.VideoStream:
    """The picture track that FFmpeg holds for the best: marked as default, then of the highest bit rate; no cover pictures."""
    stream = container.streams.best("video")
    if stream is None or _is_cover(stream):
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
    if stream is None:
        kinds = sorted({s.type for s in container.streams if s.type != "video"})
        raise VideoError(path, f"holds no video, only {' and '.join(kinds) or 'an empty container'}")
    if stream.codec_context is None:
        raise VideoError(path, "its pictures are coded in a way that no decoder here knows")
    return stream


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def check_size(path: str, width: int, height: int) -> None:
    """Refuse a picture larger than MAX_PIXELS before any memory is taken for it."""
    if width * height > MAX_PIXELS:
        raise VideoError(path, f"asks for pictures of {width}x{height}: allowed is MAX_PIXELS = {MAX_PIXELS} "
                               "pixels (i2vlib.data.index)")


def _refuse_cut(path: str, stream: av.VideoStream, packets: list[av.Packet]) -> None:
    entries, size = stream.index_entries, os.path.getsize(path)
    if "mp4" in stream.container.format.name:
        left = sum(e.pos + e.size <= size for e in entries)
        if left < len(entries):
            raise VideoError(path, f"is cut off: {left} of its {len(entries)} frames are left")
    if not packets:
        raise VideoError(path, "has no frames")
    if packets[-1].is_corrupt:
        raise VideoError(path, f"is cut off after {len(packets) - 1} frames")


def _doubt(container: av.container.InputContainer, stream: av.VideoStream, packets: list[av.Packet]) -> str:
    """Why the pictures cannot be numbered by packets, or "" where they can."""
    codec, times = stream.codec_context, [p.pts for p in packets]
    if codec.name != "h264" or not {"mp4", "matroska"} & set(container.format.name.split(",")):
        return f"{codec.name} in {container.format.name.split(',')[0]}"
    if any(p.is_discard for p in packets):
        return "an edit list hides pictures"
    if None in times or min(times) < 0 or len(set(times)) < len(times):
        return "time stamps are missing, negative or double"
    if "mp4" in container.format.name and stream.frames not in (0, len(packets)):
        return f"its header promises {stream.frames} frames, {len(packets)} are there"
    if any(p.is_corrupt or p.has_sidedata("new_extradata") for p in packets):
        return "packets are damaged or their format changes"
    keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    if not keys or keys[0]:
        return "it does not begin with a key frame"
    latest, order = list(accumulate(times, max)), sorted(times)
    if any(not times[k] == latest[k] == order[k] for k in keys):
        return "open GOPs: pictures are shown before the key frame that they follow"
    if any(packets[b].dts is None or packets[b].dts <= times[a] for a, b in pairwise(keys)):
        return "key frames closer than the decoder's delay"
    return _h264_doubt(bytes(codec.extradata or b""), packets)


def _h264_doubt(extradata: bytes, packets: list[av.Packet]) -> str:
    if len(extradata) < 8 or extradata[0] != 1 or extradata[5] & 31 != 1:
        return "not one set of H.264 parameters"
    prefix, size = (extradata[4] & 3) + 1, int.from_bytes(extradata[6:8], "big")
    sps = extradata[8:8 + size]
    if not _frames_only(sps):
        return "interlaced"
    for packet in packets:
        data, at, slices = memoryview(packet), 0, 0
        while not slices and at + prefix < len(data):
            size, kind = int.from_bytes(data[at:at + prefix], "big"), data[at + prefix] & 31
            if kind == 7 and data[at + prefix:at + prefix + size] != sps:
                return "its H.264 parameters change"
            slices = kind if 1 <= kind <= 5 else 0
            at += prefix + size
        if not slices:
            return "packets without a picture"
        if (slices == 5) != packet.is_keyframe:
            return "key frames that are no IDR pictures" if packet.is_keyframe else "IDR pictures not marked as key frames"
    return ""


def _frames_only(sps: bytes) -> bool:
    """H.264's frame_mbs_only_flag, the seventh part of section 7.3.2.1.1: with it each picture is a frame, never a field."""
    bits, at = "".join(f"{b:08b}" for b in sps.replace(b"\0\0\3", b"\0\0")), 32

    def number() -> int:  # Exp-Golomb
        nonlocal at
        zeros = bits.index("1", at) - at
        at += 2 * zeros + 1
        return int(bits[at - zeros - 1:at], 2) - 1

    def signed() -> int:
        value = number()
        return (value + 1) // 2 if value % 2 else -value // 2

    def flag() -> bool:
        nonlocal at
        at += 1
        return bits[at - 1] == "1"

    try:
        number()
        if sps[1] in HIGH:
            chroma = number()
            at += chroma == 3
            number(), number(), flag()
            for size in ([16] * 6 + [64] * (6 if chroma == 3 else 2)) if flag() else ():
                scaling = 8 if flag() else 0
                for _ in range(size if scaling else 0):
                    scaling = (scaling + signed()) % 256 if scaling else 0
        number()
        order = number()
        if order == 0:
            number()
        elif order == 1:
            flag(), number(), number(), [number() for _ in range(number())]
        number(), flag(), number(), number()
        return flag()
    except (ValueError, IndexError):
        return False


def _not_plain(container: av.container.InputContainer, stream: av.VideoStream, packet: av.Packet) -> str:
    """Why decord would show other pictures than a player although it numbers them alike."""
    if len(container.streams.video) > 1:
        return "several picture tracks"
    codec = stream.codec_context
    codec.thread_count = 1
    first = next(iter([*codec.decode(packet), *codec.decode(None)]), None)
    if first is None:
        return "its first picture cannot be decoded"
    if matrix(first):
        return "its pictures are to be turned or mirrored"
    if first.format.components[0].bits > 8:
        return "more than 8 bits a colour"  # decord's are up to 73 of 255 off, and not the same in every process
    if (first.width, first.height) != (codec.width, codec.height):
        return "its pictures have another size than its header says"
    return f"{first.width} pixels wide" if first.width in UNCOPIED else ""


def matrix(frame: av.VideoFrame) -> tuple[float, ...]:
    """(a,b,c,d) of the display matrix, (x,y) -> (ax+cy, bx+dy), or () where the picture is shown as it is stored."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return ()
    numbers = memoryview(bytes(data)).cast("i")
    found = tuple(numbers[i] / 65536 for i in (0, 1, 3, 4))
    return () if found == (1, 0, 0, 1) else found
