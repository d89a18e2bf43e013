"""Damage is found in every kind of file, and in none that is whole."""

from __future__ import annotations

import random

import av
import numpy as np
import pytest
from bench_damage import KINDS, WAYS, digest, look, make_damaged, make_good, spoil, table
from frame_table import cases
from PIL import Image

from i2vlib.data.strict import damage, fault

AVAILABLE = [kind for kind, (codec, _) in KINDS.items() if codec in av.codecs_available]
LAX = {"hevc.mp4", "av1.mp4", "av1.webm", "vp8.webm"}  # whose codecs have few rules that noise breaks


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_good(tmp_path_factory.mktemp("good"), AVAILABLE)


@pytest.mark.parametrize("kind", AVAILABLE)
def test_whole_files_of_every_kind_pass(good, kind):
    assert fault(good[kind], 30) == "" == damage(good[kind])
    assert fault(good[kind], 31) == "is too short: it has 30 frames, a clip takes 31"


def test_files_that_players_show_pass(tmp_path):
    """One of each kind of the frame matrix: edit lists, hidden frames, cuts by stream copy, joined streams, covers."""
    one_each = {case.kind: case for case in cases() if not case.refused}
    hard = [case for case in cases() if case.name in ("cut anywhere.ts", "edit gop start b0.mp4", "size 64x48.ts")]
    for case in [*one_each.values(), *hard]:
        path = case.make(tmp_path)
        assert (fault(path) or damage(path)) == "", case.name


@pytest.mark.parametrize("kind", AVAILABLE)
def test_noise_in_the_pictures_is_found(good, kind, tmp_path):
    tried = found = 0
    for seed in range(16):
        data, rng = bytearray(good[kind].read_bytes()), random.Random(seed)
        at = rng.randrange(len(data) // 4, len(data) * 3 // 4)
        data[at:at + 64] = rng.randbytes(64)
        (tmp_path / kind).write_bytes(data)
        if not fault(tmp_path / kind):
            tried, found = tried + 1, found + bool(damage(tmp_path / kind))
    assert kind in LAX or found >= 0.5 * tried > 0


@pytest.mark.parametrize("kind", ["h264.mp4", "hevc.mp4", "h264.mkv", "hevc.mkv"])
def test_a_lost_sector_is_found(good, kind, tmp_path):
    whole = good[kind].read_bytes()
    at = len(whole) // 2
    (tmp_path / kind).write_bytes(whole[:at] + bytes(512) + whole[at + 512:])
    assert fault(tmp_path / kind) or damage(tmp_path / kind).startswith("is damaged: ")


def test_the_checksums_of_matroska_find_a_single_bit(good, tmp_path):
    whole = good["h264.mkv"].read_bytes()
    for at in range(len(whole) // 3, len(whole) * 2 // 3, 997):
        data = bytearray(whole)
        data[at] ^= 1
        (tmp_path / "bit.mkv").write_bytes(data)
        assert fault(tmp_path / "bit.mkv") or damage(tmp_path / "bit.mkv"), at


def test_a_transport_stream_that_ends_within_a_packet_is_cut_off(good, tmp_path):
    whole = good["h264.ts"].read_bytes()
    for cut in (1, 100, 187):
        (tmp_path / "cut.ts").write_bytes(whole[:-cut])
        assert "is cut off" in (fault(tmp_path / "cut.ts") or damage(tmp_path / "cut.ts"))


def test_rows_of_hevc_that_begin_elsewhere_than_the_header_says(good, tmp_path):
    """One thread reads on where a damaged row ended; several begin each row at its place: other pictures, so no sound file."""
    whole, said = good["hevc rows.mp4"].read_bytes(), set()
    for seed in range(12):
        data, rng = bytearray(whole), random.Random(seed)
        at = rng.randrange(len(data) // 4, len(data) * 3 // 4)
        data[at:at + 32] = rng.randbytes(32)
        (tmp_path / "rows.mp4").write_bytes(data)
        said.add("" if fault(tmp_path / "rows.mp4") else damage(tmp_path / "rows.mp4").split(" of packet")[0])
    assert "is damaged: two decoders show other pictures" in said


def test_images_of_a_folder_are_searched_too(tmp_path):
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"img_{i + 1:05d}.jpg", quality=95)
    assert fault(tmp_path, 3, 3) == "" == damage(tmp_path, 3)
    assert fault(tmp_path, 4, 3).startswith("is too short: it has 3 frames")
    assert "img_00004.jpg cannot be read" in fault(tmp_path, 1, 4) and "no such folder" in fault(tmp_path / "gone", 1, 3)
    data = bytearray((tmp_path / "img_00002.jpg").read_bytes())
    data[len(data) // 2:len(data) // 2 + 200] = random.Random(0).randbytes(200).replace(b"\xff", b"\0")
    (tmp_path / "img_00002.jpg").write_bytes(data)
    assert fault(tmp_path, 3, 3) == "" and damage(tmp_path, 3).startswith("img_00002.jpg is damaged: ")


def test_a_track_in_an_unknown_code_is_refused(good, tmp_path):
    (tmp_path / "new.mkv").write_bytes(good["h264.mkv"].read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    assert "no decoder here knows" in fault(tmp_path / "new.mkv")


def test_the_log_level_of_pyav_stays(good):
    before = av.logging.get_level()
    damage(good["h264.mp4"])
    assert av.logging.get_level() == before


# ---- the benchmark's own parts ----

def test_the_benchmark_draws_the_same_files_and_tells_right_from_wrong(good, tmp_path):
    few = {kind: good[kind] for kind in ("h264.mp4", "mpeg4.avi")}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths, again = (make_damaged(few, tmp_path / folder, 2 * len(WAYS), seed=1) for folder in "ab")
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    assert all(spoil(b"x" * 999, way, random.Random(0)) != b"x" * 999 for way in WAYS if way != "swapped")
    rows = [{"file": p.name, **look(str(p), str(few[p.name.split(" of ")[1]]))} for p in paths]
    verdicts = {row["verdict"] for row in rows}
    assert {"right", "spoilt", "refused at open"} <= verdicts and f"| all | {len(rows)} |" in table(rows, 0)
    whole = str(good["h264.mp4"])
    assert look(whole, whole)["verdict"] == "right" and look(whole, whole)["digest"] == digest(whole) and digest("gone") == ""
    assert look(str(good["mjpeg.mov"]), whole)["verdict"] == "spoilt"
