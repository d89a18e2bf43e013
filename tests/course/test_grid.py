"""The grid's cells: the methods are what they say, rates are swept before the test split is looked at."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from i2vlib.config import FOUR_ADAPTERS, CompressionConfig, ModelConfig, TemporalConfig
from i2vlib.course import grid
from i2vlib.course.grid import Cell
from i2vlib.course.methods import FROZEN, SHIFTS, methods
from i2vlib.course.tasks import REAL, TASKS
from i2vlib.data import mini, photos_corrupted
from i2vlib.measure import multiply_adds
from i2vlib.presets import TOWERS
from i2vlib.tower.classifier import build_model


@pytest.mark.parametrize("name", TASKS)
def test_every_method_is_a_model_of_the_task(name):
    task = TASKS[name]
    for method in methods(task):
        model = Cell(name, method, "seed", 0).model
        assert (model.frames, model.classes, model.upper) == (task.data.frames, task.data.classes, task.upper)


@pytest.mark.parametrize("name, share", [("mini-motion", 1 / 4), ("photos-one", 1 / 3)])
def test_operators_move_as_many_channels_as_two_heads_have(name, share):
    rows, heads = methods(TASKS[name]), TASKS[name].shape.heads
    for method in SHIFTS:
        assert 2 / rows[method].temporal.folds == pytest.approx(share)
    assert sum(map(bool, rows["stdha"].temporal.offsets)) / heads == pytest.approx(share)
    assert rows["hr-qkv"].temporal == replace(rows["stdha"].temporal, queries=True)


def test_heads_fields_and_ratios():
    rows = methods(TASKS["mini-blink"])
    moved = {n: tuple(o for o in rows[f"stdha-heads-{n}"].temporal.offsets if o) for n in (1, 4, 6)}
    assert moved == {1: (-1,), 4: (-1, -1, 1, 1), 6: (-1, -1, -1, 1, 1, 1)}
    fields = {n: {o for o in rows[f"stdha-field-{n}"].temporal.offsets if o} for n in (2, 4, 5, 6)}
    assert fields == {2: {-1}, 4: {-1, 1, -2}, 5: {-1, 1, -2, 2}, 6: {-1, 1, -2, 2, -3}}
    assert {rows[f"stdha-ratio-{r:g}"].adaptation.ratio for r in (1 / 16, 1 / 8, 1 / 2)} == {1 / 16, 1 / 8, 1 / 2}


@pytest.mark.parametrize("name", ["mini-corrupted", "photos-corrupted"])
@pytest.mark.parametrize("method", ["tome", "sta"])
def test_what_drops_tokens_costs_what_inti_costs(name, method):
    task = TASKS[name]

    def cost(compression: CompressionConfig) -> int:
        return multiply_adds(ModelConfig(task.shape, frames=4, compression=compression, upper=task.upper))

    found, inti = methods(task)[method].compression, cost(methods(task)["inti"].compression)
    gaps = {r: abs(cost(replace(found, remove=r)) - inti) for r in range(found.remove - 2, found.remove + 3)}
    assert min(gaps, key=gaps.get) == found.remove and gaps[found.remove] < 0.05 * inti


@pytest.mark.parametrize("name, method, head, tower", [
    ("mini-motion", "stdha", 1e-3, 1e-3), ("mini-motion", "full", 1e-3, 2e-4), ("mini-motion", "probe", 1e-2, None),
    ("photos-one", "stdha", 1e-4, 1e-3), ("photos-one", "full", 1e-3, 1e-4), ("photos-corrupted", "inti", 1e-3, 1e-3)])
def test_rates_of_head_and_tower(name, method, head, tower):
    config = Cell(name, method, "seed", 2).training(1e-3)
    assert config.lr == pytest.approx(head) and (tower is None or config.lr * config.backbone_lr == pytest.approx(tower))
    assert config.seed == 2 and config.steps == TASKS[name].steps


def test_the_hash_tells_apart_what_decides_the_numbers():
    cell = Cell("mini-motion", "stdha", "seed", 0)
    others = [cell, replace(cell, value=1), replace(cell, method="hr-qkv"), replace(cell, task="mini-motion-few"),
              replace(cell, fast=True), replace(cell, stage="rate", value=5e-3), replace(cell, stage="rate", value=1.5e-2)]
    assert len({other.config for other in others}) == len(others) and cell.config == Cell(*vars(cell).values()).config


def test_the_hash_does_not_know_fields_at_their_defaults():
    model = Cell("mini-motion", "stdha", "seed", 0).model
    told = grid.told(model)
    assert told["temporal"] == {"offsets": (-1, 1, 0, 0, 0, 0, 0, 0)} and "compression" not in told and "upper" not in told
    assert told["adaptation"] == {"kind": "linear", "places": FOUR_ADAPTERS, "scale": 1.0, "dropout": 0.0}
    assert grid.told(replace(model, upper=2))["upper"] == 2


@pytest.fixture
def small(tmp_path, monkeypatch) -> None:
    """Few clips, in a folder of their own."""
    for name, task in mini.TASKS.items():
        monkeypatch.setitem(mini.TASKS, name, replace(task, train=12, val=4))
    monkeypatch.setattr(mini, "kept_in", lambda name: tmp_path / name)
    monkeypatch.setattr(grid, "HELD_OUT", 4)
    for name, task in TASKS.items():
        if name.startswith("mini-"):
            monkeypatch.setitem(TASKS, name, replace(task, data=mini.TASKS[task.data.name], steps=2, batch=4))


def test_a_rate_is_swept_and_then_a_seed_is_tested(small, tmp_path):
    cell = Cell("mini-motion", "stdha", "seed", 1)
    with pytest.raises(FileNotFoundError, match="rate-0.0015.json"):
        grid.run(cell, tmp_path)
    for swept in grid.sweep(cell):
        row = grid.run(swept, tmp_path)
        assert row["rate"] == swept.value and "top1" not in row and len(row["val"]) == 2, "no look at the test split"
        row["val"][-1] = {1.5e-3: 0.5, 5e-3: 0.75, 1.5e-2: 0.75}[swept.value]
        swept.path(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        swept.path(tmp_path).write_text(json.dumps(row))
    row = grid.run(cell, tmp_path)
    assert row["rate"] == 5e-3, "of equal ends the lower rate's"
    assert row["clips"] == 4 and 0 <= row["direction"] <= 1 and row["config"] == cell.config
    assert row["multiply_adds"] == multiply_adds(replace(cell.model, adaptation=FROZEN)), "adapters merge away"


@pytest.mark.parametrize("method", ["stdha", "uniformerv2"])  # the second has running means as well
def test_the_first_seed_is_the_sweeps_own_run(small, tmp_path, method):
    cell = Cell("mini-motion", method, "seed", 0)
    for swept in grid.sweep(cell):
        row = grid.run(swept, tmp_path)
        swept.path(tmp_path).write_text(json.dumps(row))
    taken = grid.run(cell, tmp_path)
    best = replace(cell, stage="rate", value=taken["rate"]).path(tmp_path)
    row = best.read_text()
    best.write_text(json.dumps(json.loads(row) | {"config": "another"}))
    anew = grid.run(cell, tmp_path)
    assert {**taken, "cpu_seconds": 0} == {**anew, "cpu_seconds": 0} and len(taken["val"]) == 2
    best.write_text(row)
    state = load_file(best.with_suffix(".safetensors"))
    save_file({name: torch.zeros_like(value) for name, value in state.items()}, best.with_suffix(".safetensors"))
    assert grid.run(cell, tmp_path)["twin_gap"] == 0 != anew["twin_gap"], "the kept weights are what is tested"


def test_what_is_validated_on_is_not_trained_on(small):
    for name, train in (("mini-motion", 8), ("mini-motion-few", 8)):
        found = grid.sets(Cell(name, "stdha", "seed", 0), 0)
        paths = {part: [entry.path for entry in dataset.entries] for part, dataset in found.items()}
        assert [len(paths[part]) for part in ("train", "val", "test")] == [train, 4, 4]
        assert not set(paths["train"]) & set(paths["val"]) and all(path.startswith("val/") for path in paths["test"])


def test_few_clips_are_the_first_of_all(small, monkeypatch):
    monkeypatch.setitem(TASKS, "mini-motion-few", replace(TASKS["mini-motion-few"], clips=6))
    few, every = (grid.sets(Cell(name, "stdha", "seed", 0), 0)["train"].entries for name in ("mini-motion-few", "mini-motion"))
    assert few == every[:6] and len(every) == 8


def test_where_no_order_can_be_seen_twins_are_answered_alike(small, tmp_path):
    cell = Cell("mini-motion", "adapters", "seed", 0)
    for swept in grid.sweep(cell):
        swept.path(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        swept.path(tmp_path).write_text(json.dumps({"val": [0.5], "rate": swept.value}))
    row = grid.run(cell, tmp_path)
    assert row["direction"] == 0.5 and row["twin_gap"] < 1e-5


def test_compressions_say_where_the_weight_falls(small, tmp_path):
    cell = Cell("mini-corrupted", "inti", "seed", 0)
    for swept in grid.sweep(cell):
        swept.path(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        swept.path(tmp_path).write_text(json.dumps({"val": [0.5], "rate": swept.value}))
    row = grid.run(cell, tmp_path)
    assert abs(row["informative"] - 0.5) < 0.2 and 0 < row["even"] < 1 and "direction" not in row


def test_the_real_tower_trains_on_kept_features(small, tmp_path, monkeypatch):
    shape = replace(TOWERS[REAL], width=48)
    monkeypatch.setitem(TOWERS, REAL, shape)
    monkeypatch.setattr(grid, "build_model", lambda config, *_, **__: build_model(config))  # random weights, the same each time
    monkeypatch.setattr(photos_corrupted, "kept_in", lambda name: tmp_path / name)
    monkeypatch.setattr("i2vlib.training.features.kept_in", lambda name: tmp_path / name)
    data = replace(photos_corrupted.TASK, train=12, val=4, test=4)
    monkeypatch.setattr(photos_corrupted, "TASK", data)
    monkeypatch.setitem(TASKS, "photos-corrupted", replace(TASKS["photos-corrupted"], data=data, steps=2, batch=4))
    cell = Cell("photos-corrupted", "naive", "rate", 1e-3)
    row = grid.run(cell, tmp_path)
    assert len(row["val"]) == 2 and list(tmp_path.rglob("*.safetensors")), "features are there"


def test_temporal_defaults_are_blind():
    rows = methods(TASKS["mini-motion"])
    assert [name for name in ("probe", "full", "adapters", "naive", "stdha") if rows[name].temporal == TemporalConfig()] == [
        "probe", "full", "adapters", "naive"]
