from dataclasses import replace

import pytest
import torch

import i2vlib as i2v
from i2vlib.measure import count, interleave, median_ratio, multiply_adds


@pytest.mark.parametrize("name", [
    "zeroi2v-b16-8f-k400", "zeroi2v-b16-8f-ssv2", "full-b16-8f-k400", "zeroi2v-l14-8f-ssv2", "zeroi2v-mini-motion"])
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
    assert median_ratio({"a": [2, 40, 6], "b": [1, 20, 3]}, "a", "b") == 2
