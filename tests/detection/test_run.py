"""A miniature detection task trains, is scored, resumes, and refuses what does not fit; the loss by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import i2vlib as i2v
from i2vlib.config import ConfigError
from i2vlib.course.settings import settle
from i2vlib.data.drawing import PALETTE
from i2vlib.data.video import read_clip
from i2vlib.detection.annotations import read_boxes
from i2vlib.detection.clips import BoxDataset
from i2vlib.detection.mini import ACTIONS, CLIP, FILES, mini_detection, object_box, object_colour
from i2vlib.detection.run import box_losses, evaluate_boxes, train_detector
from i2vlib.presets import PRESETS, PROTOCOLS, protocol_for
from i2vlib.training.unreadable import UnreadableError

CONFIG = replace(PRESETS["zeroi2v-mini-motion"], classes=len(ACTIONS))
RECIPE = i2v.TrainConfig(steps=40, batch_size=8, lr=0.05, backbone_lr=0.1, warmup=0.1, clip_norm=1.0, workers=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return mini_detection(tmp_path_factory.mktemp("detection"), train=64, val=24)


def a_set(folder: Path, split: str, **options) -> BoxDataset:
    return BoxDataset(folder / f"{split}.csv", folder / "videos", CLIP, split == "train", cache=True,
                      labels=folder / "actions.pbtxt", **FILES | options)


def detector() -> i2v.Detector:
    torch.manual_seed(0)
    return i2v.build_detector(CONFIG, "mini")


def test_the_miniature_annotates_two_objects_with_two_actions_each(folder):
    keyframes = read_boxes(folder / "train.csv", classes=len(ACTIONS))
    assert len(keyframes) == 64 and {len(key.boxes) for key in keyframes} == {2}
    assert {tuple(1 if a <= 6 else 2 for a in ids) for key in keyframes for ids in key.actions} == {(1, 2)}
    assert len({key.actions for key in keyframes}) > 20, "the two objects go their own ways"
    for key in keyframes[:8]:
        frame = read_clip(folder / "videos" / f"{key.video}.mp4", [2])[0].float()
        vivid = frame.amax(2) - frame.amin(2) > 80
        inside = torch.zeros_like(vivid)
        for x1, y1, x2, y2 in key.boxes:
            inside[round(y1 * 48):round(y2 * 48), round(x1 * 128):round(x2 * 128)] = True
        assert vivid[inside].float().mean() > 0.2 and (vivid & ~inside).float().mean() < 0.002


def test_the_box_and_the_colour_of_a_square():
    for colour, paint in enumerate(PALETTE):
        frame = torch.full((48, 64, 3), 128, dtype=torch.uint8)
        frame[10:30, 20:52] = (paint * 255).to(torch.uint8)
        box = [side * of for side, of in zip(object_box(frame), (64, 48, 64, 48), strict=True)]
        assert box == pytest.approx([20, 10, 52, 30], abs=1) and object_colour(frame) == colour
    with pytest.raises(ValueError, match="no pixel of the frame is coloured"):
        object_box(torch.full((48, 64, 3), 128, dtype=torch.uint8))


def test_the_loss_by_hand():
    logits, actions = torch.zeros(2, 2, 2), torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    logits[0, 0] = torch.tensor([math.log(3), 0.0])  # probabilities 3/4 and 1/2
    logits[0, 1] = 50.0
    due = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    seen = torch.tensor([[1.0, 0.2], [0.0, 0.0]])  # a fifth of the second box is too little; the second clip has none
    assert box_losses(logits, actions, seen).tolist() == pytest.approx([due, 0.0])
    assert box_losses(logits, actions, torch.ones(2, 2)).tolist() == pytest.approx([due / 2, math.log(2)])


def test_it_learns_and_the_best_step_is_that_of_mean_ap(folder, tmp_path):
    train, val, model = a_set(folder, "train"), a_set(folder, "val"), detector()
    before = evaluate_boxes(model, val, progress=False)
    assert before.scores.shape == (48, 10) and before.evaluated == list(range(1, 11))
    summary = train_detector(model, train, RECIPE, tmp_path, val_set=val, progress=False)
    after = evaluate_boxes(model, val, progress=False)
    assert summary["mean_ap"] == after.mean_ap == summary["best"]["mean_ap"]
    assert after.mean_ap > before.mean_ap + 0.2, (before.mean_ap, after.mean_ap)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert len(losses) == 40 and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    loaded = i2v.as_detector(i2v.load_checkpoint(tmp_path / "model.safetensors"))
    assert torch.equal(evaluate_boxes(loaded, val, progress=False).scores, after.scores)
    assert i2v.checkpoint_info(tmp_path / "model.safetensors")["class_names"] == list(ACTIONS)
    merged = i2v.as_detector(i2v.merge(loaded))
    assert torch.allclose(evaluate_boxes(merged, val, progress=False).scores, after.scores, atol=1e-4)


def test_the_same_call_gives_the_summary_and_other_boxes_are_refused(folder, tmp_path):
    recipe = replace(RECIPE, steps=2)
    train = a_set(folder, "train")
    summary = train_detector(detector(), train, recipe, tmp_path, progress=False)
    assert train_detector(detector(), train, recipe, tmp_path, progress=False) == summary
    moved = a_set(folder, "train")
    moved.truth[0] = replace(moved.truth[0], boxes=((0.1, 0.1, 0.2, 0.2), *moved.truth[0].boxes[1:]))
    with pytest.raises(ConfigError, match="training set's list, clip settings or seed is not that of the run"):
        train_detector(detector(), moved, recipe, tmp_path, progress=False)


def test_proposals_are_scored_against_the_annotated_boxes(folder, tmp_path):
    keys = read_boxes(folder / "val.csv", classes=len(ACTIONS))
    lines = [f"{key.video},2,{','.join(f'{v:.4f}' for v in box)},,0.9\n" for key in keys[:12] for box in key.boxes]
    (tmp_path / "people.csv").write_text("".join(lines))
    result = evaluate_boxes(detector(), a_set(folder, "val", proposals=tmp_path / "people.csv"), progress=False)
    assert len(result.scores) == 24 and len(result.truth) == 24 and set(result.images.tolist()) == set(range(12))
    with pytest.raises(ConfigError, match="the training set has a detector's proposals"):
        train_detector(detector(), a_set(folder, "train", proposals=proposals_of(folder, tmp_path)), RECIPE, tmp_path / "run")


def proposals_of(folder: Path, out: Path) -> Path:
    key = read_boxes(folder / "train.csv", classes=len(ACTIONS))[0]
    (out / "train.csv").write_text(f"{key.video},2,0.1,0.1,0.5,0.5,,0.9\n")
    return out / "train.csv"


def test_videos_that_are_not_there(folder, tmp_path):
    text = (folder / "val.csv").read_text()
    (tmp_path / "val.csv").write_text(text.replace("val00000", "gone"))
    dataset = BoxDataset(tmp_path / "val.csv", folder / "videos", CLIP, False, **FILES)
    result = evaluate_boxes(detector(), dataset, progress=False)
    assert len(result.scores) == 46 and ["gone.mp4" in path for path in result.bad_files] == [True]
    (tmp_path / "val.csv").write_text(text.replace("val000", "gone000"))
    with pytest.raises(UnreadableError, match="24 of 24 files of the set that were looked up are not there"):
        evaluate_boxes(detector(), BoxDataset(tmp_path / "val.csv", folder / "videos", CLIP, False, **FILES), progress=False)


def test_what_does_not_fit_is_refused(folder, tmp_path):
    train = a_set(folder, "train")
    for name in ("mixup", "cutmix"):
        with pytest.raises(ConfigError, match=f"TrainConfig.{name} = 0.8: boxes do not follow it"):
            train_detector(detector(), train, replace(RECIPE, **{name: 0.8}), tmp_path)
    other = i2v.build_detector(replace(CONFIG, classes=80))
    for call in (lambda: train_detector(other, train, RECIPE, tmp_path), lambda: evaluate_boxes(other, train)):
        with pytest.raises(ConfigError, match="ModelConfig.classes = 80: the set has 10 actions, allowed is as many"):
            call()
    with pytest.raises(ConfigError, match="'zeroi2v-b16-8f-ava' scores boxes, not clips: i2vlib.detection.run.train_detector"):
        settle("zeroi2v-b16-8f-ava", train_list="a", val_list="b", data_root="c")


def test_the_recipe_for_ava():
    assert protocol_for("zeroi2v-b16-8f-ava") == protocol_for("probe-b16-8f-ava") == "ava"
    model, protocol = PRESETS["zeroi2v-b16-8f-ava"], PROTOCOLS["ava"]
    assert (model.classes, model.frames, model.tower) == (80, 8, i2v.TOWERS["ViT-B-16"]) and any(model.temporal.offsets)
    assert (protocol.clip.sampling, protocol.clip.stride, protocol.clip.test_crops, protocol.clip.flip) == ("dense", 8, 3, 0.5)
    assert (protocol.train.epochs, protocol.train.warmup * 20, protocol.train.clip_norm) == (20, 5, 40.0)
