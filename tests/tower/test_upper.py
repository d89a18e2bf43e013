"""ModelConfig.upper: what the upper blocks make of kept tokens is what they make of the video; registers and no ln_pre."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from i2vlib.config import (
    FOUR_ADAPTERS,
    AdaptationConfig,
    CompressionConfig,
    ConfigError,
    ModelConfig,
    TemporalConfig,
    TowerConfig,
)
from i2vlib.measure import count, multiply_adds
from i2vlib.tower.classifier import build_model, merge, open_clip_state

TOWER = TowerConfig(16, 4, 32, 4, 2, 2.0, 0)
BASE = ModelConfig(TOWER, TemporalConfig((-1, 1)), AdaptationConfig("linear", FOUR_ADAPTERS, dropout=0.0), 4, 3, upper=2)
POINTS = {
    "stdha": BASE,
    "embedding": replace(BASE, temporal=TemporalConfig((-1, 1), embedding=True)),
    "full": replace(BASE, adaptation=AdaptationConfig("full")),
    "inti": replace(BASE, compression=CompressionConfig("inti", (3,))),
    "tome": replace(BASE, compression=CompressionConfig("tome", remove=3)),
    "uniformerv2": replace(BASE, temporal=TemporalConfig(local=True, global_blocks=2)),
    "registers": replace(BASE, tower=replace(TOWER, registers=2), compression=CompressionConfig("inti", (3,)),
                         temporal=TemporalConfig((1, 0), embedding=True, global_blocks=1)),
    "no ln_pre": replace(BASE, tower=replace(TOWER, ln_pre=False, norm_eps=1e-6)),
}


def stirred(config: ModelConfig) -> nn.Module:
    """A model in which nothing is at its start, so that no part can be left out unseen."""
    torch.manual_seed(0)
    model = build_model(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("config", POINTS.values(), ids=POINTS)
def test_the_upper_blocks_make_the_same_of_kept_tokens_as_of_the_video(config):
    model, video = stirred(config), torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        kept = model.backbone.lower(video)
        assert kept.shape == (2, 4, config.tower.tokens, 32)
        torch.testing.assert_close(model(kept), model(video), rtol=1e-12, atol=1e-12)
        image = stirred(ModelConfig(config.tower, frames=1)).backbone
        image.load_state_dict(model.backbone.image_state())
        by_hand = image.embed(video.flatten(0, 1)[:, None])
        for block in image.transformer.resblocks[:2]:
            by_hand = block(by_hand, 1)
    torch.testing.assert_close(kept.flatten(0, 1), by_hand, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", POINTS.values(), ids=POINTS)
def test_only_the_upper_blocks_are_added_to_and_trained(config):
    model = build_model(config)
    assert multiply_adds(config) == count(model, 4, 16).multiply_adds
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    embeds = tuple(f"backbone.{part}" for part in ("conv1", "class_embedding", "positional_embedding", "registers", "ln_pre"))
    assert trained and not [name for name in trained for part in ("resblocks.0.", "resblocks.1.", *embeds) if part in name]
    assert not [name for name in model.state_dict() if "adapters" in name and (".0." in name or ".1." in name)]
    if config.adaptation.kind == "full":
        assert "backbone.transformer.resblocks.2.attn.in_proj_weight" in trained


def test_merged_it_gives_the_same_and_has_no_adapter():
    model, video = stirred(POINTS["registers"]), torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    merged = merge(model)
    with torch.no_grad():
        torch.testing.assert_close(merged(video), model(video), rtol=1e-12, atol=1e-12)
    assert not [name for name in merged.state_dict() if "adapters" in name]


@pytest.mark.parametrize("shape", [(2, 3, 17, 32), (2, 4, 16, 32), (2, 4, 17, 31), (4, 17, 32)])
def test_tokens_that_lower_did_not_make_are_refused(shape):
    with pytest.raises(ValueError, match="allowed is|with a temporal embedding|a temporal embedding for 4"):
        build_model(POINTS["embedding"])(torch.zeros(shape))


def test_without_upper_there_is_nothing_to_keep():
    model = build_model(replace(BASE, upper=0))
    with pytest.raises(ValueError, match="all blocks of this model are adapted"):
        model.backbone.lower(torch.zeros(1, 4, 3, 16, 16))
    with pytest.raises(ValueError, match=r"video \(2, 4, 17, 32\)"):
        model(torch.zeros(2, 4, 17, 32))


@pytest.mark.parametrize("change, says", [
    ({"upper": 5}, "upper = 5"), ({"compression": CompressionConfig("mean", (2,))}, "has 2: allowed is more than 2"),
    ({"temporal": TemporalConfig(global_blocks=3)}, "up to the 2 blocks that are adapted"),
    ({"tower": replace(TOWER, registers=1), "compression": CompressionConfig("tome", remove=1)}, "with 1 register"),
])
def test_what_does_not_fit_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(BASE, **change)


@pytest.mark.parametrize("tower", [replace(TOWER, registers=1), replace(TOWER, ln_pre=False), replace(TOWER, norm_eps=1e-6)])
def test_open_clips_tower_is_not_given_what_it_lacks(tower):
    with pytest.raises(ValueError, match="registers|ln_pre|norm_eps"):
        open_clip_state(build_model(ModelConfig(tower)))
