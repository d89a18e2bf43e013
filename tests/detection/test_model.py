"""The detector against loops over clips, frames and boxes; RoIAlign by hand; merged, saved and loaded it is the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.ops import roi_align

import i2vlib as i2v
from i2vlib.config import CompressionConfig, ConfigError, ModelConfig, SwinConfig, TemporalConfig, TowerConfig
from i2vlib.detection.model import Detector, as_detector, box_features, build_detector, scores_of

TOWER = TowerConfig(32, 8, 32, 3, 4, 2.0, 0, True)
STDHA = ModelConfig(TOWER, TemporalConfig((-1, 1, 0, 0), True), i2v.AdaptationConfig("linear", i2v.FOUR_ADAPTERS, scale=1.0),
                    frames=4, classes=5)
BOXES = torch.tensor([[[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0]], [[0.5, 0.5, 0.8, 0.7], [0.0, 0.0, 0.0, 0.0]]])


def filled(config: ModelConfig = STDHA) -> Detector:
    """A detector whose weights, adapters too, are random."""
    torch.manual_seed(0)
    model = build_detector(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    return model.eval()


def clip() -> torch.Tensor:
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_roi_align_by_hand():
    """Of a map that counts its columns, a box from a quarter to three quarters of 14 is 7 wide: the middles of its places
    lie at 4 to 10, and column 0's middle at 0.5, so that the map has 3.5 to 9.5 there."""
    ramp = torch.arange(14.0).expand(1, 1, 14, 14)
    found = box_features(ramp, torch.tensor([[[0.25, 0.25, 0.75, 0.75]]]))
    assert found.shape == (1, 1, 1) and found.item() == pytest.approx(9.5)
    assert box_features(ramp.transpose(2, 3), torch.tensor([[[0.0, 0.25, 1.0, 0.75]]])).item() == pytest.approx(9.5)


def test_it_is_the_loop_over_clips_frames_and_boxes():
    model, video = filled(), clip()
    logits = model(video, BOXES)
    assert logits.shape == (2, 2, 5)
    for b in range(2):
        maps = []
        for token in model.backbone.tokens(video)[b]:  # a frame's (N,D)
            places = [model.backbone.ln_post(token[1 + 4 * row + column]) for row in range(4) for column in range(4)]
            maps.append(torch.stack(places).T.reshape(32, 4, 4))
        mean = sum(maps) / 4
        for m in range(2):
            box = torch.cat([torch.zeros(1), BOXES[b, m] * 4])[None]
            due = model.head(roi_align(mean[None], box, 7, aligned=True)[0].flatten(1).max(1).values)
            assert torch.allclose(logits[b, m], due, atol=1e-5)


def test_a_swin_has_places_too():
    """Two stages: 8x8 patches, then 4x4 places; the heads of the first, 2, and of the second, 4, one of each stage relocated."""
    tower = SwinConfig(32, 4, 16, 2, 2, 2.0, depths=(1, 1), window=2)
    config = ModelConfig(tower, TemporalConfig((-1, 0, 1, 0, 0, 0)), frames=4, classes=5)
    model, video = filled(config), clip()
    maps = model.maps(video)
    assert maps.shape == (2, 32, 4, 4)
    due = model.backbone.norm(model.backbone.tokens(video)[1, :, 4 * 2 + 3]).mean(0)
    assert torch.allclose(maps[1, :, 2, 3], due, atol=1e-5) and model(video, BOXES).shape == (2, 2, 5)


def test_registers_are_no_places():
    config = ModelConfig(replace(TOWER, registers=2), frames=4, classes=5)
    assert filled(config).maps(clip()).shape == (2, 32, 4, 4)


@pytest.mark.parametrize("config", [
    STDHA, replace(STDHA, temporal=TemporalConfig()), replace(STDHA, compression=CompressionConfig("inti", (1,))),
    replace(STDHA, adaptation=i2v.AdaptationConfig("lora", ("q", "v"), scale=1.0))])
def test_merged_saved_and_loaded_it_gives_the_same(tmp_path, config):
    model, video = filled(config), clip()
    due = model(video, BOXES)
    merged = as_detector(i2v.merge(model))
    assert torch.allclose(merged(video, BOXES), due, atol=1e-4) and merged.config.adaptation.kind == "frozen"
    i2v.save_checkpoint(model, tmp_path / "m.safetensors")
    loaded = as_detector(i2v.load_checkpoint(tmp_path / "m.safetensors"))
    assert torch.equal(loaded(video, BOXES), due)
    loaded.head.weight.data.zero_()
    assert model.head.weight.abs().sum() > 0, "a copy"


def test_relocated_heads_tell_boxes_of_the_order_of_frames():
    video = clip()
    for offsets, differs in (((), False), ((-1, 1, 0, 0), True)):
        model = filled(replace(STDHA, temporal=TemporalConfig(offsets)))
        assert torch.allclose(model(video, BOXES), model(video.flip(1), BOXES), atol=1e-4) != differs


def test_what_trains_is_what_the_adaptation_trains():
    names = {name for name, p in filled().named_parameters() if p.requires_grad}
    assert names == {n for n, p in i2v.build_model(STDHA).named_parameters() if p.requires_grad}
    model = filled().train()
    model(clip(), BOXES).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("config, said", [
    (replace(STDHA, classes=0), "classes = 0: allowed is the number of actions"),
    (replace(STDHA, compression=CompressionConfig("tome", remove=2)), "'tome' leaves no grid of patches"),
    (replace(STDHA, temporal=TemporalConfig(global_blocks=1)), "global_blocks or evl: their one token"),
    (ModelConfig(TOWER, TemporalConfig(evl=1), frames=4, classes=5), "global_blocks or evl")])
def test_models_without_places_are_refused(config, said):
    with pytest.raises(ConfigError, match=f"ModelConfig.*{said}"):
        build_detector(config)


def test_the_views_that_show_most_of_a_box_are_averaged():
    logits = torch.tensor([0.0, 2.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 1)
    share = torch.tensor([[[1.0, 0.2, 0.9, 0.0], [0.5, 0.8, 0.9, 0.0], [0.0, 0.0, 0.1, 0.0]]])
    half, more = 0.5, torch.tensor(2.0).sigmoid().item()
    assert scores_of(logits, share)[0, :, 0].tolist() == pytest.approx([half, more, (half + more) / 2, 0.0])
