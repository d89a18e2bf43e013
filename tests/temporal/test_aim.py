"""AIM: attention over time from a loop, the block from its equations, the papers' columns, and AIM beside the other axes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import i2vlib as i2v
from i2vlib.adaptation.aim import GELUBranch, aim_adapter
from i2vlib.adaptation.linear import GELUAdapter
from i2vlib.config import AIM_PLACES, AdaptationConfig, CompressionConfig, ConfigError, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.insight.attention import attention_weights
from i2vlib.measure import count, multiply_adds
from i2vlib.temporal.aim import attend_over_time
from i2vlib.tower.modes import recomputing

TOWER = TowerConfig(16, 8, 24, 2, 4, 2.0, 10, quick_gelu=True)  # 2x2 patches, heads of 6
AIM = AdaptationConfig("aim", AIM_PLACES, 0.25, 0.7, 0.0)
PLACES = (AIM_PLACES, AIM_PLACES[1:], ("time_out",), ("attn_out",), ("mlp",), ("mlp", "time_out"))


def model(trained: bool = True, **more) -> i2v.VideoClassifier:
    """In eval mode and float64; trained: every weight that trains is away from its start."""
    torch.manual_seed(0)
    config = {"tower": TOWER, "adaptation": AIM, "frames": 4, "classes": 5, "head_dropout": 0.0} | more
    net = i2v.build_model(ModelConfig(**config)).double().eval()
    for p in net.parameters() if trained else ():
        p.data.add_(0.3 * torch.randn_like(p)) if p.requires_grad else None
    return net


def clip(clips: int = 3, frames: int = 4) -> torch.Tensor:
    return torch.randn(clips, frames, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(a, b) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * b.abs().max().item())


def attention(attn, tokens):
    """Plain attention among the rows of tokens (L, D), head by head and query by query."""
    width, d = tokens.shape[1], tokens.shape[1] // attn.heads
    q, k, v = (tokens @ attn.in_proj_weight[i * width:(i + 1) * width].T + attn.in_proj_bias[i * width:(i + 1) * width]
               for i in range(3))
    out = torch.zeros_like(tokens)
    for h in range(attn.heads):
        part = slice(h * d, (h + 1) * d)
        for i in range(len(tokens)):
            weights = torch.tensor([math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(d)) for j in range(len(tokens))],
                                   dtype=tokens.dtype)
            out[i, part] = (weights / weights.sum()) @ v[:, part]
    return out @ attn.out_proj.weight.T + attn.out_proj.bias


def naive_block(block, x, frames):
    """(B·T,N,D), from the three equations; T, J: branches, A, S: with the skip connection; s stands at J alone."""
    def branch(place, y, scale=1.0):
        if place not in block.adapters:
            return torch.zeros_like(y)
        a = block.adapters[place]
        z = y @ a.down.weight.T + a.down.bias
        return scale * (z * 0.5 * (1 + torch.erf(z / math.sqrt(2))) @ a.up.weight.T + a.up.bias)

    def norm(ln, y):
        return (y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, unbiased=False, keepdim=True) + ln.eps) * ln.weight + ln.bias

    x = x.clone()
    entered = norm(block.ln_1, x)
    entered = entered + branch("time_in", entered)
    mixed = torch.zeros_like(x)
    for start in range(0, len(x), frames):
        for n in range(x.shape[1]):
            mixed[start:start + frames, n] = attention(block.attn, entered[start:start + frames, n])
    x = x + branch("time_out", mixed)
    mixed = torch.stack([attention(block.attn, frame) for frame in norm(block.ln_1, x)])
    x = x + mixed + branch("attn_out", mixed)
    entered = norm(block.ln_2, x)
    u = entered @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    u = u / (1 + torch.exp(-1.702 * u))
    return x + u @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias + branch("mlp", entered, AIM.scale)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_the_block_is_its_equations(places, frames):
    block = model(adaptation=replace(AIM, places=places)).backbone.transformer.resblocks[1]
    x = torch.randn(4, 7, 24, dtype=torch.float64)
    with torch.no_grad():
        close(block(x, frames), naive_block(block, x, frames))


def test_over_time_a_token_reads_its_own_place_in_every_frame_of_its_clip():
    """One marked token of two clips of three frames: its place in its clip changes, in every frame, and nothing else."""
    qkv = torch.randn(6, 4, 24, dtype=torch.float64)
    other = qkv.clone()
    other[4, 2] += 1
    changed = (attend_over_time(qkv, 3, 2) - attend_over_time(other, 3, 2)).abs().amax(-1) > 1e-9
    assert changed.nonzero().tolist() == [[3, 2], [4, 2], [5, 2]]
    with pytest.raises(ValueError, match="6 frames do not make whole clips of 4 frames"):
        attend_over_time(qkv, 4, 2)


@pytest.mark.parametrize("places", PLACES)
def test_identity_at_the_start(places):
    net = model(trained=False, adaptation=replace(AIM, places=places))
    plain = i2v.VideoClassifier(replace(net.config, adaptation=AdaptationConfig())).double().eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if ".adapters." not in k})
    close(net(clip()), plain(clip()))  # equal, but for the order in which a product of matrices sums
    assert set(net.backbone.image_state()) == set(plain.backbone.image_state())
    assert not torch.allclose(model(adaptation=replace(AIM, places=places))(clip()), plain(clip())), "the negative control"


def test_which_adapters_have_the_skip_and_which_the_scale():
    made = {place: aim_adapter(place, 8, AIM) for place in AIM_PLACES}
    assert [type(a) for a in made.values()] == [GELUAdapter, GELUBranch, GELUAdapter, GELUBranch]
    assert [a.scale for a in made.values()] == [1.0, 1.0, 1.0, 0.7]


def test_what_trains_and_learns():
    net = model(temporal=TemporalConfig(embedding=True))
    trains = {name for name, p in net.named_parameters() if p.requires_grad}
    parts = {"adapters", "temporal_embedding", "ln_post", "head"}
    assert trains == {name for name, _ in net.named_parameters() if parts & set(name.split("."))}
    net.train()(clip()).square().sum().backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == trains
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    with recomputing(net):
        net(clip()).square().sum().backward()
    for a, b in zip(grads, [p.grad for p in net.parameters() if p.grad is not None], strict=True):
        close(b, a)


def test_drop_path_drops_the_two_branches_and_nothing_of_the_tower():
    net = model()
    block, x = net.backbone.transformer.resblocks[1], torch.randn(8, 5, 24, dtype=torch.float64)
    block.drop = 1.0
    assert not torch.allclose(block(x, 4), block.train()(x, 4))
    without = model(adaptation=replace(AIM, places=("attn_out",))).backbone.transformer.resblocks[1]
    without.load_state_dict({k: v for k, v in block.state_dict().items() if ".time" not in k and "s.mlp" not in k})
    close(block(x, 4), without(x, 4))


def test_attention_and_norm_are_seen_once_a_block():
    """Hooks see the pass within frames: its map in attention_weights, its norm for Grad-CAM."""
    net, calls = model(), []
    block = net.backbone.transformer.resblocks[1]
    block.ln_1.register_forward_hook(lambda module, given, out: calls.append(given[0]))
    net(clip())
    assert len(calls) == 1
    with attention_weights(net) as weights:
        net(clip())
    assert [w.shape for w in weights] == [(3, 4, 4, 5, 5)] * 2
    q, k, _ = F.linear(block.ln_1(calls[0]), block.attn.in_proj_weight, block.attn.in_proj_bias).unflatten(
        -1, (3, 4, 6)).permute(2, 0, 3, 1, 4)
    close(weights[1].flatten(0, 1), (q @ k.mT / math.sqrt(6)).softmax(-1).detach())


@pytest.mark.parametrize("more", [
    {}, {"upper": 1}, {"compression": CompressionConfig("inti", (1, 2))}, {"tower": replace(TOWER, registers=2)},
    {"temporal": TemporalConfig((-1, 1, 0, 2), embedding=True)}, {"temporal": TemporalConfig(shift="patch", stem=True)},
    {"temporal": TemporalConfig(global_blocks=2)}, {"adaptation": replace(AIM, places=("attn_out",))}],
    ids=["", "upper", "inti", "registers", "stdha", "patch shift, stem", "global", "spatial alone"])
def test_it_travels_counts_and_goes_with_the_other_axes(more, tmp_path):
    net = model(**more).float()
    assert count(net, 4, 16).multiply_adds == multiply_adds(net.config)
    i2v.save_checkpoint(net, tmp_path / "m.safetensors")
    again = i2v.load_checkpoint(tmp_path / "m.safetensors").eval()
    assert again.config == net.config and torch.equal(again(clip().float()), net(clip().float()))
    if net.config.upper:
        torch.testing.assert_close(net(net.backbone.lower(clip().float())), net(clip().float()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("change, says", [
    ({"temporal": TemporalConfig(local=True)}, "temporal.local with adaptation 'aim'"),
    ({"temporal": TemporalConfig(shift="class_token")}, "temporal.shift with adaptation 'aim'"),
    ({"compression": CompressionConfig("tome", remove=1)}, "adaptation.kind = 'aim' with compression 'tome'"),
    ({"compression": CompressionConfig("sta", (1,), remove=1)}, "adaptation.kind = 'aim' with compression 'sta'")])
def test_what_does_not_go_together_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        model(**change)


@pytest.mark.parametrize("places", [("time_in", "mlp"), ("qkv",), ()])
def test_impossible_places_are_refused(places):
    with pytest.raises(ConfigError, match="AdaptationConfig.places = .*time_out"):
        replace(AIM, places=places)
    with pytest.raises(ConfigError, match="AdaptationConfig.places"):
        AdaptationConfig("gelu", ("time_out",))


def test_it_does_not_merge():
    for places in PLACES:
        with pytest.raises(ValueError, match="a GELU adapter cannot be merged"):
            i2v.merge(model(adaptation=replace(AIM, places=places)))
    assert not AIM.merges


# ---- the papers' columns: parameters and multiply-adds of ViT-B/16 and ViT-L/14 ----

@pytest.mark.parametrize("name, tuned, total", [
    ("b16-8f-k400", 11, 97), ("b16-8f-ssv2", 14, 100), ("l14-32f-k400", 38, 341), ("l14-32f-ssv2", 50, 354)])
def test_the_papers_parameters(name, tuned, total):
    """Adapters alone, and all but CLIP's projection into the space of texts: within what rounding leaves."""
    config = i2v.PRESETS[f"aim-{name}"]
    with torch.device("meta"):
        net = i2v.VideoClassifier(replace(config, tower=replace(config.tower, quick_gelu=True)))
    sizes = {k: p.numel() / 1e6 for k, p in net.named_parameters()}
    adapters = sum(v for k, v in sizes.items() if ".adapters." in k)
    width, layers, places = config.tower.width, config.tower.layers, len(config.adaptation.places)
    assert adapters == pytest.approx(layers * places * (2 * width * width // 4 + width + width // 4) / 1e6)
    assert abs(adapters - tuned) < 0.5
    assert abs(sum(v for k, v in sizes.items() if k != "backbone.proj") - total) < 0.5


@pytest.mark.parametrize("name, views, extra, total", [
    ("b16-8f-ssv2", 3, 202, 624),  # ZeroI2V's row "14 M", on K400 and SSv2 alike
    ("b16-16f-k400", 1, None, 405), ("b16-16f-ssv2", 1, None, 416),  # InTI's
    ("l14-32f-k400", 3, 3425, 11208), ("l14-32f-ssv2", 3, 3725, 11508)])
def test_the_papers_gflops(name, views, extra, total):
    config = i2v.PRESETS[f"aim-{name}"]
    ours = views * multiply_adds(config) / 1e9
    assert ours == pytest.approx(total, rel=0.004)
    if extra:
        plain = replace(config, adaptation=AdaptationConfig(), drop_path=0.0)
        assert ours - views * multiply_adds(plain) / 1e9 == pytest.approx(extra, rel=0.011)
