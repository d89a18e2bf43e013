"""Every frame returned is the one asked for, whatever the codec; every bad file gives its reason."""

from __future__ import annotations

import pickle

import av
import numpy as np
import pytest
import torch

from i2vlib.data import video
from i2vlib.data.video import VideoError, VideoFile, frame_count, read_clip, write_clip

BITS, COUNT = 6, 40
DECODERS = [pytest.param("decord", marks=pytest.mark.skipif(video.decord is None, reason="no decord here")), "pyav"]


def numbered(count: int = COUNT) -> list[np.ndarray]:
    """Frames that carry their number as white and black squares, so that a reader needs no reference decoder."""
    frames = []
    for i in range(count):
        frame = np.full((64, 96, 3), 60, np.uint8)
        frame[40:, (2 * i) % 96:] = 120
        for b in range(BITS):
            frame[:16, 16 * b:16 * b + 16] = 235 if i >> b & 1 else 20
        frames.append(frame)
    return frames


def numbers(frames: torch.Tensor) -> list[int]:
    return [sum(int(f[8, 16 * b + 8, 0] > 128) << b for b in range(BITS)) for f in frames]


def encode(path, codec="libx264", frames=None, container_options=None, **options):
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in numbered() if frames is None else frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())
    return path


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def stream_cut(source, path, seconds=1.0):
    """What `ffmpeg -ss 1 -c copy` leaves: packets before the start stay, with negative times, for the decoder."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        shift = int(seconds / old.streams.video[0].time_base)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name, codec, options", [
    ("long.mp4", "libx264", {"g": "250", "bf": "3"}),
    ("short.mkv", "libx264", {"g": "5", "bf": "2"}),
    ("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "lag-in-frames": "10", "auto-alt-ref": "1"}),
    ("plain.avi", "mpeg4", {"g": "12"}),
])
def test_frames_are_those_asked_for(tmp_path, decoder, name, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV without {codec}")
    path = encode(tmp_path / name, codec, **options)
    wanted = [0, 39, 7, 7, 21, 8, 38, 1]
    with VideoFile(path, decoder) as file:
        assert len(file) == COUNT
        frames = file.frames(wanted)
        assert numbers(frames) == wanted and frames.shape == (8, 64, 96, 3) and frames.dtype == torch.uint8
        assert numbers(file.frames(range(COUNT))) == list(range(COUNT))


def test_avi_with_b_frames_is_read_in_order(tmp_path):
    path = encode(tmp_path / "b.avi", "mpeg4", g="12", bf="2")  # half of its packets have no time stamp
    assert numbers(read_clip(path, [5, 0, 17])) == [5, 0, 17]


@pytest.mark.parametrize("decoder", DECODERS)
def test_write_clip_is_exact_and_intra_only(tmp_path, decoder):
    frames = torch.randint(0, 256, (5, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, clip in (("a.mp4", frames), ("again.mp4", frames), ("twin.mp4", frames.flip(0))):
        write_clip(tmp_path / name, clip)
    with VideoFile(tmp_path / "a.mp4", decoder) as file:
        assert torch.equal(file.frames(range(5)), frames)
    with VideoFile(tmp_path / "twin.mp4", decoder) as file:
        assert torch.equal(file.frames(range(5)), frames.flip(0))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert all(p.is_keyframe for p in container.demux(video=0) if p.size)


def test_write_clip_names_what_it_cannot_write(tmp_path):
    with pytest.raises(ValueError, match=r"float32 \(2, 4, 4, 3\): allowed is torch.uint8"):
        write_clip(tmp_path / "x.mp4", torch.zeros(2, 4, 4, 3))


@pytest.mark.skipif(video.decord is None, reason="no decord here")
def test_both_decoders_give_the_same_pixels(tmp_path):
    path = encode(tmp_path / "a.mp4", g="250", bf="2")
    with VideoFile(path, "decord") as one, VideoFile(path, "pyav") as other:
        difference = one.frames(range(COUNT)).int() - other.frames(range(COUNT)).int()
    assert difference.abs().max() <= 2  # two versions of one colour conversion


def test_without_decord(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4")
    monkeypatch.setattr(video, "decord", None)
    with VideoFile(path) as file:
        assert isinstance(file._decoder, video._PyAV) and numbers(file.frames([3, 1])) == [3, 1]


def test_widths_that_decord_cannot_copy(tmp_path):
    frames = torch.randint(0, 256, (3, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_clip(tmp_path / "narrow.mp4", frames)
    assert torch.equal(read_clip(tmp_path / "narrow.mp4", [2, 0]), frames[[2, 0]])


@pytest.mark.parametrize("wanted", [[COUNT], [0, -1], [10**6]])
def test_frames_out_of_range_are_refused(tmp_path, wanted):
    path = encode(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match=rf"a\.mp4: has no frame {wanted[-1]}: allowed is 0 to {COUNT - 1}"):
        read_clip(path, wanted)
    with pytest.raises(ValueError, match="no frame was asked for"):
        read_clip(path, [])


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    whole = encode(folder / "whole.mp4").read_bytes()
    fast = encode(folder / "fast.mp4", container_options={"movflags": "faststart"}).read_bytes()
    (folder / "zero.mp4").touch()
    (folder / "random.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "no index.mp4").write_bytes(whole[:len(whole) // 2])
    (folder / "truncated.mp4").write_bytes(fast[:-len(fast) // 4])
    hit = bytearray(fast)
    for i in range(fast.index(b"mdat") + 900, len(fast), 7):
        hit[i] ^= 0xFF
    (folder / "damaged.mp4").write_bytes(hit)
    sound(folder / "sound.mp4")
    (folder / "folder.mp4").mkdir()
    stream_cut(encode(folder / "one gop.mp4", g="250", bf="0"), folder / "cut.mp4")
    stream_cut(encode(folder / "b frames.mp4", g="250", bf="3"), folder / "cut b.mp4")
    return folder


@pytest.mark.parametrize("decoder", [None, "pyav"])
@pytest.mark.parametrize("name, reason", [
    ("missing.mp4", "there is no such file"),
    ("folder.mp4", "is a folder"),
    ("zero.mp4", r"is empty \(0 bytes\)"),
    ("random.mp4", "is not a video"),
    ("no index.mp4", r"is cut off: an MP4 file without its index"),
    ("truncated.mp4", rf"is cut off: \d+ of its {COUNT} frames are left"),
    ("damaged.mp4", "is damaged"),
    ("sound.mp4", "holds no video, only audio"),
    ("cut.mp4", rf"was cut by stream copy: 10 of its {COUNT} frames lie before its start"),
    ("cut b.mp4", rf"was cut by stream copy: 10 of its {COUNT} frames lie before its start"),
])
def test_bad_files_say_why(bad, name, reason, decoder):
    with pytest.raises(VideoError, match=f"{name}: {reason}"), VideoFile(bad / name, decoder) as file:
        file.frames(range(len(file)))


@pytest.mark.parametrize("decoder", [None, "pyav"])
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_files_that_cannot_be_opened_say_why(bad, monkeypatch, decoder, error):
    """A file without read permission, or one that vanishes between two looks; simulated: root may read everything."""
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(video.av, "open", lambda *_, **__: (_ for _ in ()).throw(av.error.PermissionError(13, "no")))
    monkeypatch.setattr(video, "open", refuse, raising=False)
    with pytest.raises(VideoError, match=rf"random\.mp4: cannot be opened \({error.strerror}\)"):
        VideoFile(bad / "random.mp4", decoder)


def test_frame_count(tmp_path, bad):
    assert frame_count(encode(tmp_path / "a.mp4", frames=numbered(17))) == 17
    with pytest.raises(VideoError):
        frame_count(bad / "cut.mp4")


def test_errors_survive_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is empty")))
    assert str(error) == "a.mp4: is empty" and (error.path, error.reason) == ("a.mp4", "is empty")
