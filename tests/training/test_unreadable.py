"""A run or a test does not end well on next to nothing: it stops early, says what to look at and writes no model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from _train_victim import TRAIN, TinySet, tiny_model

from i2vlib.config import ConfigError
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.loading import Batches
from i2vlib.protocol import ClipConfig, TrainConfig
from i2vlib.training import runs
from i2vlib.training.evaluate import evaluate
from i2vlib.training.train import train
from i2vlib.training.unreadable import LOOK_UP, UnreadableError, check_found, too_many

CLIP = ClipConfig(2, size=16, short_side=16, test_short_side=16)


def listed(root, paths):
    return SimpleNamespace(root=root, entries=[SimpleNamespace(path=path, label=i % 3) for i, path in enumerate(paths)])


def run(data, config, out, **options):
    return train(tiny_model(), data, config, out, progress=False, **options)


def test_a_wrong_root_stops_a_run_before_it_writes_anything(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"train/{i:05d}.mp4 {i % 3}\n" for i in range(32)))
    data = VideoDataset(tmp_path / "list.txt", tmp_path, CLIP, train=True)
    message = f"32 of 32 files of the training set .*{tmp_path}: .*00000.mp4: there is no such file.*root.*backslashes.*quotes"
    with pytest.raises(UnreadableError, match=message):
        run(data, TRAIN, tmp_path / "run")
    with pytest.raises(UnreadableError, match="32 of 32 files of the validation set"):
        run(TinySet(), TRAIN, tmp_path / "run", val_set=VideoDataset(tmp_path / "list.txt", tmp_path, CLIP, train=False))
    with pytest.raises(UnreadableError, match=f"32 of 32 files of the set .*{tmp_path}"):
        evaluate(tiny_model(), data, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("written, is_there, how", [
    (r"a\b {}.mp4", "a/b {}.mp4", "with / in place of"), ('"a/{}.mp4"', "a/{}.mp4", "without its quotes"),
    ("'a/{}.mp4'", "a/{}.mp4", "without its quotes"), (" a/{}.mp4", "a/{}.mp4", "without spaces"),
    ("train/{}.mp4", "{}.mp4", "without its folder"), (r"C:\data\{}.mp4", "{}.mp4", "without its folder"),
    ("a/{}.avi", "a/{}.webm", "ending in .webm"), ("a/{}", "a/{}.mp4", "ending in .mp4"),
])
def test_a_spelling_that_is_there_is_told(tmp_path, written, is_there, how):
    for i in range(3):
        (tmp_path / is_there.format(i)).parent.mkdir(exist_ok=True)
        (tmp_path / is_there.format(i)).touch()
    check_found(listed(tmp_path, [is_there.format(i) for i in range(3)]), 0.5, "set")
    with pytest.raises(UnreadableError, match=f"Written {how}.* it is there: mend the list .{is_there.format(0)}"):
        check_found(listed(tmp_path, [written.format(i) for i in range(3)]), 0.5, "set")


def test_few_missing_files_are_left_to_the_run_and_a_long_list_is_looked_up_in_part(tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.mp4").touch()
    check_found(listed(tmp_path, ["0.mp4", "1.mp4", "2.mp4", "gone 1", "gone 2", "gone 3"]), 0.5, "set")
    with pytest.raises(UnreadableError, match="3 of 6"):
        check_found(listed(tmp_path, ["0.mp4", "1.mp4", "2.mp4", "gone 1", "gone 2", "gone 3"]), 0.49, "set")
    with pytest.raises(UnreadableError, match=f"{LOOK_UP} of {LOOK_UP} files"):
        check_found(listed(tmp_path, map(str, range(1000, 1000 + 5 * LOOK_UP))), 0.5, "set")
    check_found(TinySet(), 0.5, "set")  # no root: nothing to look up
    check_found(None, 0.5, "set")


def test_what_is_too_many_by_hand():
    data, bad = TinySet(100), [("clips/0.mp4", "why")] * 51
    assert not too_many(data, [], 100, 0.0, True) and not too_many(data, bad[:50], 100, 0.5, True)
    assert too_many(data, bad, 100, 0.5, True) and too_many(data, bad[:1], 100, 0.0, False)
    assert not too_many(data, bad, 60, 0.51, False)  # of the whole set it is not yet too much
    assert too_many(data, bad, 60, 0.51, True)  # of what was tried it is
    assert not too_many(data, bad[:31], 31, 0.5, False)  # none readable, but of few
    assert too_many(data, bad[:32], 32, 0.5, False) and too_many(data, bad[:32], 32, 1.0, False)
    assert not too_many(data, bad[:50], 51, 1.0, True) and too_many(TinySet(2), bad[:2], 6, 1.0, False)


def test_the_share_is_one():
    assert TrainConfig().max_unreadable == 0.5
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="TrainConfig.max_unreadable = "):
            TrainConfig(max_unreadable=bad)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_are_there_but_cannot_be_read_stop_a_run_early(tmp_path, share, workers):
    config = replace(TRAIN, epochs=9, max_unreadable=share, save_every=1, workers=workers)
    with pytest.raises(UnreadableError, match="step 6: none of the 36 clips could be read. clips/.*: no video stream"):
        run(TinySet(200, bad=tuple(range(200))), config, tmp_path, val_set=TinySet(4))
    assert {p.name for p in tmp_path.iterdir()} == {"state.pt", "metrics.jsonl", "tb", "running.lock"}


def test_more_than_the_share_stops_a_run_at_the_same_step_whenever_it_is_resumed(tmp_path):
    data, config = TinySet(20, bad=tuple(range(11))), replace(TRAIN, save_every=1)
    run(TinySet(20, bad=tuple(range(10))), config, tmp_path / "half")  # as many as are allowed
    seen, step = [], 0
    while len(seen) < 11:  # the step in which the last of them is read
        step += 1
        seen += [p % 20 for i in (2 * step - 2, 2 * step - 1) for p in Batches(20, config)[i] if p % 20 < 11 and p < 20]
    for _ in range(2):
        message = rf"step {step}: 11 of {min(20, 6 * step)} clips could not be read.* 0.5 .*No model was written"
        with pytest.raises(UnreadableError, match=message):
            run(data, config, tmp_path / "run")
        assert runs.read_state(tmp_path / "run")["step"] == step - 1
    assert not list(tmp_path.glob("run/*.safetensors"))
    more = replace(config, max_unreadable=0.6)
    run(data, more, tmp_path / "run")  # a larger share goes on from there
    run(data, more, tmp_path / "whole")
    one, other = (runs.read_state(tmp_path / name) for name in ("run", "whole"))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert one["unreadable"] == other["unreadable"] and set(one["unreadable"]) == set(range(11))


def test_a_run_that_is_no_whole_pass_is_judged_by_what_it_tried(tmp_path):
    config = replace(TRAIN, steps=2)
    tried = [p for i in range(4) for p in Batches(100, config)[i]]
    data = TinySet(100, bad=tuple(tried[5:]))
    with pytest.raises(UnreadableError, match="step 2: 7 of 12 clips could not be read"):
        run(data, config, tmp_path, val_set=TinySet(4))
    assert runs.read_state(tmp_path)["step"] == 2 and not list(tmp_path.glob("*.safetensors"))
    assert run(data, replace(config, max_unreadable=0.6), tmp_path)["steps"] == 2


def test_a_clip_that_is_listed_twice_counts_twice(tmp_path):
    data = TinySet(6, bad=(0, 1, 2, 3))
    for entry in data.entries[:4]:
        entry.path = "clips/0.mp4"
    with pytest.raises(UnreadableError, match="4 of 6 clips"):
        run(data, TRAIN, tmp_path)


def test_a_test_is_refused_over_its_share():
    data = TinySet(10, bad=tuple(range(6)))
    with pytest.raises(UnreadableError, match="6 of 10 clips could not be read.*unless a larger max_unreadable allows it"):
        evaluate(tiny_model(), data, progress=False)
    assert len(evaluate(tiny_model(), data, max_unreadable=0.6, progress=False).scores) == 4
    assert len(evaluate(tiny_model(), TinySet(10, bad=tuple(range(5))), progress=False).scores) == 5
    with pytest.raises(UnreadableError, match="none of the 4 clips"):
        evaluate(tiny_model(), TinySet(4, bad=(0, 1, 2, 3)), max_unreadable=1.0, progress=False)


def test_the_share_of_a_run_is_that_of_its_evaluations(tmp_path):
    val = TinySet(10, bad=tuple(range(6)))
    with pytest.raises(UnreadableError, match="6 of 10"):
        run(TinySet(), replace(TRAIN, steps=1), tmp_path, val_set=val)
    assert run(TinySet(), replace(TRAIN, steps=1, max_unreadable=0.6), tmp_path, val_set=val)["steps"] == 1


def test_a_finished_run_needs_its_videos_no_more(tmp_path):
    data = TinySet()
    summary = run(data, replace(TRAIN, steps=1), tmp_path)
    data.root = tmp_path / "gone"
    assert run(data, replace(TRAIN, steps=1), tmp_path) == summary
    with pytest.raises(UnreadableError):
        run(data, replace(TRAIN, steps=1), tmp_path, resume=False)
