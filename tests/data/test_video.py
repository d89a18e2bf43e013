"""Every frame returned is the one asked for, whatever the codec; every bad file gives its reason."""

from __future__ import annotations

import pickle

import av
import numbered_videos
import numpy as np
import pytest
import torch
from frame_table import cases

from i2vlib.data import decoders, index, video
from i2vlib.data.decoders import upright
from i2vlib.data.index import read_index
from i2vlib.data.video import VideoError, VideoFile, frame_count, read_clip, write_clip

BITS, COUNT = 6, 40
DECODERS = [pytest.param("decord", marks=pytest.mark.skipif(decoders.decord is None, reason="no decord here")), "pyav"]


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


KINDS = sorted({case.kind for case in cases()})


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    return tmp_path_factory.mktemp("matrix")


def shown(path, decoder, wanted) -> tuple[list[int], int, str]:
    with VideoFile(path, decoder) as file:
        found = file.frames(wanted)
        assert found.dtype == torch.uint8 and found.is_contiguous()
        return [numbered_videos.number_of(f) for f in found.numpy()], len(file), file.decoder


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_that_a_player_shows(matrix, kind):
    """Every number asked for alone and among others, in any order, from every decoder that accepts the file."""
    for case in (c for c in cases() if c.kind == kind):
        path, total = case.make(matrix), len(case.shown)
        wanted = [*np.random.default_rng(0).permutation(total).tolist(), total - 1, 0]
        numbers = [case.shown[i] for i in wanted]
        if case.refused:
            with pytest.raises(VideoError, match=case.refused):
                read_clip(path, wanted)
            continue
        found, count, used = shown(path, None, wanted)
        assert (found, count) == (numbers, total), f"{case.name}, read by {used}"
        for decoder in video.DECODERS:
            try:
                assert shown(path, decoder, wanted)[:2] == (numbers, total), f"{case.name}, {decoder}"
                assert shown(path, decoder, wanted[:1])[0] == numbers[:1], f"{case.name}, {decoder}"
            except VideoError as error:
                assert decoder != "pyav" and f"{decoder} cannot read it exactly" in error.reason


@pytest.mark.parametrize("name, doubt", [
    ("h264 B.mp4", ""), ("h264 matrices.mkv", ""), ("h264 intra.mov", ""), ("variable.mp4", ""), ("late.mkv", ""),
    ("h264 open.mp4", "open GOPs"), ("h264 refresh.mkv", "key frames that are no IDR pictures"),
    ("h264 crowded.mp4", "key frames closer than the decoder's delay"), ("interlaced.mp4", "interlaced"),
    ("edit start b3.mp4", "an edit list hides pictures"), ("edit gop start b0.mp4", "its header promises 36 frames"),
    ("negative.mkv", "time stamps are missing, negative or double"), ("h264 B.ts", "h264 in mpegts"),
])
def test_the_index_says_why_packets_do_not_number_the_pictures(matrix, name, doubt):
    (case,) = (c for c in cases() if c.name == name)
    found = read_index(str(case.make(matrix)))
    assert found.doubt.startswith(doubt) and bool(found.doubt) == bool(doubt)
    assert len(found.times) == (0 if doubt else numbered_videos.COUNT) and list(found.times) == sorted(found.times)


def test_where_the_size_changes_all_frames_have_the_first_ones(matrix):
    for case in (c for c in cases() if c.kind == "picture size changes"):
        path = case.make(matrix)
        assert {read_clip(path, [i]).shape for i in (0, 17, 18, 35)} == {(1, 96, 128, 3)}


def test_pictures_are_turned_as_ffmpeg_does(tmp_path):
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(upright("a", picture, (0, 1, -1, 0)), np.rot90(picture, -1))  # clockwise
    assert np.array_equal(upright("a", picture, (0, 2.5, -2.5, .01)), np.rot90(picture, -1))  # a scale changes nothing
    assert upright("a", picture, ()) is picture and upright("a", picture, (0, 0, 0, 0)) is picture
    with pytest.raises(VideoError, match="a: is to be shown turned by 5 degrees: allowed are quarter turns"):
        upright("a", picture, (.9962, .0872, -.0872, .9962))


def test_decord_reads_what_is_proven_and_nothing_else(matrix):
    """Most public clips are of the first kind: the speed that is published holds for these only."""
    if decoders.decord is None:
        pytest.skip("no decord here")
    used = {case.name: VideoFile(case.make(matrix)).decoder for case in cases()
            if case.kind.startswith(("H.264, closed GOP: mp4", "H.264, open GOP: mp4"))}
    assert used == {name: "pyav" if "open" in name or name.endswith("flv") else "decord" for name in used}


