"""EVL's decoder: its maps and layers from loops, a frozen tower that nothing enters, the papers' columns, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import i2vlib as i2v
from i2vlib.config import AdaptationConfig, CompressionConfig, ConfigError, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.measure import count, kept_for_backward, multiply_adds
from i2vlib.temporal.evl import EVLDecoder, EVLLayer, evl_multiply_adds, neighbour_map, relative_places
from i2vlib.tower.modes import recomputing

D, HEADS, GRID = 6, 2, (2, 3)
P = GRID[0] * GRID[1]
TOWER = TowerConfig(16, 8, 24, 4, 4, 2.0, 10, quick_gelu=True)  # 2x2 patches
EVL = ModelConfig(TOWER, TemporalConfig(evl=2), frames=3, classes=5, head_dropout=0.0)


def stirred(module, seed=0):
    """float64 and eval, all that trains away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.double().eval().parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=torch.float64, generator=generator)) if p.requires_grad else None
    return module


def model(config=EVL):
    torch.manual_seed(0)
    return stirred(i2v.build_model(config))


def normal(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * b.abs().max().item())


def naive_map(q, k, table):
    """Of one frame's patches in another's, q, k (h, P, d): patch by patch, and the way from k to q in whole steps."""
    out = torch.zeros(P, table.shape[1], dtype=table.dtype)
    for i in range(P):
        for h in range(len(q)):
            logits = [float(q[h, i] @ k[h, j]) / math.sqrt(q.shape[-1]) for j in range(P)]
            total = sum(math.exp(logit) for logit in logits)
            for j in range(P):
                down, across = i // GRID[1] - j // GRID[1], i % GRID[1] - j % GRID[1]
                row = (down + GRID[0] - 1) * (2 * GRID[1] - 1) + across + GRID[1] - 1
                out[i] += math.exp(logits[j]) / total / len(q) * table[row]
    return out


def norm(ln, x):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + ln.eps) * ln.weight + ln.bias


