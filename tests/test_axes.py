"""The three axes together: what compression does inside a model, beside heads that read other frames, adapters and a merge."""

import itertools
from dataclasses import replace

import pytest
import torch

import i2vlib as i2v
from i2vlib.compression.tokens import Merging
from i2vlib.measure import count, multiply_adds
from i2vlib.temporal import shift_heads
from i2vlib.tower.backbone import Attention, Block

TOWER = i2v.TowerConfig(32, 8, 32, 4, 4, 2.0, 16, False)  # 4x4 patches
STDHA = i2v.TemporalConfig((-1, 1, 0, 0), embedding=True)
ADAPTERS = i2v.AdaptationConfig("linear", i2v.FOUR_ADAPTERS, dropout=0.0)
FULL = i2v.AdaptationConfig("full")
SITES = {"inti": (1, 3), "mean": (1, 3), "linear": (1, 3), "conv": (1, 3), "sta": (1, 2, 3), "tome": ()}
COMPRESSIONS = {kind: i2v.CompressionConfig(kind, after, remove=2 if kind in ("sta", "tome") else 0)
                for kind, after in SITES.items()}


def config(kind="none", temporal=STDHA, adaptation=ADAPTERS, frames=8, **options):
    compression = replace(COMPRESSIONS[kind], **options) if kind != "none" else i2v.CompressionConfig()
    return i2v.ModelConfig(TOWER, temporal, adaptation, frames, 5, compression=compression)


def model(config, seed=0, dtype=torch.float64):
    """Every added parameter away from its start."""
    torch.manual_seed(seed)
    net = i2v.build_model(config).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.requires_grad and not name.endswith("conv1.weight"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def video(clips=2, frames=8, dtype=torch.float64):
    return torch.randn(clips, frames, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind, temporal", list(itertools.product(
    COMPRESSIONS, (STDHA, i2v.TemporalConfig(), i2v.TemporalConfig(global_blocks=3), i2v.TemporalConfig(local=True)))))
def test_every_pair_of_axes_runs_counts_and_travels(kind, temporal, tmp_path):
    if kind in ("sta", "tome") and temporal.local:
        with pytest.raises(i2v.ConfigError, match="local"):
            config(kind, temporal)
        return
    net = model(config(kind, temporal, FULL), dtype=torch.float32)
    x = video(dtype=torch.float32)
    features, logits = net.frame_features(x), net(x)
    left = 8 if kind in ("sta", "tome") else 2
    assert features.shape == (2, left, 32) and logits.shape == (2, 5)
    assert net.backbone.tokens(x).shape[2] == net.config.tokens_at(4)
    assert count(net, 8, 32).multiply_adds == multiply_adds(net.config)
    i2v.save_checkpoint(net, tmp_path / "m.safetensors")
    assert torch.equal(i2v.load_checkpoint(tmp_path / "m.safetensors")(x), logits)
    logits.sum().backward()
    without = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, without


@pytest.mark.parametrize("kind, temporal", [*((kind, STDHA) for kind in COMPRESSIONS), ("inti", replace(STDHA, global_blocks=3)),
                                            ("inti", replace(STDHA, local=True))])
def test_stdha_adapters_and_compression_merge(kind, temporal):
    net = model(config(kind, temporal))
    merged, x = i2v.merge(net), video()
    torch.testing.assert_close(merged(x), net(x), rtol=0, atol=1e-12)
    assert not [k for k in merged.state_dict() if "adapters" in k]
    unadapted = {k: v for k, v in net.state_dict().items() if "adapters" not in k}
    plain = i2v.VideoClassifier(merged.config).double().eval()
    plain.load_state_dict(unadapted)
    assert (plain(x) - net(x)).abs().max() > 1e-3, "the negative control: the adapters mattered"


