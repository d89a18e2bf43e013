"""What stands beside a weight, and over time: equations, starts, merges, counts, and all of them inside a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import i2vlib as i2v
from i2vlib.adaptation.beside import HeadColumns, HeadRows, LoRA, head_channels
from i2vlib.adaptation.st_adapter import STAdapter
from i2vlib.adaptation.strategies import strategies
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
from i2vlib.measure import count, multiply_adds

TOWER = TowerConfig(16, 8, 24, 2, 4, 4.0, 10, quick_gelu=True)  # 2x2 patches, heads of 6
STDHA = TemporalConfig((0, -1, 1, 0), embedding=True)
LORA = {places: AdaptationConfig("lora", places, 0.25, 0.7) for places in (
    ("q", "v"), ("q", "k", "v", "attn_out"), ("q", "v", "mlp_in", "mlp_out"), SIX_ADAPTERS, ("k",), ("mlp_out",))}
ST = {places: AdaptationConfig("st_adapter", places, 0.5) for places in (
    FOUR_ADAPTERS, ("qkv", "mlp_in"), ("qkv",), ("mlp_out",))}
HEADS = AdaptationConfig("heads")
EVERY = [*LORA.values(), *ST.values(), HEADS]
MERGING = [*LORA.values(), HEADS]


def name(adaptation: AdaptationConfig) -> str:
    return f"{adaptation.kind}-{'-'.join(adaptation.places)}"


def model(adaptation: AdaptationConfig, trained: bool = True, **more) -> i2v.VideoClassifier:
    """In eval mode and float64; trained: every weight that trains is away from its start."""
    torch.manual_seed(0)
    config = ModelConfig(**{"tower": TOWER, "temporal": STDHA, "adaptation": adaptation, "frames": 4, "classes": 5} | more)
    net = i2v.build_model(config).double().eval()
    for p in net.parameters() if trained else ():
        p.data.add_(0.3 * torch.randn_like(p)) if p.requires_grad else None
    return net


def plain_twin(net: i2v.VideoClassifier) -> i2v.VideoClassifier:
    twin = i2v.VideoClassifier(replace(net.config, adaptation=AdaptationConfig())).double().eval()
    twin.load_state_dict({k: v for k, v in net.state_dict().items() if ".adapters." not in k})
    return twin


def clip() -> torch.Tensor:
    return torch.randn(3, 4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(a, b, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize("adaptation", EVERY, ids=name)
def test_identity_at_the_start(adaptation):
    net = model(adaptation, trained=False)
    assert torch.equal(net(clip()), plain_twin(net)(clip()))
    assert not torch.allclose(model(adaptation)(clip()), plain_twin(model(adaptation))(clip())), "the negative control"


@pytest.mark.parametrize("adaptation", EVERY, ids=name)
def test_it_learns_and_the_tower_does_not(adaptation):
    net = model(adaptation, trained=False).train()
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    net(clip()).square().sum().backward()
    trained = {k for k, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    added = {k for k, _ in net.named_parameters() if ".adapters." in k}
    assert {k for k in added if "resblocks.0." in k} <= trained, "in the last block patches reach nothing"
    assert trained - added <= {"head.weight", "head.bias", "backbone.temporal_embedding",
                               "backbone.ln_post.weight", "backbone.ln_post.bias"}


def test_lora_is_its_equation():
    lora = LoRA(6, 10, 3, AdaptationConfig("lora", ("q",), 0.25, 0.3)).double().eval()
    nn.init.normal_(lora.B)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    want = torch.stack([0.3 * (lora.B @ (lora.A @ row)) for row in x.flatten(0, 1)]).view(2, 5, 10)
    close(lora(x), want)
    close(x @ lora.difference()[0].T, want)
    assert lora.A.abs().max() <= 1 / 6**0.5 and LoRA(6, 10, 3, AdaptationConfig("lora", ("q",))).B.abs().max() == 0


def test_a_heads_rows_and_columns_are_its_own():
    """Heads 1 and 2 of four, six channels each."""
    channels = head_channels(STDHA.offsets, 24)
    assert channels == list(range(6, 18))
    rows, columns = HeadRows(24, channels).double(), HeadColumns(24, channels).double()
    for p in (*rows.parameters(), *columns.parameters()):
        nn.init.normal_(p)
    x = torch.randn(2, 24, dtype=torch.float64)
    given = rows(x)
    assert given[:, :6].abs().max() == given[:, 18:].abs().max() == 0 and given[:, 6:18].abs().min() > 0
    other = x.clone()
    other[:, :6] = other[:, 18:] = 7
    assert torch.equal(columns(x), columns(other)), "it reads the channels of its heads alone"
    for part, bias in ((rows, rows.difference()[1]), (columns, 0)):
        close(x @ part.difference()[0].T + bias, part(x))


def st_loop(adapter: STAdapter, x: torch.Tensor, frames: int, patches: int) -> torch.Tensor:
    """Patch by patch and frame by frame, from the equation."""
    out, kernel = x.clone(), adapter.conv.weight[:, 0, :, 0]  # (rD, 3)
    for clip_start in range(0, len(x), frames):
        for t in range(frames):
            for n in range(1, 1 + patches):
                z = adapter.conv.bias.clone()
                for k, near in enumerate((t - 1, t, t + 1)):
                    if 0 <= near < frames:
                        z = z + kernel[:, k] * (adapter.down.weight @ x[clip_start + near, n] + adapter.down.bias)
                out[clip_start + t, n] = x[clip_start + t, n] + adapter.up.weight @ z + adapter.up.bias
    return out


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_st_adapter_equals_the_loop(frames, registers):
    adapter = STAdapter(8, 4, AdaptationConfig("st_adapter", ("qkv",), 0.5)).double()
    for p in adapter.parameters():
        nn.init.normal_(p)
    x = torch.randn(2 * frames, 1 + 4 + registers, 8, dtype=torch.float64)
    close(adapter(x, frames), st_loop(adapter, x, frames, 4))
    with pytest.raises(ValueError, match="do not make whole clips"):
        adapter(x[:-1] if frames > 1 else x[:0].new_zeros(3, 5, 8), 2)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_the_convolution_over_time_has_its_gradient_in_half_precision(frames):
    """Where PyTorch's Conv3d has not, on a CPU (i2vlib.layers.grid_conv)."""
    grads = []
    for dtype in (torch.float64, torch.bfloat16):
        torch.manual_seed(0)
        adapter = STAdapter(16, 64, AdaptationConfig("st_adapter", ("qkv",), 0.5)).to(dtype)
        nn.init.ones_(adapter.up.weight)
        adapter(torch.randn(4 * frames, 65, 16).to(dtype), frames).double().square().sum().backward()
        grads.append(adapter.conv.weight.grad.double())
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[0].norm()


