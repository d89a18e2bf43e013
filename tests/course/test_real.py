"""The experiments on the real tower, on a tower and a set that are neither: that the rows are what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from i2vlib.config import CompressionConfig, ModelConfig, TemporalConfig
from i2vlib.course import jobs, real
from i2vlib.data import photos_corrupted
from i2vlib.data.video import write_clip
from i2vlib.measure import multiply_adds
from i2vlib.tower.classifier import build_model
from i2vlib.training import features

SMALL = replace(real.TOWER, image_size=32, patch_size=16, width=48, heads=6, layers=5)
DEEP = replace(SMALL, patch_size=4, width=36, layers=12)  # with the real one's sites and its 8x8 places


def fake_tower(config: ModelConfig, *_, **__):
    """build_model with the same image weights each time."""
    model = build_model(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        image = build_model(ModelConfig(config.tower, frames=1)).backbone.image_state()
    model.backbone.load_state_dict(model.backbone.state_dict() | image)
    return model


@pytest.fixture
def small(tmp_path, monkeypatch) -> None:
    """A small random tower in place of the real one, short runs, features in a folder of their own."""
    monkeypatch.setattr(real, "TOWER", SMALL)
    monkeypatch.setattr(real, "CLIP", replace(real.CLIP, size=32, short_side=32, test_short_side=32))
    monkeypatch.setattr(real, "build_model", fake_tower)
    monkeypatch.setattr(real, "RATES", (1e-3, 3e-3))
    monkeypatch.setattr(real, "CLIPS", real.Budget(2, 3))
    monkeypatch.setattr(real, "PHOTOS", real.Budget(1, 2, batch=4))
    monkeypatch.setattr(features, "kept_in", lambda name: tmp_path / name)


@pytest.fixture
def folder(small, tmp_path) -> Path:
    """20 real clips in twins, 14 of them for training."""
    root = tmp_path / "sit_twins"
    root.mkdir()
    for split, names in (("train", range(7)), ("val", range(7, 10))):
        for i in names:
            clip = torch.randint(256, (4, 48, 64, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
            write_clip(root / f"{i}.mp4", clip)
            write_clip(root / f"{i}_rev.mp4", clip.flip(0))
        (root / f"{split}.txt").write_text("".join(f"{i}.mp4 {i % 2}\n{i}_rev.mp4 {1 - i % 2}\n" for i in names))
    (root / "classes.txt").write_text("Sit\nStand\n")
    return root


def test_a_rate_is_swept_and_then_seeds_are_tested_once(folder, tmp_path, monkeypatch):
    out = tmp_path / "real.json"
    for job in (("sit_twins", "class-token-shift", "rate", 1e-3), ("sit_twins", "class-token-shift", "rate", 3e-3)):
        row = real.measure(job, out, folder)
        assert row["rate"] == job[3] and "top1" not in row and len(row["val"]) == 1 and row["steps"] == 2, "no look at the test"
        assert real.job_of(row) == job and real.measure(job, out, folder) is None
    row = real.measure(("sit_twins", "class-token-shift", "seed", 1), out, folder)
    assert row["rate"] in real.RATES and row["steps"] == 3 and row["clips"] == 6 and 0 <= row["direction"] <= 1
    assert row["trainable"] > 0 and len(jobs.load_rows(out)) == 3
    monkeypatch.setattr(real, "CLIPS", real.Budget(2, 4))
    assert real.job_of(row) is None, "of another length"


def test_an_order_blind_method_answers_twins_alike(folder, tmp_path):
    out = tmp_path / "real.json"
    out.write_text(json.dumps([{"set": "sit_twins", "method": "adapters", "stage": "rate", "value": r, "rate": r, "steps": 2,
                                "val": [0.5]} for r in real.RATES]))
    row = real.measure(("sit_twins", "adapters", "seed", 0), out, folder)
    assert row["direction"] == 0.5 and row["twin_gap"] < 1e-5 and row["top1"] == 0.5


def test_what_is_held_out_is_never_trained_on_backwards(folder):
    sets = real.feature_sets("sit_twins", folder)
    names = {part: {Path(e.path).stem.removesuffix("_rev") for e in sets[part].entries} for part in sets}
    assert names["val"] and not names["val"] & names["train"] and len(sets["val"]) == 2 * len(names["val"])
    assert len(sets["train"]) + len(sets["val"]) == 14 and len(sets["test"]) == 6


def test_the_best_rate_is_that_of_the_best_end_and_of_equals_the_lower():
    rows = [{"set": "s", "method": "stdha", "stage": "rate", "rate": rate, "val": [0.9, end]}
            for rate, end in zip(real.RATES, (0.5, 0.7, 0.7), strict=True)]
    assert real.best_rate("s", "stdha", rows) == real.RATES[1]
    with pytest.raises(ValueError, match="2 of 3 rates are measured"):
        real.best_rate("s", "stdha", rows[:2])


@pytest.mark.parametrize("method, head, tower", [
    ("stdha", 1e-4, 1e-3), ("full", 1e-4, 1e-4), ("probe", 1e-2, None), ("inti", 1e-3, 1e-3)])
def test_rates_of_head_and_tower(method, head, tower):
    config = real.training(method, 1e-3, 8, 4, 1)
    assert config.lr == pytest.approx(head) and (tower is None or config.lr * config.backbone_lr == pytest.approx(tower))


def test_methods_fit_the_tower_and_move_the_same_share_of_channels(small, monkeypatch):
    monkeypatch.setattr(real, "TOWER", DEEP)
    for method in real.METHODS:
        temporal = real.real_model(method, 6).config.temporal
        if temporal.shift not in ("none", "patch"):
            assert 2 / temporal.folds == pytest.approx(1 / 3)
    assert sum(map(bool, real.METHODS["stdha"].temporal.offsets)) / 6 == pytest.approx(1 / 3)
    assert [m for m in real.OVER_TIME if real.METHODS[m].temporal == TemporalConfig()] == list(real.BLIND)


def test_each_set_has_its_methods_and_no_other():
    assert set(real.OVER_TIME) | set(real.COMPRESSED) == set(real.METHODS) and not set(real.OVER_TIME) & set(real.COMPRESSED)
    assert real.methods_of("photos-corrupted") == real.COMPRESSED and real.methods_of("photos-one") == real.OVER_TIME
    assert real.methods_of("sitstand_twins") == real.OVER_TIME
    assert [real.METHODS[m].compression.kind for m in real.COMPRESSED] == [
        "none", "mean", "linear", "conv", "inti", "tome", "sta"]
    assert real.METHODS["naive"] == real.METHODS["adapters"]


@pytest.mark.parametrize("method", ["tome", "sta"])
def test_what_drops_tokens_costs_what_inti_costs(method):
    def cost(compression: CompressionConfig) -> int:
        return multiply_adds(ModelConfig(real.TOWER, frames=4, classes=12, compression=compression, upper=real.UPPER))

    compression, inti = real.METHODS[method].compression, cost(real.METHODS["inti"].compression)
    gaps = {r: abs(cost(replace(compression, remove=r)) - inti) for r in range(compression.remove - 2, compression.remove + 3)}
    assert min(gaps, key=gaps.get) == compression.remove and gaps[compression.remove] < 0.005 * inti


def test_compressions_on_the_corrupted_photographs(small, tmp_path, monkeypatch):
    monkeypatch.setattr(real, "TOWER", DEEP)
    monkeypatch.setattr(photos_corrupted, "TASK", replace(photos_corrupted.TASK, train=12, val=2, test=4))
    monkeypatch.setattr(photos_corrupted, "kept_in", lambda name: tmp_path / name)
    out = tmp_path / "real.json"
    out.write_text(json.dumps([{"set": real.CORRUPTED, "method": method, "stage": "rate", "value": r, "rate": r, "steps": 1,
                                "val": [0.5]} for r in real.RATES for method in ("inti", "naive")]))
    row, plain = (real.measure((real.CORRUPTED, method, "seed", 0), out) for method in ("inti", "naive"))
    assert row["clips"] == plain["clips"] == 4 and row["chance"] == 0.25 and row["steps"] == 2
    assert 0 <= row["top1"] <= 1 and "direction" not in row
    assert abs(row["informative"] - 0.5) < 0.2 and 0 < row["even"] < 1 and "informative" not in plain
    assert len(jobs.load_rows(out)) == 6
