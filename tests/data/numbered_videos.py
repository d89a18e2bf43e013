"""Small videos whose pictures carry their own number, and what a player shows of each file, known by construction.

A picture is a grid of 4 x 4 black and white cells: eight bits of its number, its parity and the parity's opposite, and a
border pattern that looks alike in none of the eight turned and mirrored views. So the number and the view are read back
without a reference decoder, after lossy compression, 4:2:0 and scaling; a grey, blended or smeared picture is read as no
number at all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder is talkative

COUNT, WIDTH, HEIGHT = 36, 128, 96
FIXED = {(0, 0): 1, (0, 1): 1, (0, 2): 0, (0, 3): 1, (3, 0): 0, (3, 3): 0}
DATA = [(r, c) for r in range(4) for c in range(4) if (r, c) not in FIXED]  # 10 cells


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 (height,width), 16 black, 235 white."""
    bits = [number >> b & 1 for b in range(8)]
    cells = np.zeros((4, 4), np.uint8)
    for place, bit in [*FIXED.items(), *zip(DATA, [*bits, sum(bits) % 2, 1 - sum(bits) % 2], strict=True)]:
        cells[place] = 235 if bit else 16
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return cells[rows][:, columns]


def number_of(frame: np.ndarray) -> int:
    """The number that an RGB frame (H,W,3) shows upright, or -1: another view, or not a whole picture."""
    height, width = frame.shape[:2]
    cells = np.empty((4, 4))
    for r in range(4):
        for c in range(4):
            part = frame[
                (8 * r + 3) * height // 32 : (8 * r + 6) * height // 32, (8 * c + 3) * width // 32 : (8 * c + 6) * width // 32
            ]
            cells[r, c] = part.mean() if part.max() - part.min() < 70 else 128
    if ((cells > 80) & (cells < 170)).any() or any((cells[p] > 128) != bool(v) for p, v in FIXED.items()):
        return -1
    bits = [int(cells[p] > 128) for p in DATA]
    whole = bits[8] == sum(bits[:8]) % 2 and bits[9] == 1 - bits[8]
    return sum(bit << b for b, bit in enumerate(bits[:8])) if whole else -1


def encode(
    path: Path,
    codec: str = "libx264",
    numbers: Iterable[int] = range(COUNT),
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: int = 10,
    pix_fmt: str = "yuv420p",
    muxer: dict | None = None,
    times: Sequence[int] | None = None,
    format: str | None = None,
    view: Callable = lambda p: p,
    audio: float = 0,
    interlaced: bool = False,
    keys: Sequence[int] = (),
    **options: str,
) -> Path:
    """Write numbered pictures.

    times: hundredths of a second, one a picture; audio: seconds of silence that start with the file; view: of the picture
    that is stored; keys: pictures that are to be key frames; options: of the encoder.
    """
    with av.open(str(path), "w", format=format, options=muxer or {}) as container:
        sound = container.add_stream("aac" if path.suffix in {".mp4", ".mov", ".mkv"} else "mp2", rate=44100) if audio else None
        stream = _stream(container, codec, size, rate, pix_fmt, options)
        if times:
            stream.codec_context.time_base = Fraction(1, 100)
        if interlaced:
            stream.codec_context.flags |= 1 << 18 | 1 << 29  # interlaced DCT and motion estimation
        if sound:
            silence(container, sound, audio)
        for i, number in enumerate(numbers):
            frame = as_frame(view(picture(number, *size)), pix_fmt)
            if number in keys:
                frame.pict_type = av.video.frame.PictureType.I
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _stream(container, codec, size, rate, pix_fmt, options):
    extra = {
        "libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1:" + options.pop("x265", "")},
        "libsvtav1": {"svtav1-params": "lp=1", "preset": "8", "crf": "3"},
    }.get(codec, {})
    stream = container.add_stream(codec, rate=rate, options={**extra, **options})
    stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
    stream.codec_context.thread_count = 1
    return stream


def as_frame(grey: np.ndarray, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    if pix_fmt != "yuv420p":
        return av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, 2), format="rgb24").reformat(format=pix_fmt)
    chroma = np.full((grey.shape[0] // 2, grey.shape[1]), 128, np.uint8)
    return av.VideoFrame.from_ndarray(np.concatenate([grey, chroma]), format="yuv420p")


def silence(container, stream, seconds: float) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, int(44100 * seconds)), np.int16), format="s16", layout="mono")
    frame.sample_rate = 44100
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


# --- what no muxer's option gives: bytes changed in, or packets moved between, files ------------------------------------------


def packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [p for p in container.demux(video=0) if p.size]


def mux(
    path: Path,
    like: Path,
    data: Sequence[tuple[bytes, int | None, int | None, bool]],
    *,
    muxer: dict | None = None,
    format: str | None = None,
    strict: bool = True,
) -> Path:
    """Write packets (bytes, pts, dts, key) of the kind that `like` holds, in its time base."""
    with av.open(str(like)) as old, av.open(str(path), "w", options=muxer or {}, format=format) as new:
        source = old.streams.video[0]
        stream = new.add_stream_from_template(source)
        for payload, pts, dts, key in data:
            packet = av.Packet(payload)
            packet.stream, packet.time_base, packet.pts, packet.dts, packet.is_keyframe = stream, source.time_base, pts, dts, key
            new.mux(packet)
    return path


def copied(
    path: Path, like: Path, *, start: int = 0, skip: int = 0, muxer: dict | None = None, format: str | None = None
) -> Path:
    """A stream copy without the first `skip` packets whose clock begins `start` ticks later."""
    data = [(bytes(p), p.pts - start, None if p.dts is None else p.dts - start, p.is_keyframe) for p in packets(like)[skip:]]
    return mux(path, like, data, muxer=muxer, format=format)


