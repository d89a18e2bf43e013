"""UniFormerV2's local and global modules against loops written from their equations."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import i2vlib as i2v
from i2vlib.measure import count, multiply_adds
from i2vlib.temporal.uniformerv2 import (
    GlobalBranch,
    GlobalModule,
    LocalModule,
    TemporalStem,
    global_multiply_adds,
    local_multiply_adds,
)

D, HEADS, GRID = 6, 2, (2, 3)
N = 1 + GRID[0] * GRID[1]


def randomised(module, seed=0):
    """float64 and eval, every parameter and running statistic away from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, dtype=torch.float64, generator=generator) * 0.5)
                if name.endswith("running_var"):
                    tensor.exp_()
    return module


def normal(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def counted(module, *inputs):
    """Multiply-adds by PyTorch's operator counter, on the meta device."""
    module = module.eval().to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(*(x.to("meta") if isinstance(x, torch.Tensor) else x for x in inputs))
    return counter.get_total_flops() // 2


def naive_local(m, x, frames):
    """One clip, frame and patch at a time; time outside the clip is zero behind the first layer, not in front of it."""
    y, bn = x.clone(), m.norm
    for b, n in product(range(len(x) // frames), range(1, x.shape[1])):
        hidden = []
        for t in range(frames):
            z = (x[b * frames + t, n] - bn.running_mean) / torch.sqrt(bn.running_var + bn.eps) * bn.weight + bn.bias
            hidden.append(m.down.weight @ z + m.down.bias)
        for t in range(frames):
            total = m.time.bias.clone()
            for step in (-1, 0, 1):
                if 0 <= t + step < frames:
                    total += m.time.weight[:, 0, step + 1, 0] * hidden[t + step]
            y[b * frames + t, n] += m.up.weight @ total + m.up.bias
    return y


def layer_norm(ln, x):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + ln.eps) * ln.weight + ln.bias


def naive_global(m, query, x, frames, grid):
    """One clip, token and head at a time."""
    width, d, (H, W) = x.shape[-1], x.shape[-1] // m.heads, grid
    x, out = x.clone(), []
    if m.position is not None:
        before = x.clone()
        for b, t, i, j in product(range(len(x) // frames), range(frames), range(H), range(W)):
            total = m.position.bias.clone()
            for dt, di, dj in product((-1, 0, 1), repeat=3):
                if 0 <= t + dt < frames and 0 <= i + di < H and 0 <= j + dj < W:
                    patch = before[b * frames + t + dt, 1 + (i + di) * W + j + dj]
                    total += m.position.weight[:, 0, dt + 1, di + 1, dj + 1] * patch
            x[b * frames + t, 1 + i * W + j] += total
    for b in range(len(x) // frames):
        project = [(m.in_proj_weight[s * width:(s + 1) * width], m.in_proj_bias[s * width:(s + 1) * width]) for s in range(3)]
        z = query[b, 0]
        q = project[0][0] @ layer_norm(m.ln_query, z) + project[0][1]
        tokens = [layer_norm(m.ln_tokens, x[b * frames + t, n]) for t in range(frames) for n in range(x.shape[1])]
        k, v = ([W_ @ token + b_ for token in tokens] for W_, b_ in project[1:])
        heads = []
        for h in range(m.heads):
            part = slice(h * d, (h + 1) * d)
            weights = [math.exp(float(q[part] @ key[part]) / math.sqrt(d)) for key in k]
            heads.append(sum(w * value[part] for w, value in zip(weights, v, strict=True)) / sum(weights))
        z = z + m.out_proj.weight @ torch.cat(heads) + m.out_proj.bias
        u = m.c_fc.weight @ layer_norm(m.ln_mlp, z) + m.c_fc.bias
        out.append(z + m.c_proj.weight @ (u / (1 + torch.exp(-1.702 * u))) + m.c_proj.bias)
    return torch.stack(out)[:, None]


@pytest.mark.parametrize("training", [False, True])
def test_both_start_as_the_identity(training):
    torch.manual_seed(0)
    x, query = torch.randn(2 * 4, N, D), torch.randn(2, 1, D)
    assert torch.equal(LocalModule(D).train(training)(x, 4), x)
    for position in (True, False):
        assert torch.equal(GlobalModule(D, HEADS, position).train(training)(query, x, 4, GRID), query)
    assert not any(p.any() for p in GlobalModule(D, HEADS).position.parameters()), "p alone adds nothing"


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_local_is_the_loop(frames):
    module, x = randomised(LocalModule(D)), normal(6, N, D)
    before = x.clone()
    with torch.no_grad():
        y = module(x, frames)
        torch.testing.assert_close(y, naive_local(module, x, frames), rtol=0, atol=1e-12)
    assert torch.equal(x, before) and torch.equal(y[:, 0], x[:, 0]) and (y[:, 1:] - x[:, 1:]).abs().min() > 0


def test_local_is_the_module_of_three_dimensional_layers():
    module, T = randomised(LocalModule(D)), 3
    h = len(module.time.weight)
    layers = torch.nn.Sequential(torch.nn.BatchNorm3d(D), torch.nn.Conv3d(D, h, 1),
                                 torch.nn.Conv3d(h, h, (3, 1, 1), padding=(1, 0, 0), groups=h), torch.nn.Conv3d(h, D, 1))
    assert parameters(layers) == parameters(module)
    state = module.state_dict()
    layers.double().load_state_dict({theirs: state[ours].view(shape.shape) for (theirs, shape), ours in
                            zip(layers.state_dict().items(), state, strict=True)})
    x = normal(2 * T, N, D)
    grid = x[:, 1:].view(2, T, *GRID, D).permute(0, 4, 1, 2, 3)
    for training in (True, False):  # in training over the clip's own statistics, which then stand in the running ones
        want = x[:, 1:] + layers.train(training)(grid).permute(0, 2, 3, 4, 1).reshape(2 * T, N - 1, D)
        torch.testing.assert_close(module.train(training)(x, T)[:, 1:], want, rtol=0, atol=1e-12)
    assert torch.allclose(module.norm.running_var, layers[0].running_var, rtol=0, atol=1e-12)


@pytest.mark.parametrize("position", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_global_is_the_loop(frames, position):
    module, x, query = randomised(GlobalModule(D, HEADS, position)), normal(6, N, D), normal(6 // frames, 1, D, seed=2)
    before = x.clone()
    with torch.no_grad():
        got = module(query, x, frames, GRID)
        torch.testing.assert_close(got, naive_global(module, query, x, frames, GRID), rtol=0, atol=1e-12)
    assert got.shape == query.shape and torch.equal(x, before)


def test_without_position_the_places_of_the_patches_are_not_read():
    x, query = normal(2 * 3, N, D), normal(2, 1, D, seed=2)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    module = randomised(GlobalModule(D, HEADS, position=False))
    torch.testing.assert_close(module(query, x[:, order], 3), module(query, x, 3), rtol=0, atol=1e-12)
    module(query, x[:, :4], 3)  # any number of tokens
    module = randomised(GlobalModule(D, HEADS))
    mirrored = torch.tensor([0, 3, 2, 1, 6, 5, 4])
    assert (module(query, x[:, mirrored], 3, GRID) - module(query, x, 3, GRID)).abs().max() > 1e-3


def test_frames_may_become_fewer_on_the_way():
    local, branch = randomised(LocalModule(D)), randomised(GlobalBranch(D, HEADS, 3))
    query, x = branch.start(2), normal(2 * 4, N, D)
    assert query.shape == (2, 1, D)
    for i, frames in enumerate((4, 2, 1)):
        x = local(x[: 2 * frames], frames)
        want = branch.blocks[i](query, x, frames, GRID)
        query = branch.read(i, query, x, frames, GRID)
        assert torch.equal(query, want)


def test_blend():
    branch, query, tokens = GlobalBranch(D, HEADS, 1).double(), normal(2, 1, D), normal(2, 3, D, seed=2)
    assert not branch.start(2).any()
    torch.testing.assert_close(branch.blend(branch.start(2), tokens), tokens.mean(1) / 2, rtol=0, atol=1e-15)
    branch = randomised(branch)
    s = 1 / (1 + torch.exp(-branch.balance))
    want = (1 - s) * query[:, 0] + s * (tokens[:, 0] + tokens[:, 1] + tokens[:, 2]) / 3
    torch.testing.assert_close(branch.blend(query, tokens), want, rtol=0, atol=1e-12)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    local, branch = LocalModule(D).double(), GlobalBranch(D, HEADS, 2).double()
    with torch.no_grad():
        for p in (*local.parameters(), *branch.parameters()):
            p += 0.3 * torch.randn_like(p)
    x = normal(2 * 3, N, D).requires_grad_()
    y, query = local(x, 3), branch.start(2)
    for i in range(2):
        query = branch.read(i, query, y, 3, GRID)
    branch.blend(query, y[:, 0].unflatten(0, (2, 3))).square().sum().backward()
    for name, p in (*local.named_parameters(), *branch.named_parameters(), ("x", x)):
        # one entry is exempt by mathematics: the keys' bias adds the same to all logits of a head and the softmax drops it
        grad = torch.cat([p.grad[:D], p.grad[2 * D:]]) if name.endswith("in_proj_bias") else p.grad
        assert grad is not None and grad.abs().min() > 0, name


def test_gradients_by_finite_differences():
    local, module = randomised(LocalModule(2)), randomised(GlobalModule(2, 1))
    x, query = normal(4, 3, 2).requires_grad_(), normal(2, 1, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: local(x, 2), (x,))
    assert torch.autograd.gradcheck(lambda q, x: module(q, x, 2, (1, 2)), (query, x))


@pytest.mark.parametrize(("frames", "grid", "width", "heads"),
                         [(8, (14, 14), 768, 12), (4, (16, 16), 1024, 16), (1, (2, 3), 10, 2)])
def test_multiply_adds_are_those_that_are_counted(frames, grid, width, heads):
    patches = grid[0] * grid[1]
    x, query = torch.empty(frames, 1 + patches, width), torch.empty(1, 1, width)
    with torch.device("meta"):
        local, globals_ = LocalModule(width), {p: GlobalModule(width, heads, p) for p in (True, False)}
    assert counted(local, x, frames) == local_multiply_adds(frames, patches, width)
    for position, module in globals_.items():
        assert counted(module, query, x, frames, grid) == global_multiply_adds(frames, 1 + patches, width, position)


def test_parameters_are_those_of_uniformerv2_b():
    width, tower = 768, 85_799_424  # ViT-B/16's image tower without `proj`
    block = 12 * width**2 + 13 * width
    assert tower == 3 * 16**2 * width + width + 197 * width + 4 * width + 12 * block
    with torch.device("meta"):
        one, local = parameters(GlobalModule(width, 12)), parameters(LocalModule(width))
        four, eight = (parameters(GlobalBranch(width, 12, count)) for count in (4, 8))
        assert parameters(GlobalModule(width, 12, position=False)) == one - 28 * width
    assert local == 2 * width + 2 * 512 * width + 512 + width + 4 * 512
    assert one == 12 * width**2 + (3 + 1 + 4 + 1 + 6 + 28) * width
    assert four == 4 * one + 2 * width and eight == 8 * one + 2 * width
    assert round((tower + four + width * 400 + 400) / 1e6, 1) == 114.6  # Kinetics-400: no local module
    assert round((tower + eight + 24 * local + width * 174 + 174) / 1e6) == 162  # Something-Something v2: two a block


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
def test_the_stem_and_the_image_towers_patches_are_one_convolution_over_three_frames(frames):
    stem, image = randomised(TemporalStem(D, 4)), normal(D, 3, 4, 4, seed=3)
    video = normal(2, frames, 3, 8, 12)
    kernel = torch.stack([stem.weight[:, :3], image, stem.weight[:, 3:]], dim=2)  # (D, 3, before | own | after, 4, 4)
    want = F.conv3d(video.transpose(1, 2), kernel, stride=(2, 4, 4), padding=(1, 0, 0))  # (B, D, T', 2, 3)
    got = F.conv2d(video[:, ::2].flatten(0, 1), image, stride=4) + stem(video)
    torch.testing.assert_close(got, want.transpose(1, 2).flatten(0, 1), rtol=0, atol=1e-12)


TOWER = i2v.TowerConfig(16, 8, 24, 2, 4, 2.0, 10, quick_gelu=True)
STEM = i2v.ModelConfig(TOWER, i2v.TemporalConfig(stem=True), i2v.AdaptationConfig("full"), 8, 5)


def stemmed(config=STEM, stirred=True):
    torch.manual_seed(0)
    net = i2v.build_model(config).double().eval()
    if stirred:
        with torch.no_grad():
            net.backbone.temporal_stem.weight.normal_()
    return net


def test_a_fresh_stem_is_the_image_tower_on_every_second_frame():
    net, video = stemmed(stirred=False), normal(2, 8, 3, 16, 16)
    plain = i2v.VideoClassifier(replace(STEM, temporal=i2v.TemporalConfig(), frames=4)).double().eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "temporal_stem" not in k})
    torch.testing.assert_close(net.backbone.tokens(video), plain.backbone.tokens(video[:, ::2]), rtol=0, atol=1e-12)
    assert set(net.backbone.image_state()) == set(plain.backbone.image_state())
    with torch.no_grad():
        net.backbone.temporal_stem.weight.normal_()
    assert not torch.allclose(net(video), plain(video[:, ::2])), "the negative control"
    image = plain.backbone.embed_images(video[:, 0])
    torch.testing.assert_close(net.backbone.embed_images(video[:, 0]), image, rtol=0, atol=1e-12)


@pytest.mark.parametrize("more", [
    {}, {"temporal": i2v.TemporalConfig((-1, 1, 3, 0), embedding=True, stem=True)}, {"tower": replace(TOWER, registers=2)},
    {"compression": i2v.CompressionConfig("inti", (1, 2))}, {"compression": i2v.CompressionConfig("tome", remove=1)},
    {"temporal": i2v.TemporalConfig(local=True, global_blocks=1, stem=True)},
    {"adaptation": i2v.AdaptationConfig("linear", i2v.FOUR_ADAPTERS)}, {"adaptation": i2v.AdaptationConfig()}])
def test_behind_the_stem_half_of_the_frames_are_left(more, tmp_path):
    net = stemmed(replace(STEM, **more)).float()
    video, left = torch.randn(2, 8, 3, 16, 16), 1 if "compression" in more and "inti" in more["compression"].kind else 4
    assert net.frame_features(video).shape == (2, left, 24) and net(video).shape == (2, 5)
    assert count(net, 8, 16).multiply_adds == multiply_adds(net.config)
    assert net.backbone.temporal_stem.weight.requires_grad
    i2v.save_checkpoint(net, tmp_path / "m.safetensors")
    again = i2v.load_checkpoint(tmp_path / "m.safetensors").eval()
    assert again.config == net.config and torch.equal(again(video), net(video))
    if net.config.adaptation.kind == "linear":
        torch.testing.assert_close(i2v.merge(net)(video), net(video), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="UniFormerV2's modules"):
        i2v.open_clip_state(i2v.merge(net))


@pytest.mark.parametrize("change, says", [
    ({"frames": 7}, "temporal.stem with frames = 7"), ({"upper": 1}, "temporal.stem with .* upper = 1"),
    ({"compression": i2v.CompressionConfig("mean", (1, 2)), "frames": 4}, "frames a multiple of 8"),
    ({"temporal": i2v.TemporalConfig((-4, 0, 0, 0), stem=True)}, "with 4 frames allowed is -3 to 3")])
def test_what_does_not_go_with_the_stem_is_refused(change, says):
    with pytest.raises(i2v.ConfigError, match=says):
        replace(STEM, **change)


@pytest.mark.parametrize("name, millions, printed, gflops", [
    ("uniformerv2", 162.99, 163, 371), ("inti+", 173.72, 174, 234), ("linearpool+", 162.99, 163, 221)])
def test_intis_columns_on_ssv2(name, millions, printed, gflops):
    """ViT-B/16, 8 global modules, 24 local ones, the stem: 1.18 M of its parameters are what 162 lack.

    16 frames in the tower, so 32 are read: of 16 read ones 8 would be left, and half of the multiply-adds.
    """
    plus = i2v.PRESETS["uniformerv2-b16-16f-ssv2"]
    linear = replace(plus, compression=i2v.CompressionConfig("linear", (5, 7)))
    config = linear if name == "linearpool+" else i2v.PRESETS[f"{name}-b16-16f-ssv2"]
    assert (config.frames, config.frames_at(0)) == (32, 16)
    with torch.device("meta"):
        net = i2v.VideoClassifier(replace(config, tower=replace(config.tower, quick_gelu=True)))
    ours = sum(p.numel() for k, p in net.named_parameters() if k != "backbone.proj") / 1e6
    assert ours == pytest.approx(millions, abs=0.005) and round(ours) == printed
    assert multiply_adds(config, everywhere=True) / 1e9 / gflops == pytest.approx(1, abs=0.01)
    if name == "uniformerv2":
        assert multiply_adds(replace(config, frames=16)) / 1e9 / gflops == pytest.approx(0.5, abs=0.01)


def test_impossible_calls_say_what_is_allowed():
    local, module, branch = LocalModule(D), GlobalModule(D, HEADS), GlobalBranch(D, HEADS, 1)
    x, query = torch.zeros(6, N, D), torch.zeros(2, 1, D)
    for frames in (4, 0):
        with pytest.raises(ValueError, match=f"6 frames do not make whole clips of {frames} frames"):
            local(x, frames)
        with pytest.raises(ValueError, match=f"6 frames do not make whole clips of {frames} frames"):
            module(query, x, frames, GRID)
    with pytest.raises(ValueError, match=r"x \(6, 6\): allowed is \(B·T, N, D\)"):
        local(x[:, 0], 3)
    for grid in ((2, 4), None):
        with pytest.raises(ValueError, match=r"for 7 tokens a frame, .* H·W = 6"):
            module(query, x, 3, grid)
    with pytest.raises(ValueError, match=r"query \(2, 1, 6\) for 3 clip\(s\) of width 6: allowed is \(3, 1, 6\)"):
        module(query, x, 2, GRID)
    with pytest.raises(ValueError, match=r"allowed is \(B, 1, D\) with \(B, T, D\)"):
        branch.blend(query, x)
    with pytest.raises(ValueError, match="width 6 with 4 heads"):
        GlobalModule(D, 4)


def test_dropout_behind_the_activation_of_the_global_mlp():
    torch.manual_seed(0)
    module = GlobalModule(8, 2, dropout=0.5).double()
    for p in module.parameters():
        torch.nn.init.normal_(p)
    query, x = torch.randn(4, 1, 8).double(), torch.randn(8, 5, 8).double()
    plain = GlobalModule(8, 2).double()
    plain.load_state_dict(module.state_dict())
    assert torch.equal(module.eval()(query, x, 2, (2, 2)), plain.eval()(query, x, 2, (2, 2)))
    seen = []
    module.c_proj.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    module.train()(query, x, 2, (2, 2))
    assert 0.2 < (seen[0] == 0).double().mean() < 0.8
