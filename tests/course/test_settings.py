from __future__ import annotations

import json
from pathlib import Path

import pytest

from i2vlib import places
from i2vlib.config import ConfigError
from i2vlib.course import settings as module
from i2vlib.course.settings import read_metrics, read_sets, run_folder, settle, write_json
from i2vlib.data.lists import ListError

MOTION = "zeroi2v-mini-motion"


def lists(folder: Path, **labels: list[int]) -> dict[str, str]:
    """List files with these labels, over files that need not exist: nothing is decoded here."""
    given = {"data_root": str(folder)}
    for name, numbers in labels.items():
        (folder / f"{name}.txt").write_text("".join(f"{name}{i}.mp4 {label}\n" for i, label in enumerate(numbers)))
        given[f"{name}_list"] = str(folder / f"{name}.txt")
    return given


def test_empty_and_zero_keep_what_preset_and_protocol_say():
    plain, given = settle(MOTION), settle(MOTION, steps=12, batch_size=8, lr=0.1, workers=0, seed=3, validate_every=4)
    assert (plain.protocol, plain.weights, plain.embedded) == ("mini-motion", "mini", True)
    assert plain.train.steps == 200 and plain.train.validate_every == 40
    train = given.train
    assert (train.steps, train.batch_size, train.lr, train.seed, train.validate_every) == (12, 8, 0.1, 3, 4)
    large = settle("zeroi2v-b16-8f-k400", train_list="a", val_list="b", data_root="c")
    assert large.weights == "openai" and large.train.validate_every == 0  # after each pass


@pytest.mark.parametrize("quick", [None, True, False])
def test_quick_gelu_reaches_the_tower(quick):
    given = settle("zeroi2v-b16-8f-k400", train_list="a", val_list="b", data_root="c", quick_gelu=quick)
    assert given.model.tower.quick_gelu is quick


@pytest.mark.parametrize("given, said", [
    ({"preset": "no-such"}, "parameter preset = 'no-such': allowed are .* the nearest"),
    ({"protocol": "no-such"}, "parameter protocol = 'no-such': allowed are"),
    ({"protocol": "k400-8f"}, "8 frames of 224 pixels.*takes 4 of 48"),
    ({"preset": "zeroi2v-b16-8f-k400"}, "needs clips: give train_list, val_list and data_root, or a miniature preset"),
    ({"train_list": "a"}, "parameter val_list is empty"),
    ({"train_list": "a", "val_list": "b"}, "parameter data_root is empty"),
    ({"steps": -1}, "steps"),
])
def test_what_does_not_fit_is_named(given, said):
    with pytest.raises(ConfigError, match=said):
        settle(**{"preset": MOTION, **given})


def test_embedded_validation_clips_are_held_out_in_whole_twins_and_the_test_list_is_apart():
    settings, sets = read_sets(settle(MOTION))
    assert len(sets.train) == 4096 - module.HELD_OUT and len(sets.val) == module.HELD_OUT and len(sets.test) == 384
    paths = [{e.path for e in s.entries} for s in (sets.train, sets.val, sets.test)]
    assert not (paths[0] & paths[1] or paths[1] & paths[2] or paths[0] & paths[2])
    labels = [e.label for e in sets.val.entries]
    assert all(a % 2 == 0 and b == a + 1 for a, b in zip(labels[::2], labels[1::2], strict=True))
    assert sets.train.train and not sets.val.train and not sets.test.train and sets.names[0] == "moves left"


def test_a_miniature_preset_takes_lists_with_a_head_of_their_classes(tmp_path):
    settings, sets = read_sets(settle(MOTION, **lists(tmp_path, train=[0, 1, 2, 2], val=[0, 2], test=[1])))
    assert settings.model.classes == 3 and sets.names == ("0", "1", "2") and not settings.embedded
    assert len(sets.test) == 1 and sets.tested == "the clips of test_list"
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    settings, sets = read_sets(settle(MOTION, **lists(tmp_path, train=[0, 1, 2, 3], val=[0, 3])))
    assert settings.model.classes == 4 and sets.names == ("a", "b", "c", "d")
    assert sets.test is sets.val and "no test_list was given" in sets.tested


@pytest.mark.parametrize("labels, said", [
    ({"val": [0, 3]}, r"val_list .*val.txt, entry 2 \(val1.mp4\): label 3: the training list has 3 classes, allowed is 0 to 2"),
    ({"val": [0, 1], "test": [7]}, r"test_list .*test.txt, entry 1 \(test0.mp4\): label 7"),
])
def test_a_label_that_the_training_list_lacks_is_found_before_anything_trains(tmp_path, labels, said):
    with pytest.raises(ListError, match=said):
        read_sets(settle(MOTION, **lists(tmp_path, train=[0, 1, 2], **labels)))


def test_classes_in_another_order_are_found(tmp_path):
    given = lists(tmp_path, train=[0, 1], val=[0, 1])
    (tmp_path / "classes.txt").write_text("jump\nwalk\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/classes.txt").write_text("walk\njump\n")
    (tmp_path / "other/val.txt").write_text("a.mp4 0\n")
    with pytest.raises(ListError, match="calls class 0 'walk', that of the training list 'jump'"):
        read_sets(settle(MOTION, **{**given, "val_list": str(tmp_path / "other/val.txt")}))


def test_labels_that_count_from_1_are_taken_as_told(tmp_path):
    settings, sets = read_sets(settle(MOTION, **lists(tmp_path, train=[1, 2, 3], val=[1, 3]), first_label=1))
    assert settings.model.classes == 3 and [e.label for e in sets.val.entries] == [0, 2]


@pytest.mark.filterwarnings("ignore:.*no entry has label 0")
def test_lists_numbered_from_0_and_from_1_are_noticed(tmp_path):
    with pytest.warns(UserWarning, match="val_list .*: no training clip has label 0: .*numbered alike"):
        read_sets(settle(MOTION, **lists(tmp_path, train=[1, 2, 3], val=[0, 1, 2])))


def test_the_run_folder_lies_in_the_repository_whatever_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "REPOSITORY", tmp_path / "course")
    (tmp_path / "course/notebooks").mkdir(parents=True)
    assert run_folder("", "04") == tmp_path / "course/build/04" and (tmp_path / "course/build/04").is_dir()
    assert run_folder("", "04", {"seed": 1, "lr": 0.5}).name == "04-seed=1-lr=0.5"
    long = run_folder("", "04", {"train_list": "../some where/list.txt"})
    assert long.parent == tmp_path / "course/build" and long.name.startswith("04-")
    assert run_folder(str(tmp_path / "mine"), "04", {"seed": 1}) == tmp_path / "mine"


def test_without_a_course_to_write_into_it_lies_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "REPOSITORY", tmp_path / "installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder("", "06") == tmp_path / ".cache/i2vlib/build/06"


def test_records_are_whole_json(tmp_path):
    write_json(tmp_path / "settings.json", settle(MOTION).to_dict())
    back = json.loads((tmp_path / "settings.json").read_text())
    assert back["preset"] == MOTION and back["train"]["steps"] == 200 and back["versions"]["torch"]
    assert back["model"]["temporal"]["offsets"][:2] == [-1, 1] and list(tmp_path.iterdir()) == [tmp_path / "settings.json"]
    (tmp_path / "metrics.jsonl").write_text('{"split": "train", "step": 1}\n{"split": "val", "step": 1, "top1": 0.5}\n')
    assert read_metrics(tmp_path, "val") == [{"split": "val", "step": 1, "top1": 0.5}]