def tick(path: Path) -> int:
    """Ticks a picture."""
    times = sorted(p.pts for p in packets(path))
    return times[1] - times[0]


def with_matrix(path: Path, source: Path, matrix: Sequence[int]) -> Path:
    """matrix: a, b, c, d of (x,y) -> (ax+cy, bx+dy), what a player does with the stored picture."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 4 + (32 if data[at] == 1 else 20) + 16
    width, height = (v >> 16 for v in struct.unpack(">II", data[at + 36 : at + 44]))
    a, b, c, d = matrix
    x, y = max(0, -a * width - c * height), max(0, -b * width - d * height)
    one = 1 << 16
    data[at : at + 36] = struct.pack(
        ">9i", int(a * one), int(b * one), 0, int(c * one), int(d * one), 0, int(x * one), int(y * one), 1 << 30
    )
    path.write_bytes(data)
    return path


def with_edits(path: Path, source: Path, edits: Sequence[tuple[int, int]]) -> Path:
    """edits: (first frame, frames) each, replacing the file's edit list; a first frame of -1 shows nothing for that long."""
    data, step = bytearray(source.read_bytes()), tick(source)
    delay = -min(p.dts - p.pts for p in packets(source)[:1])  # the media time of the first picture
    ticks = data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20]
    scale = 1000 / struct.unpack(">I", ticks)[0]
    at = data.index(b"elst")
    old = struct.unpack(">I", data[at - 4 : at])[0]
    body = b"".join(
        struct.pack(">IiI", round(n * step * scale), -1 if first < 0 else delay + first * step, 1 << 16) for first, n in edits
    )
    data[at - 4 : at - 4 + old] = struct.pack(">I", 16 + len(body)) + b"elst" + bytes(4) + struct.pack(">I", len(edits)) + body
    for name in (b"edts", b"trak", b"moov"):
        place = data.rindex(name, 0, at) - 4
        size = struct.unpack(">I", data[place : place + 4])[0]
        data[place : place + 4] = struct.pack(">I", size + 16 + len(body) - old)
    path.write_bytes(data)
    return path


def with_place_holders(path: Path, source: Path, every: int = 4) -> Path:
    """What XviD's capture writes for a dropped picture: a packet of one byte; a player shows the picture before it for longer."""
    data, time = [], 0
    for i, packet in enumerate(packets(source)):
        first = _marked(bytes(packet), b"\x00\x00\x01\xb2XviD0050") if i == 0 else bytes(packet)
        for payload, key in [(first, packet.is_keyframe)] + ([(b"\x7f", False)] if i % every == 1 else []):
            data.append((payload, time, time, key))
            time += 1
    return mux(path, source, data)


def _marked(payload: bytes, marker: bytes) -> bytes:
    """The encoder's name, where a decoder looks for it: behind the headers, before the first picture."""
    at = payload.index(b"\x00\x00\x01\xb3" if b"\x00\x00\x01\xb3" in payload else b"\x00\x00\x01\xb6")
    return payload[:at] + marker + payload[at:]


def packed(path: Path, source: Path) -> Path:
    """DivX's packed bit stream for an AVI of one B-frame between others: P and B in one packet, then a not-coded picture."""
    old, data, i = packets(source), [], 0
    marker = b"\x00\x00\x01\xb2DivX503b1393p"
    kinds = [bytes(p)[bytes(p).index(b"\x00\x00\x01\xb6") + 4] >> 6 for p in old]
    while i < len(old):
        payload = bytes(old[i])
        payload = _marked(payload, marker) if i == 0 else payload
        if i + 1 < len(old) and kinds[i + 1] == 2:
            data += [(payload + bytes(old[i + 1]), old[i].is_keyframe), (b"\x00\x00\x01\xb6\x51\x00", False)]
            i += 2
        else:
            data.append((payload, old[i].is_keyframe))
            i += 1
    return mux(path, source, [(payload, n, n, key) for n, (payload, key) in enumerate(data)])


def with_hidden_vp8(path: Path, source: Path, hidden: Sequence[int]) -> Path:
    """Clear the flag that shows a frame: what an encoder does with one that only others refer to."""
    data = [
        (bytes([p_bytes[0] & ~16, *p_bytes[1:]]) if i in hidden else p_bytes, p.pts, p.dts, p.is_keyframe)
        for i, (p, p_bytes) in enumerate((p, bytes(p)) for p in packets(source))
    ]
    return mux(path, source, data)


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    return path


def two_tracks(path: Path, sizes: Sequence[tuple[int, int]], default: Sequence[bool] = (True, True)) -> Path:
    """Tracks of numbers from 0 and from 100 on; default: which of them the file marks as the one to show."""
    with av.open(str(path), "w") as container:
        streams = [_stream(container, "libx264", size, 10, "yuv420p", {"qp": "10", "g": "6"}) for size in sizes]
        for stream, wanted in zip(streams, default, strict=True):
            stream.disposition = av.stream.Disposition.default if wanted else av.stream.Disposition(0)
        for i in range(COUNT):
            for k, (stream, size) in enumerate(zip(streams, sizes, strict=True)):
                container.mux(stream.encode(as_frame(picture(100 * k + i, *size))))
        for stream in streams:
            container.mux(stream.encode())
    return path


def with_cover(path: Path, source: Path) -> Path:
    """A large picture that is attached (an album's cover) stands as track 0, before the video."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        cover = _stream(new, "mjpeg", (640, 480), 10, "yuvj420p", {})
        cover.disposition = av.stream.Disposition.attached_pic
        stream = new.add_stream_from_template(old.streams.video[0])
        (jpeg,) = cover.encode(as_frame(picture(200, 640, 480)).reformat(format="yuvj420p"))
        new.mux(jpeg)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return path
