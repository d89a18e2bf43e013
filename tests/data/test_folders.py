"""A folder of classes becomes list files: what cannot be read is named, and copies and pieces of a recording stay on one side."""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest
import torch
from test_video import encode, sound

from i2vlib.data import folders
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.folders import FolderError, folder_lists, recordings
from i2vlib.data.isolated import Isolated
from i2vlib.data.lists import read_list
from i2vlib.data.video import write_clip
from i2vlib.protocol import ClipConfig

CLIP = ClipConfig(2, size=16, short_side=16, test_short_side=16, random_crop=False, flip=0.0)


class Here:
    """In the place of Isolated: a process for each of these folders would take minutes."""

    def __enter__(self):
        return lambda function, *args: function(*args)

    def __exit__(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(folders, "Isolated", Here)


def film(path, frames: int = 10, seed: int = 0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(0, 256, (frames, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    write_clip(path, pixels)
    return path


def folder_of(tmp_path, **classes: int):
    for number, (name, clips) in enumerate(classes.items()):
        for i in range(clips):
            film(tmp_path / "own" / name / f"clip {i}.mp4", 4, 10 * number + i)
    return tmp_path / "own"


def wrong_files(tmp_path) -> dict:
    """One file of each kind that people bring, and a piece of the reason that each must get."""
    whole = film(tmp_path / "whole.mp4").read_bytes()
    wrong = {"notes.mp4": (b"not a video at all", "is not a video"), "nothing.mp4": (b"", "is empty"),
             "cut.mp4": (whole[:len(whole) // 2], "is cut off"), "short.mp4": (film(tmp_path / "s.mp4", 1).read_bytes(),
                                                                              "is too short: it has 1 frame, a clip takes 2")}
    sound(tmp_path / "song.mp4")
    wrong["song.mp4"] = (tmp_path / "song.mp4").read_bytes(), "holds no video, only audio"
    middle = bytearray(encode(tmp_path / "x.mp4", g="250", bf="0").read_bytes())
    start = middle.index(b"mdat") + 4
    size = int.from_bytes(middle[start - 8:start - 4], "big") - 8
    middle[start:start + size] = b"\xff" * size  # the index is whole: nobody notices before a frame is decoded
    wrong["damaged.mp4"] = bytes(middle), "is damaged"
    return wrong


def test_a_folder_becomes_lists_that_the_data_set_reads(tmp_path):
    folder = folder_of(tmp_path, walks=8, **{"runs fast": 4, "a, b 3": 2})
    lists = folder_lists(folder, tmp_path / "lists", 0.25, seed=1)
    assert lists.class_names == ("a, b 3", "runs fast", "walks") and not lists.skipped
    assert lists.counts == {"a, b 3": (1, 1), "runs fast": (3, 1), "walks": (6, 2)}
    parts = [{(e.path, e.label) for e in read_list(p)} for p in (lists.train, lists.val)]
    everything = {(f"{name}/clip {i}.mp4", label) for label, (name, n) in
                  enumerate([("a, b 3", 2), ("runs fast", 4), ("walks", 8)]) for i in range(n)}
    assert parts[0] | parts[1] == everything and not parts[0] & parts[1]
    data = VideoDataset(lists.val, folder, CLIP, train=False)
    assert tuple(data.class_names) == lists.class_names and not any(item["error"] for item in data)


def test_the_split_is_the_seeds_and_a_class_keeps_its_own(tmp_path):
    folder = folder_of(tmp_path, walks=8, runs=8)

    def held(seed, name):
        return [e.path for e in read_list(folder_lists(folder, tmp_path / "lists", 0.5, seed).val) if e.path.startswith(name)]

    assert held(0, "walks") == held(0, "walks") and len({tuple(held(s, "walks")) for s in range(6)}) > 1
    before = held(0, "walks")
    film(folder / "jumps" / "a.mp4")
    film(folder / "jumps" / "b.mp4")
    assert held(0, "walks") == before
    assert held(0, "walks") != [path.replace("runs", "walks") for path in held(0, "runs")], "each class draws its own"
    both = folder_of(tmp_path / "two", walks=2, runs=2)
    assert folder_lists(both, tmp_path / "lists", 0.9).counts == {"runs": (1, 1), "walks": (1, 1)}, "one stays to train on"


# ---- who is held out ----

@pytest.mark.parametrize("names, same", [
    (["a.mp4", "a_rev.mp4", "b.mp4"], [0, 0, 1]), (["x/a.mp4", "y/A-Reversed.mov", "y/b.mp4"], [0, 0, 1]),
    (["a.mp4", "a - copy.mp4", "Copy of a.mp4", "a_flip_2.mp4"], [0, 0, 0, 0]),
    (["v_g01_c01.avi", "v_g01_c02.avi", "v_g02_c01.avi"], [0, 0, 1]),
    (["id_000010_000020.mp4", "id_000030_000040.mp4", "di_000010_000020.mp4"], [0, 0, 1]),
    (["a_part1.mp4", "a_part2_rev.mp4", "a.mp4"], [0, 0, 0]), (["a (1).mp4", "a (2).mp4"], [0, 0]),
    (["11_1.mp4", "11_2.mp4", "12_1.mp4", "11.mp4"], [0, 0, 1, 0]), (["0_1_4.mp4", "0_1_2.mp4", "0_2_4.mp4"], [0, 0, 1]),
    (["00.mp4", "01.mp4"], [0, 1]), (["x/00.mp4", "y/00.mp4"], [0, 1]), (["clip 1.mp4", "clip 2.mp4"], [0, 1]),
    (["part1.mp4", "part2.mp4"], [0, 1]), (["rev.mp4", "prev.mp4"], [0, 1]), (["GX010001.MP4", "GX010002.MP4"], [0, 1]),
])
def test_names_tell_recordings(names, same):
    found = recordings(names)
    assert [found.index(f) for f in found] == [same.index(s) for s in same]


def test_pieces_may_be_left_apart_but_copies_never_are():
    names = ["a_part1.mp4", "a_part2.mp4", "a_part1_rev.mp4"]
    assert len(set(recordings(names))) == 1 and len(set(recordings(names, pieces=False))) == 2


def copies_of(tmp_path, names: list[str], distinct: bool = True):
    """Files of these names (class/clip.mp4); distinct: no two are equal, byte by byte."""
    source = film(tmp_path / "source.mp4", 4).read_bytes()
    for i, name in enumerate(names):
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source + bytes([0, 0, 0, 9]) + b"free" + bytes([i]) if distinct else source)  # an empty box of MP4
    return tmp_path / "own"


def sides(lists) -> tuple[set[str], set[str]]:
    return tuple({e.path for e in read_list(p)} for p in (lists.train, lists.val))


@pytest.mark.parametrize("seed", range(3))
def test_a_reversal_is_on_the_side_of_its_clip_though_its_class_is_another(tmp_path, seed):
    names = [n for i in range(6) for n in (f"sit/{i}.mp4", f"stand/{i}_rev.mp4", f"stand/{i}b.mp4", f"sit/{i}b_rev.mp4")]
    lists = folder_lists(copies_of(tmp_path, names), tmp_path / "lists", 0.25, seed)
    assert lists.counts == {"sit": (9, 3), "stand": (9, 3)} and not lists.warning
    train, val = ({name.split("/")[1].removesuffix(".mp4").removesuffix("_rev") for name in side} for side in sides(lists))
    assert not train & val and len(val) == 3


def test_pieces_of_a_recording_are_not_divided(tmp_path):
    names = [f"{kind}/{kind}_{r}_{i}.mp4" for kind, most in (("jump", 4), ("walk", 6)) for r in range(most) for i in range(3)]
    lists = folder_lists(copies_of(tmp_path, names), tmp_path / "lists", 0.25)
    train, val = (set(recordings(sorted(side))) for side in sides(lists))
    assert not train & val and Counter(r.split("_")[0] for r in val) == {"jump": 1, "walk": 1} and not lists.warning
    assert lists.counts == {"jump": (9, 3), "walk": (15, 3)}, "no more than the share, where it can be kept"


def test_equal_files_are_one_clip(tmp_path):
    folder = folder_of(tmp_path, runs=4, walks=4)
    for i in range(4):
        shutil.copy(folder / "walks" / f"clip {i}.mp4", folder / "walks" / f"other {i}.mp4")
    train, val = sides(folder_lists(folder, tmp_path / "lists", 0.5))
    assert {n.replace("other", "clip") for n in val} & {n.replace("other", "clip") for n in train} == set()


def test_a_class_of_one_recording_is_divided_with_a_warning(tmp_path, capsys):
    names = [f"{kind}/{kind} ({i}).mp4" for kind in ("jump", "walk") for i in range(4)]  # what Windows calls a renamed selection
    lists = folder_lists(copies_of(tmp_path, names), tmp_path / "lists", 0.25)
    assert lists.counts == {"jump": (3, 1), "walk": (3, 1)} and "recognising a recording" in lists.warning
    assert "beware: a class has too few recordings" in capsys.readouterr().out
    lists = folder_lists(copies_of(tmp_path / "two", names, distinct=False), tmp_path / "lists", 0.25)
    assert lists.counts == {"jump": (3, 1), "walk": (3, 1)} and lists.warning, "one clip eight times"


# ---- what is left out ----

def test_a_video_with_a_damaged_end_is_left_out(tmp_path):
    folder = folder_of(tmp_path, walks=2, runs=2)
    torn = bytearray(encode(folder / "walks" / "torn.mp4", g="250", bf="0").read_bytes())
    start = torn.index(b"mdat") - 4
    end = start + int.from_bytes(torn[start:start + 4], "big")
    torn[end - 180:end] = b"\xff" * 180  # a tenth of the frames' bytes: the first and the middle frame are whole
    (folder / "walks" / "torn.mp4").write_bytes(torn)
    assert folder_lists(folder, tmp_path / "lists").skipped == {"walks/torn.mp4": "is damaged: a frame cannot be decoded"}


def test_damage_is_left_out_unless_asked_for(tmp_path):
    folder = folder_of(tmp_path, runs=2, walks=3)
    path = encode(folder / "walks" / "bit.mkv")
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"lavf", 1))  # its pictures are right, a checksum is not
    assert folder_lists(folder, tmp_path / "lists").skipped["walks/bit.mkv"].startswith("is damaged: a checksum is wrong")
    assert not folder_lists(folder, tmp_path / "lists", strict=False).skipped


def test_a_file_that_ends_its_process_is_left_out(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, runs=2, walks=3)
    monkeypatch.setattr(folders, "Isolated", Isolated)
    monkeypatch.setattr(folders, "fault", _abort_on_walks)
    lists = folder_lists(folder, tmp_path / "lists")
    assert lists.counts == {"runs": (1, 1), "walks": (1, 1)} and "aborted" in lists.skipped["walks/clip 1.mp4"]


def _abort_on_walks(path, frames):
    if path.name == "clip 1.mp4" and path.parent.name == "walks":
        os.abort()
    return ""


def test_what_cannot_be_read_is_named_once_and_left_out(tmp_path, capsys):
    folder, wrong = folder_of(tmp_path, walks=3, runs=2), wrong_files(tmp_path)
    for name, (content, _) in wrong.items():
        (folder / "walks" / name).write_bytes(content)
    (folder / "walks" / "more").mkdir()
    (folder / "walks" / ".DS_Store").write_bytes(b"x")
    (folder / ".ipynb_checkpoints").mkdir()
    lists = folder_lists(folder, tmp_path / "lists", frames=2)
    assert set(lists.skipped) == {f"walks/{n}" for n in (*wrong, "more")} and lists.skipped["walks/more"] == "is a folder"
    assert all(reason in lists.skipped[f"walks/{name}"] for name, (_, reason) in wrong.items())
    printed = capsys.readouterr().out
    assert all(printed.count(f"left out: walks/{name}: ") == 1 for name in wrong) and str(tmp_path) not in printed
    assert lists.counts == {"runs": (1, 1), "walks": (2, 1)}


def test_a_folder_that_cannot_be_trained_on_says_why(tmp_path):
    lists = tmp_path / "lists"
    with pytest.raises(FolderError, match="nowhere: there is no such folder"):
        folder_lists(tmp_path / "nowhere", lists)
    film(tmp_path / "flat" / "a.mp4")
    with pytest.raises(FolderError, match=r"flat: holds no folders; expected .* class/clip\.mp4"):
        folder_lists(tmp_path / "flat", lists)
    folder = folder_of(tmp_path, walks=2)
    with pytest.raises(FolderError, match="holds only the folder 'walks'"):
        folder_lists(folder, lists)
    (folder / "runs").mkdir()
    with pytest.raises(FolderError, match="class 'runs' has no readable video: its folder is empty"):
        folder_lists(folder, lists)
    (folder / "runs" / "a.mp4").write_bytes(b"no")
    with pytest.raises(FolderError, match="class 'runs' has no readable video; the first file: a.mp4: is not a video"):
        folder_lists(folder, lists)
    film(folder / "runs" / "b.mp4")
    with pytest.raises(FolderError, match="class 'runs' has 1 readable video: allowed is 2 or more"):
        folder_lists(folder, lists)
    with pytest.raises(ValueError, match="val_share = 1: allowed is above 0 and below 1"):
        folder_lists(folder, lists, 1)


STRANGE = ["two\nlines", "ends in 12", "a\u2028b", " blanks ", 'quo"ted', '"quoted"', "# 1", "1 finger", "a, b; c\td", "é 跳 🎬",
           "<img src=x>", "$frac{$", "{0} %s `x` |"]


@pytest.mark.parametrize("name", STRANGE)
def test_any_name_of_a_class_or_file_comes_back_out_of_the_lists(tmp_path, name):
    folder = folder_of(tmp_path, walks=2)
    for clip in ("a.mp4", f"{name}.mp4", name):  # the last has no ending
        film(tmp_path / "x.mp4", 4)
        (folder / name).mkdir(exist_ok=True)
        (tmp_path / "x.mp4").rename(folder / name / clip)
    lists = folder_lists(folder, tmp_path / "lists", 0.3)
    data = [VideoDataset(p, folder, CLIP, train=False) for p in (lists.train, lists.val)]
    assert set(lists.class_names) == {"walks", name} and all(tuple(d.class_names) == lists.class_names for d in data)
    assert {(e.path, lists.class_names[e.label]) for d in data for e in d.entries} >= {
        (f"{name}/{clip}", name) for clip in ("a.mp4", f"{name}.mp4", name)}
    assert not any(item["error"] for d in data for item in d)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_a_list_cannot_hold_is_refused(tmp_path, capsys):
    folder = folder_of(tmp_path, walks=2, runs=2)
    film(tmp_path / "x.mp4").rename(folder / "walks" / "a\\b.mp4")
    with pytest.raises(FolderError, match=r"'walks/a\\\\b.mp4' cannot stand in a list file, where it reads as 'walks/a/b.mp4'"):
        folder_lists(folder, tmp_path / "lists", 0.3)
    bad = os.fsdecode(b"\xff")  # a file from a machine with another encoding
    (folder / "walks" / "a\\b.mp4").rename(folder / "walks" / f"{bad}.mp4")
    assert folder_lists(folder, tmp_path / "lists", 0.3).skipped == {
        "walks/\\udcff.mp4": "has a name that is no Unicode text: rename it"} and "udcff" in capsys.readouterr().out
    (folder / "walks").rename(folder / bad)
    with pytest.raises(FolderError, match="the folder '.udcff' is no Unicode text"):
        folder_lists(folder, tmp_path / "lists", 0.3)
