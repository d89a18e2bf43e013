from dataclasses import replace

import pytest
import torch
from torch import nn

import i2vlib as i2v
from i2vlib.adaptation import GELUAdapter, LinearAdapter, merge_before, merge_behind
from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.measure import count, open_clip_tower

TOWER = TowerConfig(16, 8, 24, 2, 4, 4.0, 10, quick_gelu=True)
TABLE_3 = [i2v.FOUR_ADAPTERS, i2v.SIX_ADAPTERS, i2v.THREE_ADAPTERS, ("qkv", "mlp_in"), ("qkv",), ("q",), ("k",), ("v",),
           ("q", "v"), ("attn_out",), ("mlp_in",), ("mlp_out",), ("k", "attn_out", "mlp_out")]


def adapted(places, kind="linear", offsets=(-1, 1, 0, 0), scale=0.7):
    config = ModelConfig(TOWER, TemporalConfig(offsets, embedding=True), AdaptationConfig(kind, places, 0.25, scale), 4, 5)
    return i2v.build_model(config).eval()


def trained(model):
    """Non-zero everywhere, as after training."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    return model


def plain_twin(model):
    """The same tower and head without adapters."""
    twin = i2v.VideoClassifier(replace(model.config, adaptation=AdaptationConfig())).eval()
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if ".adapters." not in k})
    return twin


def clip(dtype=torch.float32):
    return torch.randn(3, 4, 3, 16, 16, dtype=dtype)


def test_forward_is_the_equation():
    a = trained(LinearAdapter(8, AdaptationConfig("linear", ("qkv",), 0.5, 0.3))).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    W_d, b_d, W_u, b_u = a.down.weight, a.down.bias, a.up.weight, a.up.bias
    want = torch.stack([x_i + 0.3 * (W_u @ (W_d @ x_i + b_d) + b_u) for x_i in x.flatten(0, 1)]).view_as(x)
    torch.testing.assert_close(a(x), want, rtol=0, atol=1e-12)
    M, m = a.affine()
    torch.testing.assert_close(x @ M.T + m, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "gelu"])
@pytest.mark.parametrize("places", TABLE_3)
def test_identity_at_the_start(kind, places):
    model = adapted(places, kind)
    x = clip()
    assert torch.equal(model(x), plain_twin(model)(x))


@pytest.mark.parametrize("places", TABLE_3)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_merge_is_exact_for_every_placement(places, dtype, tolerance):
    model = trained(adapted(places)).to(dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = clip(dtype)
    merged = i2v.merge(model)
    want, got, without = model(x), merged(x), plain_twin(model).to(dtype)(x)
    assert (got - want).abs().max() <= tolerance * want.abs().max()
    assert (without - want).abs().max() > 1e-3 * want.abs().max(), "negative control: without its adapters the model differs"
    assert not any(isinstance(m, LinearAdapter) for m in merged.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the original stays"
    assert got.dtype == dtype and not merged.training


def test_the_merged_model_is_the_plain_tower():
    model = trained(adapted(i2v.SIX_ADAPTERS))
    merged = i2v.merge(model)
    plain = i2v.VideoClassifier(ModelConfig(TOWER, frames=4, classes=5))
    assert [type(m) for m in merged.modules()] == [type(m) for m in plain.modules()]
    ours, theirs = count(merged, 4, 16), count(plain, 4, 16)
    assert ours.multiply_adds == theirs.multiply_adds
    assert ours.parameters == theirs.parameters + 4 * 24  # the temporal embedding, T·D numbers, is all that was added
    tower = open_clip_tower(merged.config)
    tower.load_state_dict(merged.backbone.image_state(), strict=True)


def test_offset_zero_merged_equals_open_clip():
    model = trained(adapted(i2v.FOUR_ADAPTERS, offsets=())).double()
    model.backbone.temporal_embedding.data.zero_()
    merged = i2v.merge(model)
    tower = open_clip_tower(merged.config).double()
    tower.load_state_dict(merged.backbone.image_state(), strict=True)
    x = clip(torch.float64)
    want = tower(x.flatten(0, 1)).view(3, 4, -1)
    got = model.frame_features(x) @ model.backbone.proj
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12 * want.abs().max().item())


def test_a_wrong_scale_does_not_merge():
    """What the authors' users report most: a merge that guesses s changes the model."""
    model = trained(adapted(i2v.FOUR_ADAPTERS, scale=1.0)).double()
    x = clip(torch.float64)
    want = model(x)
    for adapter in (m for m in model.modules() if isinstance(m, LinearAdapter)):
        adapter.scale = 0.5
    assert (i2v.merge(model)(x) - want).abs().max() > 0.01 * want.abs().max()


def test_sides_by_hand():
    W, b = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])
    M, m = torch.tensor([[1.0, 1.0], [0.0, 2.0]]).double(), torch.tensor([5.0, 7.0]).double()
    assert [v.tolist() for v in merge_before(W, b, M, m)] == [[[1.0, 5.0]], [22.0]]  # W M, b + W m
    W, b = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 4.0])
    assert [v.tolist() for v in merge_behind(W, b, M, m)] == [[[3.0], [4.0]], [12.0, 15.0]]  # M W, M b + m


def test_gelu_adapters_refuse_and_say_why():
    model = trained(adapted(("qkv",), "gelu"))
    with pytest.raises(ValueError, match="GELU adapter cannot be merged.*no matrix M"):
        i2v.merge(model)
    assert any(isinstance(m, GELUAdapter) for m in model.modules())


@pytest.mark.parametrize("kind, places, trains", [
    ("frozen", (), {"head"}), ("linear", ("qkv",), {"head", "adapters", "temporal_embedding", "ln_post"}),
    ("full", (), {"head", "transformer", "temporal_embedding", "ln_post", "ln_pre", "conv1", "class_embedding",
                  "positional_embedding"})])
def test_what_trains(kind, places, trains):
    names = {n for n, p in adapted(places, kind).named_parameters() if p.requires_grad}
    found = {"adapters" if "adapters" in n else n.removeprefix("backbone.").split(".")[0] for n in names}
    assert found == trains


@pytest.mark.parametrize("bottleneck, places, millions", [
    (192, i2v.FOUR_ADAPTERS, 14), (96, i2v.FOUR_ADAPTERS, 7), (192, i2v.SIX_ADAPTERS, 20), (128, i2v.SIX_ADAPTERS, 14),
    (192, i2v.THREE_ADAPTERS, 10), (192, ("qkv", "mlp_in"), 7)])
def test_tunable_parameters_are_table_3s_column(bottleneck, places, millions):
    config = AdaptationConfig("linear", places, bottleneck / 768)
    with torch.device("meta"):
        one = sum(p.numel() for p in LinearAdapter(768, config).parameters())
    assert abs(12 * len(places) * one / 1e6 - millions) < 1.4  # the paper rounds; six at 192 are 21.3, printed as 20


def test_merge_where_nothing_is_computed():
    """On the meta device only shapes exist: what is counted there must merge there."""
    with torch.device("meta"):
        model = i2v.VideoClassifier(ModelConfig(TOWER, adaptation=AdaptationConfig("linear", i2v.SIX_ADAPTERS)))
        merged = i2v.merge(model)
    assert {p.device.type for p in merged.parameters()} == {"meta"}