@pytest.mark.parametrize("adaptation", list(ST.values()), ids=name)
def test_st_adapters_stand_on_the_stream_in_front_of_the_norm_and_behind_the_sublayer(adaptation):
    net = model(adaptation)
    block = net.backbone.transformer.resblocks[0]
    x = torch.randn(8, 5, 24, dtype=torch.float64)

    def at(place, y):
        return st_loop(block.adapters[place], y, 4, 4) if place in adaptation.places else y

    y = at("qkv", x)
    y = y + at("attn_out", block.attn(block.ln_1(y), 4, {}))
    y = at("mlp_in", y)
    y = y + at("mlp_out", block.mlp(block.ln_2(y)))
    close(block(x, 4), y)


@pytest.mark.parametrize("adaptation", MERGING, ids=name)
@pytest.mark.parametrize("temporal", [STDHA, TemporalConfig((0, -1, 1, 0), queries=True)], ids=["kv", "qkv"])
def test_merging_is_exact(adaptation, temporal):
    net = model(adaptation, temporal=temporal)
    merged = i2v.merge(net)
    close(merged(clip()), net(clip()))
    assert [type(m) for m in merged.modules()] == [type(m) for m in plain_twin(net).modules()]
    assert not any(".adapters." in k for k in merged.state_dict())
    single = net.float()
    close(i2v.merge(single)(clip().float()), single(clip().float()), 1e-5)


@pytest.mark.parametrize("adaptation", list(ST.values())[:1], ids=name)
def test_what_reads_other_frames_does_not_merge(adaptation):
    with pytest.raises(ValueError, match="an ST-Adapter cannot be merged: it reads other frames"):
        i2v.merge(model(adaptation))
    with pytest.raises(ConfigError, match="adaptation.kind = 'st_adapter' with compression 'sta'"):
        model(adaptation, compression=CompressionConfig("sta", (1,), remove=1))