def test_what_tells_the_number_of_a_picture_can_fail():
    numbers = [numbered_videos.picture(i) for i in range(256)]
    colours = [np.repeat(n[..., None], 3, 2) for n in numbers]
    assert [numbered_videos.number_of(c) for c in colours] == list(range(256))
    for turned in (*(np.rot90(colours[77], k) for k in (1, 2, 3)), *(np.rot90(colours[77][::-1], k) for k in range(4))):
        assert numbered_videos.number_of(turned) == -1
    assert numbered_videos.number_of(colours[3] // 2 + colours[12] // 2) == -1


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


@pytest.mark.skipif(decoders.decord is None, reason="no decord here")
def test_both_decoders_give_the_same_pixels(tmp_path):
    path = encode(tmp_path / "a.mp4", g="250", bf="2")
    with VideoFile(path, "decord") as one, VideoFile(path, "pyav") as other:
        difference = one.frames(range(COUNT)).int() - other.frames(range(COUNT)).int()
    assert difference.abs().max() <= 2  # two versions of one colour conversion


def test_without_decord(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4")
    monkeypatch.setattr(decoders, "decord", None)
    monkeypatch.setattr(decoders, "torchcodec", lambda: None)
    with VideoFile(path) as file:
        assert file.decoder == "pyav" and numbers(file.frames([3, 1])) == [3, 1]
        assert file.why == "torchcodec is not installed, or finds no FFmpeg"


def test_decoders_are_named(tmp_path):
    with pytest.raises(ValueError, match="decoder = 'opencv': allowed is 'decord', 'torchcodec', 'pyav' or None"):
        VideoFile(tmp_path, "opencv")


def test_widths_that_decord_cannot_copy(tmp_path):
    for width in (16, 24, 48, 72, 80):
        frames = torch.randint(0, 256, (3, 48, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        write_clip(tmp_path / "narrow.mp4", frames)
        assert torch.equal(read_clip(tmp_path / "narrow.mp4", [2, 0]), frames[[2, 0]])


def test_long_videos_are_not_kept_in_memory(tmp_path, monkeypatch):
    """What is counted by decoding is kept while it is small, and decoded again where it is not."""
    path = encode(tmp_path / "a.avi", "mpeg4")
    with VideoFile(path) as file:
        assert len(file._decoder.kept) == COUNT and numbers(file.frames([30, 3])) == [30, 3]
    assert not file._decoder.kept
    monkeypatch.setattr(decoders, "KEPT", 20 * 64 * 96)
    with VideoFile(path) as file:
        assert not file._decoder.kept and len(file) == COUNT and numbers(file.frames([30, 3])) == [30, 3]


def test_jumping_decodes_no_more_than_a_group(tmp_path, monkeypatch):
    path, seen = encode(tmp_path / "a.mp4", g="5", bf="2", **{"x264-params": "scenecut=0"}), []
    decode = decoders.decode
    monkeypatch.setattr(decoders, "decode", lambda *a: (seen.append(f.pts) or f for f in decode(*a)))
    with VideoFile(path, "pyav") as file:
        assert numbers(file.frames([39, 11])) == [39, 11] and len(seen) <= 10


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

    monkeypatch.setattr(index.av, "open", lambda *_, **__: (_ for _ in ()).throw(av.error.PermissionError(13, "no")))
    monkeypatch.setattr(index, "open", refuse, raising=False)
    with pytest.raises(VideoError, match=rf"random\.mp4: cannot be opened \({error.strerror}\)"):
        VideoFile(bad / "random.mp4", decoder)


@pytest.mark.parametrize("error", [
    MemoryError("no"), IndexError("vector::_M_range_check"), ValueError("no"), OverflowError("no")])
def test_whatever_fails_in_a_decoder_names_the_file(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    path = encode(tmp_path / "a.mp4")
    for place in (decoders.Decord, decoders.PyAV):
        monkeypatch.setattr(place, "frames", fail)
    for decoder in (None, "pyav"):
        with pytest.raises(VideoError, match=r"a\.mp4: (asks for more memory|is damaged.*" + type(error).__name__ + ")"):
            VideoFile(path, decoder).frames([0])
    monkeypatch.setattr(video, "read_index", fail)
    with pytest.raises(VideoError, match=r"a\.mp4: "):
        VideoFile(path)


def huge(payload: bytes) -> bytes:
    """The size in a picture's own header, a JPEG's or VP8's, set to the largest there is."""
    at = payload.find(b"\xff\xc0")
    size = b"\xff\xdc\xff\xdc" if at > 0 else b"\xff\x3f\xff\x3f"
    at = at + 5 if at > 0 else 6
    return payload[:at] + size + payload[at + 4:]


@pytest.mark.parametrize("name, codec, pix_fmt", [
    ("a.avi", "mjpeg", "yuvj420p"), ("a.mov", "mjpeg", "yuvj420p"), ("a.webm", "libvpx", "yuv420p")])
def test_bombs_are_refused(tmp_path, name, codec, pix_fmt):
    """65500 x 65500 pixels asked for by a few hundred bytes; the container's header says 128 x 96."""
    source = numbered_videos.encode(tmp_path / f"source {name}", codec, range(3), pix_fmt=pix_fmt, g="1")
    data = [(huge(bytes(p)), p.pts, p.pts, True) for p in numbered_videos.packets(source)]
    path = numbered_videos.mux(tmp_path / name, source, data)
    with pytest.raises(VideoError, match="a frame cannot be decoded"):
        VideoFile(path)


def test_the_limit_on_a_picture_can_be_raised(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mp4")
    monkeypatch.setattr(index, "MAX_PIXELS", 64 * 96 - 1)
    with pytest.raises(VideoError, match=r"asks for pictures of 96x64: allowed is MAX_PIXELS = 6143 pixels"):
        VideoFile(path)
    monkeypatch.setattr(index, "MAX_PIXELS", 64 * 96)
    assert len(VideoFile(path)) == COUNT


def test_a_header_that_lies_about_its_frames_is_not_believed(tmp_path):
    """decord takes memory for as many as the header says, in a thread whose abort nobody can catch."""
    data = bytearray(encode(tmp_path / "a.mp4", bf="0").read_bytes())
    at = data.index(b"stsz") + 12
    for lie in (0xFFFFFFFF, 10**6):
        data[at:at + 4] = lie.to_bytes(4, "big")
        (tmp_path / "lie.mp4").write_bytes(data)
        with pytest.raises(VideoError):
            VideoFile(tmp_path / "lie.mp4")


def test_frame_count(tmp_path, bad):
    assert frame_count(encode(tmp_path / "a.mp4", frames=numbered(17))) == 17
    with pytest.raises(VideoError):
        frame_count(bad / "truncated.mp4")


def test_errors_survive_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is empty")))
    assert str(error) == "a.mp4: is empty" and (error.path, error.reason) == ("a.mp4", "is empty")
