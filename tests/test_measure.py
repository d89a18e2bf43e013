from dataclasses import replace

import pytest
import torch

import i2vlib as i2v
from i2vlib.measure import count, interleave, median_ratio, multiply_adds, site_multiply_adds


@pytest.mark.parametrize("name", [
    "zeroi2v-b16-8f-k400", "zeroi2v-b16-8f-ssv2", "full-b16-8f-k400", "zeroi2v-l14-8f-ssv2", "zeroi2v-mini-motion",
    "inti-b16-16f-k400", "inti+-7-9-b16-16f-k400", "inti+-b16-16f-ssv2", "inti-6-10-l14-16f-k400", "zeroi2v-inti-b16-16f-k400",
    "convpool+-b16-16f-k400", "tome+-b16-16f-k400", "sta+-b16-16f-k400",
    *(n for n in i2v.PRESETS if n.endswith("mini-corrupted"))])
def test_counter_and_hand_agree(name):
    with torch.device("meta"):
        config = i2v.PRESETS[name]
        model = i2v.VideoClassifier(replace(config, tower=replace(config.tower, quick_gelu=True)))
    assert count(model, config.frames, config.tower.image_size).multiply_adds == multiply_adds(config)


@pytest.mark.parametrize("tower, frames, views, paper", [
    ("ViT-B-16", 8, 3, 422), ("ViT-B-16", 16, 1, 281), ("ViT-L-14", 8, 3, 1946), ("ViT-L-14", 16, 1, 1297)])
def test_the_papers_gflops_columns(tower, frames, views, paper):
    assert abs(views * multiply_adds(i2v.ModelConfig(i2v.TOWERS[tower], frames=frames)) / 1e9 / paper - 1) < 0.002


def test_a_linear_layer_by_hand():
    layer = torch.nn.Sequential(torch.nn.Flatten(1), torch.nn.Linear(2 * 3 * 4 * 4, 5))
    assert count(layer, 2, 4) == (96 * 5 + 5, 96 * 5 + 5, 96 * 5)
    assert layer[1].weight.device.type == "cpu", "the model given stays where it is"


def test_interleave_alternates_and_ratios_are_within_a_round():
    order = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=4)
    assert order == ["a", "b", "b", "a"] * 3 and len(times["a"]) == 4
    ticks = iter(range(100))
    assert interleave({"a": int}, 3, warmup=1, clock=lambda: next(ticks)) == {"a": [1, 1, 1]} and next(ticks) == 8
    assert median_ratio({"a": [2, 40, 6], "b": [1, 20, 3]}, "a", "b") == 2


def parameters(config):
    """As the paper counts them, in millions: without CLIP's projection into the space of texts, which no prediction uses."""
    with torch.device("meta"):
        model = i2v.VideoClassifier(replace(config, tower=replace(config.tower, quick_gelu=True)))
    return sum(p.numel() for name, p in model.named_parameters() if name != "backbone.proj") / 1e6


@pytest.mark.parametrize("name, paper", [
    ("naive", 86), ("uniformerv2", 115), ("inti+-token", 118), ("inti+-token-cube", 121), ("inti+-token-frame", 121),
    ("inti+-token-global", 121), ("inti+-token-cube-frame", 124), ("inti+-token-frame-global", 123), ("inti+", 126),
    ("inti+-add", 125), ("inti+-cat", 128), ("inti+-sigmoid", 126), ("inti+-attention", 126)])
def test_intis_parameter_column(name, paper):
    assert parameters(i2v.PRESETS[f"{name}-b16-16f-k400"]) / paper == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name, paper", [
    ("naive-b16", 281), ("inti-3-5-b16", 147), ("inti-b16", 182), ("inti-7-9-b16", 217),
    ("naive-l14", 1297), ("inti-6-10-l14", 650), ("inti-l14", 811), ("inti-14-18-l14", 973),
    ("uniformerv2-b16", 297), ("inti+-7-9-b16", 220), ("uniformerv2-l14", 1332), ("inti+-6-10-l14", 656), ("inti+-l14", 817),
    ("inti+-14-18-l14", 978)])
def test_intis_gflops_column_with_the_shared_levels_computed_at_every_token(name, paper):
    config = i2v.PRESETS[f"{name}-16f-k400"]
    assert multiply_adds(config, everywhere=True) / 1e9 / paper == pytest.approx(1, abs=0.01)
    assert multiply_adds(config) <= multiply_adds(config, everywhere=True)


@pytest.mark.parametrize("name, paper", [("inti+-3-5-b16", 150), ("inti+-b16", 184)])
def test_the_two_cells_of_intis_gflops_column_that_lie_between_our_two_counts(name, paper):
    """The paper adds 2-3 to InTI for four global modules on 4 frames; by their size they cost 3.8."""
    low, high = (multiply_adds(i2v.PRESETS[f"{name}-16f-k400"], everywhere) / 1e9 for everywhere in (False, True))
    assert low < paper < high < 1.02 * paper


def test_a_site_by_hand():
    """Token level alone, C = 64: f is 2C², the hidden layer C², the scores 2C, at each of 2 pairs x 65 places."""
    config = i2v.PRESETS["inti-token-mini-corrupted"]
    assert site_multiply_adds(config, 4, 65) == 2 * 65 * (3 * 64**2 + 2 * 64)