@pytest.mark.parametrize("adaptation", EVERY, ids=name)
def test_it_travels_counts_and_goes_with_the_other_axes(adaptation, tmp_path):
    for more in ({}, {"upper": 1}, {"compression": CompressionConfig("inti", (1, 2))}, {"tower": replace(TOWER, registers=2)},
                 {"temporal": TemporalConfig((0, -1, 1, 0), local=True, global_blocks=1)}):
        net = model(adaptation, **more)
        assert count(net, 4, 16).multiply_adds == multiply_adds(net.config), more
        i2v.save_checkpoint(net.float(), tmp_path / "m.safetensors")
        again = i2v.load_checkpoint(tmp_path / "m.safetensors").eval()
        assert again.config == net.config and torch.equal(again(clip().float()), net(clip().float()))


@pytest.mark.parametrize("adaptation", [LORA[SIX_ADAPTERS], ST[FOUR_ADAPTERS], HEADS], ids=name)
def test_one_graph_serves_any_batch(adaptation):
    net = model(adaptation).float()
    video = clip().float()
    graph = torch.export.export(net, (video[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)).module()
    close(graph(video), net(video), 1e-6)


@pytest.mark.parametrize("adaptation", EVERY, ids=name)
def test_mixed_precision_gives_the_gradients_of_full_precision(adaptation):
    net, grads = model(adaptation).float(), []
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            net(clip().float()).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for k, p in net.named_parameters() if ".adapters." in k and p.grad is not None]))
    assert nn.functional.cosine_similarity(*grads, dim=0) > 0.99


# ---- ZeroI2V's Table 3: tunable parameters, millions, and what the paper prints ----

TABLE_3 = [
    ("heads", (), 0.25, 4.72, 4.6),  # 12·(4·128·768 + 3·128); printed as 4.6: the weights alone are 4608·1024
    ("st_adapter", FOUR_ADAPTERS, 1 / 4, 14.2, 14), ("st_adapter", ("qkv", "mlp_in"), 1 / 2, 14.2, 14),
    ("lora", ("q", "v"), 1 / 4, 7.1, 7), ("lora", ("q", "k", "v", "attn_out"), 1 / 4, 14.2, 14),
    ("lora", ("q", "v", "mlp_in", "mlp_out"), 1 / 4, 24.8, 25), ("lora", ("q", "v", "mlp_in", "mlp_out"), 1 / 6, 16.5, 17),
    ("lora", SIX_ADAPTERS, 1 / 4, 31.9, 32), ("lora", SIX_ADAPTERS, 1 / 6, 21.2, 21),
    *[(kind, places, ratio, derived, printed) for kind in ("gelu", "linear") for places, ratio, derived, printed in (
        (FOUR_ADAPTERS, 1 / 8, 7.1, 7), (("qkv", "mlp_in"), 1 / 4, 7.1, 7),
        (("qkv", "attn_out", "mlp_in"), 1 / 4, 10.65, 10),  # printed as 10: 10.2 of 2^20, a unit that LoRA's rows do not have
        (FOUR_ADAPTERS, 1 / 4, 14.2, 14))],
    ("linear", SIX_ADAPTERS, 1 / 4, 21.3, 20),  # printed as 20: 20.3 of 2^20, see above
    ("linear", SIX_ADAPTERS, 1 / 6, 14.2, 14),
]


@pytest.mark.parametrize("kind, places, ratio, derived, printed", TABLE_3)
def test_the_tunable_parameters_of_table_3(kind, places, ratio, derived, printed):
    config = ModelConfig(i2v.TOWERS["ViT-B-16"], TemporalConfig((-1, 1) + (0,) * 10), AdaptationConfig(kind, places, ratio))
    with torch.device("meta"):
        net = i2v.build_model(replace(config, tower=replace(config.tower, quick_gelu=True)))
    millions = sum(p.numel() for k, p in net.named_parameters() if ".adapters." in k) / 1e6
    assert abs(millions - derived) < 0.06
    unexplained = (kind, places, ratio) in (("heads", (), 0.25), ("linear", SIX_ADAPTERS, 1 / 4))
    assert unexplained or abs(millions - printed) < 0.66


def test_the_named_rows_are_those_of_table_3():
    named = {(row.kind, row.places, row.ratio) for row in strategies().values() if row.adds}
    ours = ("linear", FOUR_ADAPTERS, 1 / 4)  # has a preset of its own, stdha
    assert named | {ours} == {row[:3] for row in TABLE_3} and {row.scale for row in strategies().values()} == {1.0}