def test_the_merged_model_carries_only_intis_parameters_on_top_of_clips():
    net = model(config("inti"))
    merged = i2v.merge(net)
    image = sum(v.numel() for v in merged.backbone.image_state().values())
    inti = sum(p.numel() for p in merged.backbone.transformer.compression.parameters())
    beside = merged.backbone.temporal_embedding.numel() + sum(p.numel() for p in merged.head.parameters())
    assert sum(p.numel() for p in merged.parameters()) == image + inti + beside and inti > 0
    from i2vlib.measure import open_clip_tower

    open_clip_tower(merged.config).double().load_state_dict(merged.backbone.image_state(), strict=True)


@pytest.mark.parametrize("kind", ["inti", "mean", "linear", "conv"])
def test_a_fresh_compression_is_the_mean_of_pairs_wherever_it_stands(kind):
    """A block by block run with plain means in a loop; relocated heads read within the T of their own block."""
    torch.manual_seed(0)
    net = i2v.build_model(config(kind)).double().eval()
    x, frames = net.backbone.embed(video()), 8
    for i, block in enumerate(net.backbone.transformer.resblocks, 1):
        x = block(x, frames)
        if i in (1, 3):
            x, frames = torch.stack([(x[j] + x[j + 1]) / 2 for j in range(0, len(x), 2)]), frames // 2
    torch.testing.assert_close(net.backbone.tokens(video()).flatten(0, 1), x, rtol=0, atol=1e-12)


def test_each_block_is_told_its_own_number_of_frames(monkeypatch):
    seen = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, x, frames, *more: seen.append((len(x), frames)) or
                        forward(self, x, frames, *more))
    net = model(config("inti", replace(STDHA, embedding=False), frames=12))
    net(video(2, 12))
    assert seen == [(24, 12), (12, 6), (12, 6), (6, 3)]
    assert [net.config.frames_at(block) for block in range(5)] == [12, 6, 6, 3, 3]


def test_a_relocated_head_behind_a_site_reads_the_neighbouring_fused_frame():
    """One marked value: what frame 6 holds reaches, behind a site, fused frame 3 and through offset -1 fused frame 4 only."""
    net = i2v.build_model(config("mean", i2v.TemporalConfig((-1, 0, 0, 0)), FULL, frames=12, after=(1,)))
    net = net.double().eval()
    with torch.no_grad():
        x = video(1, 12)
        other = x.clone()
        other[:, 6] += 1
        blocks = net.backbone.transformer.resblocks
        a, b = (blocks[1](_behind_first(net, v), 6) for v in (x, other))
    changed = [(a[t] - b[t]).abs().max() > 1e-9 for t in range(6)]
    assert changed == [False, False, False, True, True, False]


def _behind_first(net, x):
    blocks = net.backbone.transformer
    plain = replace(net.config, temporal=i2v.TemporalConfig())
    first = Block(plain).double()
    first.load_state_dict(blocks.resblocks[0].state_dict())  # its heads stay on their frame
    return blocks.compression["1"](first(net.backbone.embed(x), x.shape[1]), x.shape[1])


@pytest.mark.parametrize("kind", ["tome", "sta"])
def test_r_0_is_the_identity(kind):
    net = model(config(kind, remove=0))
    plain = i2v.VideoClassifier(replace(net.config, compression=i2v.CompressionConfig())).double().eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net(video()), plain(video()))
    assert multiply_adds(net.config) == multiply_adds(plain.config) == count(net, 8, 32).multiply_adds


def test_attention_counts_a_merged_token_by_its_size():
    """Two equal tokens, or one of size 2: the same attention (ToMe eq. 1)."""
    torch.manual_seed(0)
    attention = Attention(32, 4, (-1, 1, 0, 0)).double()
    x = torch.randn(4, 5, 32, dtype=torch.float64)
    twice = torch.cat([x, x[:, 2:3]], dim=1)
    merging = Merging(x, 1)
    merging.size[:, 2] = 2
    empty = torch.nn.ModuleDict()
    torch.testing.assert_close(attention(x, 4, empty, merging), attention(twice, 4, empty)[:, :5], rtol=0, atol=1e-12)