def naive_layer(m, query, x, q, k, frames):
    """Clip by clip, token by token."""
    out = []
    for b in range(len(query)):
        seen, own = [], x[b * frames:(b + 1) * frames]
        for t in range(frames):
            maps = torch.zeros(x.shape[1], D, dtype=x.dtype)
            if t:
                maps[1:1 + P] += naive_map(q[b * frames + t, :, 1:1 + P], k[b * frames + t - 1, :, 1:1 + P], m.before)
            if t + 1 < frames:
                maps[1:1 + P] += naive_map(q[b * frames + t, :, 1:1 + P], k[b * frames + t + 1, :, 1:1 + P], m.after)
            for n in range(x.shape[1]):
                token = own[t, n] + m.time.bias + m.position[t] + maps[n]
                for step in (-1, 0, 1):
                    if 0 <= t + step < frames:
                        token = token + m.time.weight[:, 0, step + 1, 0] * own[t + step, n]
                seen.append(norm(m.reader.ln_tokens, token))
        reader, d, z = m.reader, D // HEADS, query[b, 0]
        w, bias = reader.in_proj_weight.chunk(3), reader.in_proj_bias.chunk(3)
        asked = w[0] @ norm(reader.ln_query, z) + bias[0]
        keys, values = ([W @ token + c for token in seen] for W, c in zip(w[1:], bias[1:], strict=True))
        heads = []
        for part in (slice(h * d, (h + 1) * d) for h in range(HEADS)):
            weights = [math.exp(float(asked[part] @ key[part]) / math.sqrt(d)) for key in keys]
            heads.append(sum(a * value[part] for a, value in zip(weights, values, strict=True)) / sum(weights))
        z = z + reader.out_proj.weight @ torch.cat(heads) + reader.out_proj.bias
        u = reader.c_fc.weight @ norm(reader.ln_mlp, z) + reader.c_fc.bias
        out.append(z + reader.c_proj.weight @ (u / (1 + torch.exp(-1.702 * u))) + reader.c_proj.bias)
    return torch.stack(out)[:, None]


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_layer_is_the_loop(frames, registers):
    layer, tokens = stirred(EVLLayer(D, HEADS, frames, GRID)), 1 + P + registers
    x, query = normal(2 * frames, tokens, D), normal(2, 1, D, seed=2)
    q, k = (normal(2 * frames, HEADS, tokens, D // HEADS, seed=seed) for seed in (3, 4))
    before = x.clone()
    with torch.no_grad():
        close(layer(query, x, frames, q, k), naive_layer(layer, query, x, q, k, frames))
    assert torch.equal(x, before)
    with pytest.raises(ValueError, match="do not make whole clips of 4 frames"):
        layer(query, normal(3, tokens, D), 4, q, k)


def test_the_way_from_one_patch_to_another_has_one_row():
    """2x3 patches: the way from patch 4 (second row, middle) to patch 0 is one up and one left."""
    places = relative_places(GRID)
    assert places.min() == 0 and places.max() == 3 * 5 - 1
    assert places[0, 4] == 0 * 5 + 1 and places[4, 0] == 2 * 5 + 3 and (places.diagonal() == 1 * 5 + 2).all()
    q, k, table = torch.zeros(1, P, 2), torch.zeros(1, P, 2), torch.eye(15)
    q[0, 0, 0] = k[0, 4, 0] = 100.0  # patch 0 resembles patch 4 alone
    assert neighbour_map(q, k, table, places)[0].argmax() == places[0, 4]


def test_at_the_start_it_reads_the_image_models_features_as_they_are():
    torch.manual_seed(0)
    layer = EVLLayer(D, HEADS, 3, GRID).double().eval()
    x, query = normal(6, 1 + P, D), normal(2, 1, D, seed=2)
    q, k = (normal(6, HEADS, 1 + P, D // HEADS, seed=seed) for seed in (3, 4))
    close(layer(query, x, 3, q, k), layer.reader(query, x, 3))
    assert not EVLDecoder(D, HEADS, 2, 3, GRID).class_embedding.any()
    weights = (*layer.reader.in_proj_weight.chunk(3), layer.reader.out_proj.weight, layer.reader.c_proj.weight)
    for weight in weights:  # Xavier's bound for each projection alone
        assert 0.8 < weight.abs().max() / math.sqrt(6 / sum(weight.shape)) <= 1


def test_the_model_reads_its_last_blocks_one_by_one():
    net, video = model(), normal(2, 3, 3, 16, 16)
    query, x = net.backbone.transformer.temporal.start(2), net.backbone.embed(video)
    with torch.no_grad():
        for i, block in enumerate(net.backbone.transformer.resblocks):
            qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
            q, k, _ = qkv.unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4)
            x = block(x, 3)
            if i >= 2:
                query = net.backbone.transformer.temporal.layers[i - 2](query, x, 3, q, k)
        close(net(video), net.head(net.backbone.transformer.temporal.norm(query[:, 0])))


def test_the_tower_stays_the_image_model():
    net = model()
    plain = i2v.VideoClassifier(replace(EVL, temporal=TemporalConfig())).double().eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if ".temporal." not in k})
    video = normal(2, 3, 3, 16, 16)
    close(net.frame_features(video), plain.frame_features(video))
    assert set(net.backbone.image_state()) == set(plain.backbone.image_state())
    close(i2v.merge(net)(video), net(video))
    with pytest.raises(ValueError, match="EVL's decoder"):
        i2v.open_clip_state(net.float())


def test_no_gradient_enters_the_tower_and_nothing_of_it_is_kept(monkeypatch):
    net, video, entered = model(), normal(2, 3, 3, 16, 16), []
    read = EVLDecoder.read
    monkeypatch.setattr(EVLDecoder, "read", lambda self, i, query, x, frames, q, k: entered.extend((x, q, k)) or read(
        self, i, query, x, frames, q, k))
    net.train()(video).square().sum().backward()
    assert len(entered) == 6 and not any(x.requires_grad for x in entered)
    trains = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trains == {name for name, _ in net.named_parameters() if ".temporal." in name or name.startswith("head.")}
    for name, p in net.named_parameters():
        assert (p.grad is not None) == (name in trains), name
    kept = [kept_for_backward(model(replace(EVL, tower=replace(TOWER, layers=layers))).train(), video) for layers in (3, 6)]
    assert kept[0] == kept[1] > 0, "what backward keeps does not grow with the tower"
    with recomputing(net):
        close(net(video), model().train()(video))


def test_gradients_reach_every_parameter():
    decoder = stirred(EVLDecoder(D, HEADS, 2, 3, GRID))
    query, q, k = decoder.start(2), *(normal(6, HEADS, 1 + P, D // HEADS, seed=seed) for seed in (3, 4))
    for i in range(2):
        query = decoder.read(i, query, normal(6, 1 + P, D), 3, q, k)
    (decoder.finish(query) * normal(2, D)).square().sum().backward()
    for name, p in decoder.named_parameters():
        # the keys' bias adds the same to all logits of a head: the softmax drops it
        grad = torch.cat([p.grad[:D], p.grad[2 * D:]]) if name.endswith("in_proj_bias") else p.grad
        assert grad.abs().min() > 0, name


def test_dropout_is_in_the_decoders_mlps():
    net = model(replace(EVL, temporal=TemporalConfig(evl=2, global_dropout=0.9)))
    video = normal(2, 3, 3, 16, 16)
    assert torch.equal(net(video), net(video)) and not torch.allclose(net.train()(video), net(video))


@pytest.mark.parametrize("more", [{}, {"upper": 2}, {"tower": replace(TOWER, registers=2)}, {"frames": 1},
                                  {"tower": replace(TOWER, ln_pre=False, output_dim=0)}, {"temporal": TemporalConfig(evl=4)}])
def test_it_travels_and_counts(more, tmp_path):
    net = model(replace(EVL, **more)).float()
    video = torch.randn(2, net.config.frames, 3, 16, 16)
    assert count(net, net.config.frames, 16).multiply_adds == multiply_adds(net.config)
    i2v.save_checkpoint(net, tmp_path / "m.safetensors")
    again = i2v.load_checkpoint(tmp_path / "m.safetensors").eval()
    assert again.config == net.config and torch.equal(again(video), net(video))
    if net.config.upper:
        torch.testing.assert_close(net(net.backbone.lower(video)), net(video), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="this model has an EVL decoder for"):
        net(torch.randn(2, 5, 3, 16, 16))


@pytest.mark.parametrize("change", [
    {"adaptation": AdaptationConfig("full")}, {"adaptation": AdaptationConfig("linear", ("qkv",))}, {"drop_path": 0.1},
    {"compression": CompressionConfig("mean", (1,)), "frames": 4}, {"compression": CompressionConfig("tome", remove=1)},
    {"temporal": TemporalConfig((-1, 0, 0, 0), evl=2)}, {"temporal": TemporalConfig(shift="patch", evl=2)},
    {"temporal": TemporalConfig(embedding=True, evl=2)}, {"temporal": TemporalConfig(local=True, evl=2)},
    {"temporal": TemporalConfig(global_blocks=1, evl=2)}, {"temporal": TemporalConfig(stem=True, evl=2), "frames": 4}])
def test_a_tower_that_does_not_stay_as_it_is_is_refused(change):
    with pytest.raises(ConfigError, match="temporal.evl = 2 reads an image tower that stays as it is"):
        replace(EVL, **change)


def test_impossible_layers_are_refused():
    with pytest.raises(ConfigError, match="TemporalConfig.evl = -1: allowed is 0 or more"):
        TemporalConfig(evl=-1)
    for change in ({"temporal": TemporalConfig(evl=5)}, {"upper": 1}):
        with pytest.raises(ConfigError, match="temporal.evl = .: allowed is up to the . blocks that are adapted"):
            replace(EVL, **change)


# ---- the papers' columns ----

@pytest.mark.parametrize(("frames", "grid", "width", "heads"), [(8, (14, 14), 768, 12), (1, (2, 3), 10, 2)])
def test_a_layers_multiply_adds_are_those_that_are_counted(frames, grid, width, heads):
    patches = grid[0] * grid[1]
    with torch.device("meta"):
        layer = EVLLayer(width, heads, frames, grid).eval()
        given = torch.empty(1, 1, width), torch.empty(frames, 1 + patches, width)
        q, k = (torch.empty(frames, heads, 1 + patches, width // heads) for _ in range(2))
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        layer(*given, frames, q, k)
    assert counter.get_total_flops() // 2 == evl_multiply_adds(frames, 1 + patches, patches, width)


def parameters(name):
    """Millions: what is new but for the head; the tables of the maps; all but CLIP's projection into the space of texts."""
    config = i2v.PRESETS[name]
    with torch.device("meta"):
        net = i2v.VideoClassifier(replace(config, tower=replace(config.tower, quick_gelu=True)))
    sizes = {k: p.numel() / 1e6 for k, p in net.named_parameters() if k != "backbone.proj"}
    new = sum(v for k, v in sizes.items() if ".temporal." in k)
    return new, sum(v for k, v in sizes.items() if k.endswith((".before", ".after"))), sum(sizes.values())


@pytest.mark.parametrize("name, tables, new, total", [
    ("b16-8f-k400", False, 29, 115),  # printed without the tables of the maps: with them 32.9 and 119.0
    ("l14-8f-k400", True, 58, 362), ("l14-32f-ssv2", True, 175, 479)])
def test_the_papers_parameters(name, tables, new, total):
    ours, maps, everything = parameters(f"evl-{name}")
    tower = i2v.PRESETS[f"evl-{name}"].tower
    assert maps == pytest.approx(i2v.PRESETS[f"evl-{name}"].temporal.evl * 2 * (2 * tower.grid - 1)**2 * tower.width / 1e6)
    left_out = 0 if tables else maps
    assert abs(ours - left_out - new) < 0.7 and abs(everything - left_out - total) < 0.51


@pytest.mark.parametrize("name, views, maps, extra, total", [
    ("b16-8f-k400", 3, True, 32, 454), ("l14-8f-k400", 3, True, 76, 2022),  # ZeroI2V's
    ("b16-16f-k400", 1, False, None, 296)])  # InTI's: without the maps; with them 303
def test_the_papers_gflops(name, views, maps, extra, total):
    config = i2v.PRESETS[f"evl-{name}"]
    tower, layers, T = config.tower, config.temporal.evl, config.frames
    left_out = 0 if maps else layers * 4 * (T - 1) * tower.grid**4 * tower.width
    ours, plain = multiply_adds(config) - left_out, multiply_adds(replace(config, temporal=TemporalConfig()))
    assert views * ours / 1e9 == pytest.approx(total, rel=0.002)
    if extra:
        assert views * (ours - plain) / 1e9 == pytest.approx(extra, rel=0.025)


def test_ssv2s_gflops_column_is_twice_what_the_decoder_costs():
    """ViT-L/14, 32 frames, 3 views: 1858 more than the tower are printed for the twelve layers that 175 M parameters are."""
    config = i2v.PRESETS["evl-l14-32f-ssv2"]
    extra = 3 * (multiply_adds(config) - multiply_adds(replace(config, temporal=TemporalConfig()))) / 1e9
    assert 1858 / extra == pytest.approx(2, abs=0.02)
