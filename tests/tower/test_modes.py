"""What backward keeps: less than the straightforward form, for the same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from i2vlib.config import (
    FOUR_ADAPTERS,
    SIX_ADAPTERS,
    AdaptationConfig,
    CompressionConfig,
    ConfigError,
    ModelConfig,
    TemporalConfig,
    TowerConfig,
)
from i2vlib.layers import QuickGELU
from i2vlib.measure import kept_for_backward
from i2vlib.tower import attention, backbone
from i2vlib.tower.classifier import build_model
from i2vlib.tower.modes import recomputing

TOWER = TowerConfig(64, 16, 64, 3, 4, output_dim=0, quick_gelu=True)
STDHA = TemporalConfig((-1, 1, 0, 0), embedding=True)
ZEROI2V = ModelConfig(TOWER, STDHA, AdaptationConfig("linear", FOUR_ADAPTERS, dropout=0.1), 4, 5, 0.0)
FORMS = {
    "four adapters": ZEROI2V,
    "six adapters": replace(ZEROI2V, adaptation=AdaptationConfig("linear", SIX_ADAPTERS)),
    "gelu": replace(ZEROI2V, adaptation=AdaptationConfig("gelu", FOUR_ADAPTERS)),
    "full": replace(ZEROI2V, adaptation=AdaptationConfig("full")),
    "patches": replace(ZEROI2V, temporal=TemporalConfig(shift="patch")),
    "class tokens": replace(ZEROI2V, temporal=TemporalConfig(shift="class_token")),
    "upper": replace(ZEROI2V, upper=2),
    "inti": replace(ZEROI2V, compression=CompressionConfig("inti", (1, 2))),
    "sta": replace(ZEROI2V, compression=CompressionConfig("sta", (1, 2), remove=2)),
    "global": replace(ZEROI2V, temporal=TemporalConfig(global_blocks=2)),
}


def trained(config: ModelConfig) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(config).double().train()
    for parameter in model.parameters():  # away from the identity
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def clip(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(2)  # of the dropout
    model.zero_grad()
    model(clip()).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def as_the_equations_read(x: Tensor, *modules: nn.Module) -> Tensor:
    for module in modules:
        x = module(x)
    return x


@pytest.fixture
def straightforward(monkeypatch):
    """A call that puts the straightforward forms in place."""
    def put() -> None:
        for module in (attention, backbone):
            monkeypatch.setattr(module, "through", as_the_equations_read)
        monkeypatch.setattr(QuickGELU, "forward", lambda self, x: x * torch.sigmoid(1.702 * x))
    return put


@pytest.mark.parametrize("name", FORMS)
def test_gradients_are_those_of_the_straightforward_form(name, straightforward):
    model = trained(FORMS[name])
    lean = gradients(model)
    with recomputing(model):
        leanest = gradients(model)
    straightforward()
    want = gradients(model)
    assert lean.keys() == leanest.keys() == want.keys() and len(want) > 2
    for found in (lean, leanest):
        for key, grad in want.items():
            assert (found[key] - grad).abs().max() <= 1e-12 * max(1.0, grad.abs().max()), key


def test_what_is_kept(straightforward):
    model, one = trained(replace(ZEROI2V, tower=replace(TOWER, layers=6))), clip(1)
    now = kept_for_backward(model, one)
    with recomputing(model):
        little = kept_for_backward(model, one)
    outside = kept_for_backward(model, one)
    straightforward()
    before = kept_for_backward(model, one)
    assert outside == now <= 0.7 * before and little <= 0.2 * before


def test_kept_by_hand():
    """One frozen linear layer keeps nothing, one that trains its input, a sigmoid its output."""
    x = torch.randn(3, 8)
    layer = nn.Linear(8, 5)
    assert kept_for_backward(layer, x) == 3 * 8 * 4
    assert kept_for_backward(nn.Sequential(layer, nn.Sigmoid()), x) == 3 * 8 * 4 + 3 * 5 * 4
    layer.requires_grad_(False)
    assert kept_for_backward(layer, x) == 0 == kept_for_backward(layer, x.clone().requires_grad_())


def test_a_model_at_rest_keeps_what_its_hooks_may_look_at():
    """Grad-CAM's hooks must see a norm's output once: nothing is computed again in eval mode."""
    model, seen = trained(ZEROI2V).eval(), []
    hook = model.backbone.transformer.resblocks[0].ln_1.register_forward_hook(lambda *_: seen.append(1))
    model(clip()).sum().backward()
    hook.remove()
    assert len(seen) == 1


@pytest.mark.parametrize("more, name", [({"compression": CompressionConfig("tome", remove=2)}, "compression 'tome'"),
                                        ({"temporal": TemporalConfig(local=True)}, "local modules over time")])
def test_what_counts_as_it_goes_is_not_computed_twice(more, name):
    model = build_model(replace(ZEROI2V, **more))
    with pytest.raises(ConfigError, match=f"TrainConfig.recompute with {name}"), recomputing(model):
        pass