def test_a_relocated_head_takes_the_sizes_of_the_frame_it_reads():
    attention = Attention(32, 4, (-1, 0, 1, 0))
    log_size = torch.arange(6.0)[:, None, None, None].expand(6, 1, 1, 5)  # two clips of three frames
    read = attention.sizes_read(log_size, 3)[:, :, 0, 0]
    assert read[:, 0].tolist() == [0, 0, 1, 3, 3, 4] and read[:, 2].tolist() == [1, 2, 2, 4, 5, 5]
    assert read[:, 1].tolist() == [0, 1, 2, 3, 4, 5]
    naive = shift_heads(log_size.expand(-1, 4, 1, 5).unflatten(0, (2, 3)).transpose(3, 4), (-1, 0, 1, 0))
    assert torch.equal(naive.flatten(0, 1)[:, :, 0, 0], read)


def test_what_trains_by_name():
    net = i2v.build_model(config("inti", i2v.TemporalConfig(local=True, global_blocks=2), i2v.AdaptationConfig()))
    trains = {name for name, p in net.named_parameters() if p.requires_grad}
    added = ("compression.1.alpha", "compression.3.predictor.token.linear.weight", "temporal.blocks.1.out_proj.weight",
             "temporal.balance", "resblocks.0.temporal.1.up.weight")
    assert {f"backbone.transformer.{name}" for name in added} | {"head.weight"} <= trains
    assert not trains & {"backbone.conv1.weight", "backbone.ln_post.weight", "backbone.transformer.resblocks.0.ln_1.weight"}


def test_what_trains():
    for adaptation, parts in ((i2v.AdaptationConfig(), {"head", "compression"}),
                              (ADAPTERS, {"head", "compression", "adapters", "temporal_embedding", "ln_post"})):
        net = i2v.build_model(config("inti", adaptation=adaptation))
        for name, parameter in net.named_parameters():
            assert parameter.requires_grad == bool(parts & set(name.split("."))), name


@pytest.mark.parametrize("options, message", [
    ({"kind": "inti"}, "after"), ({"kind": "inti", "after": (5, 3)}, "rising"), ({"kind": "inti", "after": (0, 3)}, "1 or more"),
    ({"kind": "pool", "after": (1,)}, "kind"), ({"kind": "tome", "after": (1,), "remove": 1}, "empty"),
    ({"kind": "inti", "after": (1,), "levels": ("pixel",)}, "levels"),
    ({"kind": "inti", "after": (1,), "fusion": "mul"}, "fusion"), ({"kind": "mean", "after": (1,), "head": "sigmoid"}, "head"),
    ({"kind": "inti", "after": (1,), "start": "random"}, "start"), ({"levels": ("token",)}, "levels"),
    ({"kind": "mean", "after": (1,), "remove": 3}, "remove"), ({"kind": "conv", "after": (1,), "start": "zero"}, "start")])
def test_a_compression_that_cannot_be_is_refused(options, message):
    with pytest.raises(i2v.ConfigError, match=message):
        i2v.CompressionConfig(**options)


@pytest.mark.parametrize("options, message", [
    ({"compression": i2v.CompressionConfig("inti", (5,))}, "has 5: the tower has 4 blocks"),
    ({"compression": i2v.CompressionConfig("inti", (1, 2)), "frames": 6}, "multiple of 4"),
    ({"compression": i2v.CompressionConfig("sta", (1, 2), remove=8)}, "do not last"),
    ({"temporal": i2v.TemporalConfig(global_blocks=5)}, "global_blocks")])
def test_a_model_that_cannot_be_is_refused(options, message):
    with pytest.raises(i2v.ConfigError, match=message):
        i2v.ModelConfig(**{"tower": TOWER, "frames": 8, **options})
