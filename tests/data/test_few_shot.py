"""Few-shot lists: the clips that `sha256sum` ranks first, nested shots, ordinary lists in and out, errors that name."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest

import i2vlib as i2v
from i2vlib.data.classes import class_names
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.few_shot import few_shot, few_shot_lists
from i2vlib.data.lists import Entry, ListError, read_list, write_list
from i2vlib.protocol import ClipConfig

CLIP = ClipConfig(frames=2, size=16, short_side=16, test_short_side=16)
# printf 0/1/x/a.mp4 | sha256sum, and so on: the first digits of each
RANKS = {1: {"c": 0x390272D4, "d": 0x7769AA27, "b": 0x9DA74AB7, "e": 0xD9E872F0, "a": 0xDB0B30D4},
         2: {"e": 0x01F322AC, "d": 0xB1FB9E5E, "c": 0xDD03013F, "b": 0xECEDCA97, "a": 0xEF258230}}
FIVE = [Entry(f"x/{name}.mp4", 0) for name in "abcde"]
THREE = [Entry(f"y/{name}.mp4", 1) for name in "pqr"]  # in fold 1 q, r, p


def text_of(clips: list[Entry]) -> str:
    return "".join(f"{e.path} {e.label}\n" for e in clips)


def listed(folder: Path, text: str, **beside: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {"train.txt": text, **{f"{k}.txt": v for k, v in beside.items()}}.items():
        (folder / name).write_text(content)
    return folder / "train.txt"


@pytest.mark.parametrize("shots", range(1, 6))
@pytest.mark.parametrize("fold", RANKS)
def test_the_clips_that_sha256sum_ranks_first_in_the_order_of_the_list(fold, shots):
    first = sorted(sorted(RANKS[fold], key=RANKS[fold].get)[:shots])
    assert few_shot(FIVE, shots, fold) == [Entry(f"x/{name}.mp4", 0) for name in first]


def test_neither_the_order_of_the_list_nor_other_classes_matter():
    drawn = few_shot(FIVE + THREE, 2)
    assert drawn == [FIVE[2], FIVE[3], THREE[1], THREE[2]]
    shuffled = random.Random(0).sample(FIVE + THREE, 8)
    assert set(few_shot(shuffled, 2)) == set(drawn) and few_shot(shuffled, 2) == [e for e in shuffled if e in drawn]
    assert few_shot(FIVE, 2) == drawn[:2]


def test_four_are_among_sixteen_and_folds_and_seeds_differ():
    clips = [Entry(f"{label}/{i}.mp4", label) for label in range(3) for i in range(40)]
    four, sixteen = ([set(few_shot(clips, k, fold)) for fold in (1, 2, 3)] for k in (4, 16))
    assert all(a < b for a, b in zip(four, sixteen, strict=True))
    assert [len(a) for a in four + sixteen] == [12] * 3 + [48] * 3
    assert len(set(map(frozenset, four))) == 3 and set(few_shot(clips, 4, seed=1)) not in four


def test_an_entry_that_stands_twice_is_one_clip():
    assert few_shot([*FIVE[:2], FIVE[0]], 2) == FIVE[:2]
    with pytest.raises(ListError, match=r"class 0 has 2 clip\(s\): allowed is 3 or more"):
        few_shot([*FIVE[:2], FIVE[0], Entry("x/./a.mp4", 0)], 3)


def test_lists_are_written_a_fold_and_read_by_a_data_set(tmp_path):
    source = listed(tmp_path / "in", text_of(FIVE + THREE), classes="jump\nrun fast\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = few_shot_lists(source, tmp_path / "out", 2)
    assert [p.name for p in paths] == [f"train-2shot-fold{fold}.txt" for fold in (1, 2, 3)]
    assert read_list(paths[0]) == [FIVE[2], FIVE[3], THREE[1], THREE[2]]
    assert read_list(paths[1])[:2] == [FIVE[3], FIVE[4]]
    dataset = VideoDataset(paths[0], tmp_path, CLIP, train=True)
    assert (len(dataset), dataset.classes, dataset.class_names) == (4, 2, ["jump", "run fast"])
    before = [p.read_bytes() for p in paths]
    assert few_shot_lists(source, tmp_path / "out", 2) == paths and [p.read_bytes() for p in paths] == before
    assert i2v.few_shot_lists is few_shot_lists


def test_folders_of_frames_and_paths_with_blanks_come_through(tmp_path):
    clips = [Entry("my clips/a b.mp4", 0), Entry("frames/one two", 1, 30), Entry("frames/three", 1, 12)]
    source = listed(tmp_path / "in", "")
    write_list(source, clips)
    first, second = read_list(few_shot_lists(source, tmp_path / "out", 1, folds=1)[0])
    assert first == clips[0] and second in clips[1:]


def test_a_list_that_counts_from_one_is_written_from_zero(tmp_path):
    names = "1 ApplyEyeMakeup\n2 Archery\n"
    text = "".join(f"{name}/v{i}.avi {label}\n" for label, name in enumerate(("ApplyEyeMakeup", "Archery"), 1) for i in range(3))
    source = listed(tmp_path / "in", text, classInd=names)
    path = few_shot_lists(source, tmp_path / "out", 2, folds=1)[0]
    assert class_names(path) == ["ApplyEyeMakeup", "Archery"]
    assert [(e.path.split("/")[0], e.label) for e in read_list(path)] == [("ApplyEyeMakeup", 0)] * 2 + [("Archery", 1)] * 2
    with pytest.raises(ListError, match="would not read as it was drawn.*allowed is a folder of its own"):
        few_shot_lists(source, tmp_path / "in", 2)  # classInd.txt there says that numbers begin at 1
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["classInd.txt", "train.txt"], "nothing else is left there"


@pytest.mark.parametrize("classes, said", [
    ("jump\nrun\n", r"train.txt: class 1 'run' has 3 clip\(s\): allowed is 4 or more, to draw 4 of them"),
    ("", r"train.txt: class 1 has 3 clip\(s\)"),
    ("jump\nrun\nsit\n", r"class 2 'sit' has 0 clip\(s\)"),
])
def test_a_class_with_too_few_clips_is_named(tmp_path, classes, said):
    shots = 3 if "sit" in classes else 4
    source = listed(tmp_path / "in", text_of(FIVE + THREE), **({"classes": classes} if classes else {}))
    with pytest.raises(ListError, match=said):
        few_shot_lists(source, tmp_path / "out", shots)
    assert not (tmp_path / "out").exists()


def test_other_names_in_the_folder_are_refused(tmp_path):
    source = listed(tmp_path / "in", text_of(FIVE + THREE), classes="jump\nrun\n")
    listed(tmp_path / "out", "", classes="run\njump\n")
    with pytest.raises(ListError, match="names of classes that lie in"):
        few_shot_lists(source, tmp_path / "out", 2)


@pytest.mark.parametrize("given, said", [({"shots": 0}, "shots = 0: allowed is 1 or more"),
                                         ({"shots": 1, "folds": 0}, "folds = 0: allowed is 1 or more")])
def test_numbers_below_one_are_refused(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        few_shot_lists(listed(tmp_path / "in", text_of(FIVE)), tmp_path / "out", **given)
    with pytest.raises(ValueError, match="fold = 0: allowed is 1 or more"):
        few_shot(FIVE, 1, fold=0)
