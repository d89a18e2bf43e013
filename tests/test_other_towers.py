"""The rows of ZeroI2V's Tables 13 and 14: as the paper has them, counted, and each with a protocol for its own pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import i2vlib as i2v
from i2vlib.course.settings import settle
from i2vlib.measure import count, multiply_adds
from i2vlib.other_towers import SWIN_OFFSETS, other_rows
from i2vlib.presets import PRESETS, PROTOCOLS, TOWERS, protocol_for
from i2vlib.protocol import check_scaling
from i2vlib.towers import WEIGHTS

ROWS = [name for name in PRESETS if "swin" in name or "in21k" in name]


def test_a_quarter_of_each_stages_heads_moves_over_the_fields_of_the_appendix():
    stages = [SWIN_OFFSETS[a:b] for a, b in ((0, 4), (4, 12), (12, 28), (28, 60))]
    assert len(SWIN_OFFSETS) == 60 == TOWERS["Swin-B"].all_heads
    for stage, heads, field in zip(stages, (4, 8, 16, 32), (2, 3, 5, 5), strict=True):
        assert len(stage) == heads and sum(offset != 0 for offset in stage) == heads / 4
        assert len({*stage, 0}) == field, "frames that one layer sees"
    assert stages[3][:9] == (-1, -1, 1, 1, -2, -2, 2, 2, 0)


def test_32_frames_of_ssv2_become_16_and_video_swins_recipe_is_the_one_where_all_trains():
    stdha, full = PRESETS["stdha-swin-b-32f-ssv2"], PRESETS["full-stdha-swin-b-32f-ssv2"]
    assert (stdha.frames, stdha.frames_at(0), stdha.classes, stdha.adaptation.scale) == (32, 16, 174, 1.0)
    assert stdha.adaptation.places == i2v.FOUR_ADAPTERS and stdha.adaptation.ratio == 0.25 and not stdha.temporal.embedding
    assert full.temporal == stdha.temporal and (full.adaptation.kind, full.drop_path, stdha.drop_path) == ("full", 0.4, 0.0)
    assert protocol_for("stdha-swin-b-32f-ssv2") == "ssv2-swin-32f"
    assert protocol_for("full-stdha-swin-b-32f-ssv2") == "ssv2-swin-full"
    recipe, clip = PROTOCOLS["ssv2-swin-full"].train, PROTOCOLS["ssv2-swin-full"].clip
    assert (recipe.epochs, recipe.warmup * 60, recipe.lr, recipe.backbone_lr, recipe.batch_size) == (60, 2.5, 3e-4, 0.1, 64)
    assert (recipe.weight_decay, recipe.decay_biases, recipe.label_smoothing, recipe.cosine) == (0.05, True, 0.1, "times")
    assert (clip.frames, clip.sampling, clip.flip, clip.flip_pairs, clip.rand_augment) == (32, "uniform", 0.0, (), (4, 7))
    assert (clip.erasing, clip.augment_last, clip.test_clips, clip.test_crops) == (0.25, True, 1, 3)


def test_in21k_is_the_same_model_with_the_same_settings():
    for data in ("k400", "ssv2"):
        row, clips = PRESETS[f"in21k-zeroi2v-b16-8f-{data}"], PRESETS[f"zeroi2v-b16-8f-{data}"]
        assert replace(row, tower=clips.tower) == clips
        assert protocol_for(f"in21k-zeroi2v-b16-8f-{data}") == f"{data}-in21k-8f"
        ours, theirs = PROTOCOLS[f"{data}-in21k-8f"], PROTOCOLS[f"{data}-8f"]
        assert ours.train == theirs.train and replace(ours.clip, mean=theirs.clip.mean, std=theirs.clip.std) == theirs.clip
    assert other_rows(PRESETS).keys() == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_clips_have_the_scaling_that_the_tower_needs(name):
    check_scaling(PRESETS[name].tower, PROTOCOLS[protocol_for(name)].clip)


@pytest.mark.parametrize("tower, name", WEIGHTS.items())
def test_weights_by_their_name_in_timm_need_these_towers(tower, name):
    assert i2v.tower_config(name) == TOWERS[tower]
    row = next(row for row in ROWS if PRESETS[row].tower == TOWERS[tower])
    given = settle(row, train_list="a", val_list="b", data_root="c")
    assert given.weights == name and given.model.tower == TOWERS[tower] and given.clip.mean == TOWERS[tower].mean


@pytest.mark.parametrize("data", ["k400", "ssv2"])
def test_table_13_of_zeroi2v(data):
    """422 GFLOPs over 3 views, 86 M parameters, none of them new: beside the temporal embedding, 6,144 numbers."""
    config = PRESETS[f"in21k-zeroi2v-b16-8f-{data}"]
    with torch.device("meta"):
        merged = i2v.merge(i2v.build_model(config))
        plain = i2v.build_model(i2v.ModelConfig(config.tower, frames=8, classes=config.classes))
    ours, theirs = (count(model, 8, 224) for model in (merged, plain))
    assert 3 * ours.multiply_adds / 1e9 == pytest.approx(422, rel=0.002) and ours.parameters / 1e6 == pytest.approx(86, rel=0.002)
    assert ours.multiply_adds == theirs.multiply_adds == multiply_adds(merged.config)
    assert ours.parameters - theirs.parameters == 8 * 768
