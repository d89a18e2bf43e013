from __future__ import annotations

import pytest
import torch

from i2vlib.compression import interpolation_weights
from i2vlib.course.experiments import (
    RUNS,
    load_results,
    mini_model,
    mini_sets,
    reversal_pairs,
    run,
    strategy_rates,
    twin_gap,
    weight_score,
)
from i2vlib.data.mini import junk_map, mini_data
from i2vlib.presets import PRESETS, PROTOCOLS
from i2vlib.training.evaluate import Result


def test_runs_name_presets():
    assert {preset for preset, _ in RUNS} <= set(PRESETS) and len(set(RUNS)) == len(RUNS)


def test_the_random_control_differs_in_its_tower_only():
    shipped, random = mini_model("zeroi2v-mini-motion", "mini", 3), mini_model("zeroi2v-mini-motion", "random", 3)
    for (name, a), b in zip(shipped.named_parameters(), random.parameters(), strict=True):
        if "adapters" in name or "head" in name:
            assert torch.equal(a, b), name
    assert not torch.equal(shipped.backbone.conv1.weight, random.backbone.conv1.weight)


def test_rates_of_the_miniature_stay_there():
    full = PROTOCOLS["k400-8f"].train
    assert strategy_rates("full-b16-8f-k400", full).lr == pytest.approx(3e-5)  # a tenth, as in the paper
    assert strategy_rates("probe-b16-8f-k400", full) == strategy_rates("zeroi2v-b16-8f-k400", full) == full
    assert strategy_rates("probe-mini-motion", PROTOCOLS["mini-motion"].train).lr == 0.05


def test_twin_gap_by_hand():
    scores = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.6, 0.4]])
    assert twin_gap(Result(scores, torch.zeros(4), torch.arange(4))) == pytest.approx(0.3)
    assert reversal_pairs(6) == [(0, 1), (2, 3), (4, 5)]


def test_an_order_blind_model_scores_twins_alike_after_training():
    row = run("full-mini-motion", "mini", 0, steps=2)
    assert row["direction"] == 0.5 and row["twin_gap"] < 1e-5 and row["top1"] <= 0.5
    assert row["steps"] == 2 and row["trainable"] > 200_000


def test_twins_of_the_test_set_are_each_others_reversal():
    _, val = mini_sets("motion")
    a, b = val[0], val[1]
    assert torch.equal(a["video"], b["video"].flip(1)) and {a["label"], b["label"]} in ({0, 1}, {2, 3}, {4, 5})


# What the README and the results page say of the longer runs, held against the measured rows.
ROWS = load_results()
GROUPS = {(r["preset"], r["tower"]) for r in ROWS}


def values(preset, tower, key):
    return [r[key] for r in ROWS if (r["preset"], r["tower"]) == (preset, tower)]


def test_all_runs_were_measured_over_three_seeds():
    assert {(p, t) for p, t in RUNS} == GROUPS
    assert all(len(values(p, t, "seed")) >= 3 for p, t in RUNS)


@pytest.mark.parametrize("strategy", ["probe", "adapters", "full"])
def test_order_blind_rows(strategy):
    assert values(f"{strategy}-mini-motion", "mini", "direction") == [0.5] * 3
    assert max(values(f"{strategy}-mini-motion", "mini", "twin_gap")) < 1e-5
    assert min(values(f"{strategy}-mini-appearance", "mini", "top1")) >= 0.75
    assert max(values(f"{strategy}-mini-appearance", "random", "top1")) < 0.35


def test_stdha_rows():
    assert min(values("zeroi2v-mini-motion", "mini", "direction")) >= 0.97
    assert max(values("stdha-mini-blink", "mini", "top1")) < 0.75 * min(values("stdha-far-mini-blink", "mini", "top1"))
    assert min(values("stdha-far-mini-blink", "mini", "top1")) >= 0.9


def test_inti_rows():
    for other in ("naive", "mean", "linearpool", "convpool", "tome", "sta"):
        gains = [a - b for a, b in zip(*(values(f"{s}-mini-corrupted", "mini", "top1") for s in ("inti", other)), strict=True)]
        assert min(gains) > 0.05, (other, gains)
    informative, even = (values("inti-mini-corrupted", "mini", key) for key in ("informative", "even"))
    assert sum(informative) / 3 >= 0.9 and min(informative) >= 0.85 and abs(sum(even) / 3 - 0.5) < 0.1
    assert values("mean-mini-corrupted", "mini", "informative") == [0.5] * 3
    assert {d for s in ("naive", "mean", "tome") for d in values(f"{s}-mini-motion", "mini", "direction")} == {0.5}
    assert min(d for s in ("inti", "stdha-mean", "stdha-inti") for d in values(f"{s}-mini-motion", "mini", "direction")) >= 0.97


def test_the_weight_score_by_hand():
    """Weights put in place by hand: .9 on the clean token where its twin is junk, .6 on the earlier where both are clean."""
    _, val = mini_sets("corrupted")
    few = torch.utils.data.Subset(val, range(3))
    junk = junk_map(mini_data("corrupted"), "val")[:3]
    a, b = junk.flatten(2).unflatten(1, (2, 2)).unbind(2)
    earlier = torch.where(a, 0.1, torch.where(b, 0.9, 0.6))
    maps = torch.cat([torch.zeros(3, 4, 1), torch.stack([earlier, 1 - earlier], 2).flatten(1, 2)], 2)
    model = mini_model("mean-mini-corrupted", "mini", 0).eval()
    with interpolation_weights(model, {0: maps}):
        score = weight_score(model, few, junk)
    assert score == pytest.approx({"informative": 0.9, "even": 0.6, "spread": 0.1})
