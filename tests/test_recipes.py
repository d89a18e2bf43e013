"""i2vlib.recipes: the smaller tasks' rows hold the numbers of the released configurations, and a twin of them trains here."""

from __future__ import annotations

import pytest
import torch

import i2vlib as i2v
from i2vlib.course.settings import read_sets, settle
from i2vlib.data.loading import total_steps
from i2vlib.presets import PRESETS, PROTOCOLS, protocol_for
from i2vlib.training.optimiser import lr_factor, parameter_groups
from i2vlib.training.train import train


@pytest.mark.parametrize("shots", [4, 16])
def test_few_shot_is_what_videoeval_released(shots):
    """VidTAB/configs/video_eval/AR_in_Dark/ZeroI2V/linear_adapter0d125 of its repository, line by line."""
    name = f"zeroi2v-l14-8f-vidtab-{shots}shot"
    model, protocol = PRESETS[name], PROTOCOLS[protocol_for(name)]
    adaptation, clip, recipe = model.adaptation, protocol.clip, protocol.train
    assert (model.tower, model.frames, model.classes, model.head_dropout) == (i2v.TOWERS["ViT-L-14"], 8, 11, 0.5)
    assert (adaptation.kind, adaptation.places) == ("linear", i2v.FOUR_ADAPTERS)
    assert (adaptation.ratio, adaptation.scale, adaptation.dropout) == (0.125, 1.0, 0.1)
    assert model.temporal.offsets == (-1, -1, 1, 1) + (0,) * 12 and model.temporal.embedding
    assert (clip.sampling, clip.frames, clip.short_side, clip.random_crop) == ("uniform", 8, 256, True)
    assert (clip.flip, clip.rand_augment, clip.erasing, clip.colour_jitter) == (0.0, (0, 0), 0.0, 0.0)
    assert (clip.test_clips, clip.test_crops, clip.test_short_side) == (4, 3, 224)
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.backbone_lr) == (25, shots, 3e-4, 0.1)
    assert (recipe.weight_decay, recipe.decay_biases, recipe.betas, recipe.label_smoothing) == (0.05, True, (0.9, 0.999), 0.0)
    assert total_steps(11 * shots, recipe) == 275, "25 epochs of 11 steps"


def test_the_schedule_of_the_few_shots_by_hand():
    recipe = PROTOCOLS["vidtab-4shot"].train
    factors = [lr_factor(step, 275, recipe) for step in (0, 54, 55, 274)]
    assert factors[0] == pytest.approx(0.1)
    # the line is 1 at the last of 5 epochs' 55 steps; the cosine of epoch 4 of 25 is .5 + .5 cos(4 pi / 25) = .93815
    least = 1 / 300
    for factor, cosine in zip(factors[1:], (0.938153, 0.904508, 0.003943), strict=True):
        assert factor == pytest.approx(least + (1 - least) * cosine, abs=2e-6)
    model = i2v.build_model(PRESETS["zeroi2v-mini-motion-4shot"])
    rates = {g["lr"] for g in parameter_groups(model, recipe)}
    assert sorted(rates) == pytest.approx([3e-5, 3e-4])


def test_the_rows_beside_it():
    peer = PRESETS["st-adapter-l14-8f-vidtab-16shot"]
    assert (peer.adaptation.places, peer.adaptation.ratio, peer.drop_path) == (("qkv", "mlp_in"), 0.125, 0.2)
    probe = PRESETS["probe-l14-8f-vidtab-4shot"]
    assert probe == i2v.ModelConfig(i2v.TOWERS["ViT-L-14"], frames=8, classes=11, head_std=0.01)
    assert PRESETS["zeroi2v-b16-8f-vidtab-4shot"].temporal.offsets == (-1, 1) + (0,) * 10


@pytest.mark.parametrize("data, classes, scale", [("ucf101", 101, 0.5), ("hmdb51", 51, 0.5), ("diving48", 48, 1.0)])
def test_small_data_sets_have_rows_for_both_towers(data, classes, scale):
    for tower, frames, protocol in (("b16", 8, f"{data}-8f"), ("l14", 8, f"{data}-l14-8f"), ("l14", 32, f"{data}-l14-32f")):
        name = f"zeroi2v-{tower}-{frames}f-{data}"
        assert (PRESETS[name].classes, PRESETS[name].adaptation.scale, protocol_for(name)) == (classes, scale, protocol)
    for tower in ("b16", "l14"):
        peer = PRESETS[f"{'aim' if data == 'diving48' else 'st-adapter'}-{tower}-32f-{data}"]
        assert peer.classes == classes and peer.tower == i2v.TOWERS["ViT-B-16" if tower == "b16" else "ViT-L-14"]
    assert sum(o != 0 for o in PRESETS[f"zeroi2v-l14-32f-{data}"].temporal.offsets) == 6


def test_the_miniature_draws_a_fold_a_seed_and_trains(tmp_path):
    sets = {}
    for seed in (0, 1):
        settings, sets[seed] = read_sets(settle("zeroi2v-mini-motion-4shot", steps=4, seed=seed))
    for found in sets.values():
        assert torch.tensor([e.label for e in found.train.entries]).bincount().tolist() == [4] * 6
        assert not {e.path for e in found.train.entries} & {e.path for e in found.val.entries}
    assert sets[0].train.entries != sets[1].train.entries and len(sets[0].test) == 384
    whole = PROTOCOLS["mini-motion-4shot"].train
    assert total_steps(24, whole) == 150 and settings.train.batch_size == 4
    model = i2v.build_model(settings.model, settings.weights)
    assert model.config.adaptation.ratio == 0.125
    assert model.backbone.transformer.resblocks[0].adapters["qkv"].down.out_features == 8
    before = model.head.weight.detach().clone()
    result = train(model, sets[0].train, settings.train, tmp_path, progress=False)
    assert result["steps"] == 4 and result["loss"] < 6 and not torch.equal(before, model.head.weight)
