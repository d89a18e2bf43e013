"""insight.attention: weights against a loop and the block's own output, rollout against the whole matrix, places by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import i2vlib as i2v
from i2vlib.compression.weights import interpolation_weights
from i2vlib.config import AdaptationConfig, CompressionConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.insight.attention import (
    attention_weights,
    frame_read,
    grid_side,
    on_place,
    on_place_read,
    query_maps,
    query_token,
    rollout,
)
from i2vlib.tower.attention import Attention

TOWER = TowerConfig(24, 8, 16, 3, 4, 4.0, 0, quick_gelu=True)  # 3 x 3 patches, 3 blocks, 4 heads
OFFSETS = (-1, 2, 0, -3)


def net(offsets=OFFSETS, frames=4, places=("qkv", "attn_out"), **more):
    torch.manual_seed(0)
    adaptation = AdaptationConfig("linear", places, dropout=0.3) if places else AdaptationConfig()
    model = i2v.build_model(ModelConfig(TOWER, TemporalConfig(offsets), adaptation, frames, 3, **more)).eval().double()
    for name, parameter in model.named_parameters():
        if "adapters" in name or "score" in name:
            torch.nn.init.normal_(parameter, std=0.3)  # away from the identity and from the mean
    return model


def video(clips=2, frames=4):
    return torch.randn(clips, frames, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def seen(model, clip):
    """Normalised inputs and outputs of every block's attention: (x, frames, adapters, merging's sizes, output)."""
    calls = []

    def hook(module, args, output):
        x, frames, adapters, merging, norm, *_ = args
        calls.append((norm(x), frames, adapters, None if merging is None else merging.size, output))
    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, Attention)]
    with torch.no_grad(), attention_weights(model) as weights:
        model(clip)
    for handle in handles:
        handle.remove()
    return weights, calls


def adapted(x, adapters, place):
    for name in ("qkv", place):
        x = adapters[name](x) if name in adapters else x
    return x


@pytest.mark.parametrize("more", [
    {}, {"places": ("q", "k", "v", "attn_out")}, {"places": ()}, {"offsets": ()},
    {"compression": CompressionConfig("inti", (1, 2))}, {"compression": CompressionConfig("tome", remove=2)},
    {"compression": CompressionConfig("sta", (1, 2), remove=2)},
], ids=["qkv", "q-k-v", "plain", "spatial", "inti", "tome", "sta"])
def test_weights_equal_the_loop_and_give_the_blocks_output(more):
    model = net(**more)
    weights, calls = seen(model, video())
    assert len(weights) == len(calls) == 3
    for block, w, (x, frames, adapters, size, output) in zip(model.backbone.transformer.resblocks, weights, calls, strict=True):
        heads, width = block.attn.heads, x.shape[-1] // block.attn.heads
        n = x.shape[1]
        assert w.shape == (2, frames, heads, n, n) and w.dtype == torch.float64 and not w.requires_grad
        assert (w.sum(-1) - 1).abs().max() < 1e-12
        q, k, v = (adapted(x, adapters, place) @ W.T + b for place, W, b in zip(
            "qkv", block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True))
        joined = torch.zeros_like(x)
        for clip in range(2):
            for t in range(frames):
                for i in range(heads):
                    m = clip * frames + frame_read(t, (block.attn.offsets or (0,) * heads)[i], frames)
                    part = slice(i * width, (i + 1) * width)
                    for query in range(n):
                        logits = (q[clip * frames + t, query, part] * k[m, :, part]).sum(-1) / width**0.5
                        each = logits.exp() * (1 if size is None else size[m])
                        loop = each / each.sum()
                        assert (w[clip, t, i, query] - loop).abs().max() < 1e-12
                    joined[clip * frames + t, :, part] = w[clip, t, i] @ v[m, :, part]
        assert (block.attn.out_proj(joined) - output).abs().max() < 1e-12


def test_in_single_precision_too():
    model = net().float()
    weights, calls = seen(model, video().float())
    x, frames, adapters, _, output = calls[1]
    block = model.backbone.transformer.resblocks[1].attn
    with torch.no_grad():
        _, _, v, _ = block.read(x, frames, adapters)
        again = block.out_proj((weights[1].flatten(0, 1) @ v).transpose(1, 2).flatten(2))
    assert weights[1].dtype == torch.float32 and (again - output).abs().max() < 1e-6


def test_reading_changes_nothing_and_leaves_no_hook():
    for more in ({}, {"compression": CompressionConfig("tome", remove=2)}):
        model, clip = net(**more), video()
        plain = model(clip)
        with attention_weights(model) as weights:
            assert torch.equal(model(clip), plain)
        assert not any(w.requires_grad for w in weights), "detached, also where gradients are on"
        with pytest.raises(RuntimeError, match="mine"), attention_weights(model):
            raise RuntimeError("mine")
        assert not [m for m in model.modules() if m._forward_hooks]


def test_autocast_rounds_no_weight():
    model = net().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), attention_weights(model) as weights:
        model(video().float())
    assert weights[0].dtype == torch.float32 and (weights[0].sum(-1) - 1).abs().max() < 1e-6


def test_each_pass_fills_the_list_anew_and_layers_selects():
    model = net()
    with torch.no_grad(), attention_weights(model, layers=(-1, 0)) as weights:
        assert weights == []
        model(video(3))
        model(video(1))
    assert [None if w is None else tuple(w.shape) for w in weights] == [(1, 4, 4, 10, 10), None, (1, 4, 4, 10, 10)]


def test_frames_and_tokens_shrink_behind_sites():
    shapes = {}
    for kind in ("mean", "tome"):
        model = net(compression=CompressionConfig(kind, (1, 2) if kind == "mean" else (), remove=0 if kind == "mean" else 2))
        with torch.no_grad(), attention_weights(model) as weights:
            model(video())
        shapes[kind] = [(w.shape[1], w.shape[-1]) for w in weights]
    assert shapes == {"mean": [(4, 10), (2, 10), (1, 10)], "tome": [(4, 10), (4, 8), (4, 6)]}


def test_the_frame_read_is_the_one_that_changes_the_weights():
    """Another frame 1 moves the first block's weights at exactly the (t, head) that read it, or ask from it."""
    model, one, other = net(), video(1), video(1)
    other[:, 1] += 1
    with torch.no_grad(), attention_weights(model, [0]) as weights:
        model(one)
        first = weights[0]
        model(other)
    changed = (weights[0] - first).abs().amax((0, 3, 4)) > 1e-9  # (T,h)
    expected = [[t == 1 or frame_read(t, o, 4) == 1 for o in OFFSETS] for t in range(4)]
    assert changed.tolist() == expected


def test_frame_read_by_hand():
    assert [frame_read(t, -1, 4) for t in range(4)] == [0, 0, 1, 2]
    assert [frame_read(t, 2, 4) for t in range(4)] == [2, 3, 2, 3]
    with pytest.raises(ValueError, match="t = 4: allowed is 0 to 3"):
        frame_read(4, 0, 4)


def whole_matrix(weights, offsets):
    """Rollout as Abnar and Zuidema write it, on all T·N tokens at once: the product of (W + I)/2, rows normalised."""
    clips, frames, heads, n, _ = weights[0].shape
    R = torch.eye(frames * n, dtype=torch.float64).expand(clips, -1, -1)
    for w in weights:
        M = torch.zeros(clips, frames, n, frames, n, dtype=torch.float64)
        for t in range(frames):
            for i in range(heads):
                M[:, t, :, frame_read(t, offsets[i], frames)] += w[:, t, i] / heads
        M = M.flatten(3).flatten(1, 2) + torch.eye(frames * n, dtype=torch.float64)
        R = M / M.sum(-1, keepdim=True) @ R
    return R.unflatten(1, (frames, n))[:, :, 0].mean(1).unflatten(-1, (frames, n))


@pytest.mark.parametrize("frames", [4, 8, 16, 32])
def test_rollout_equals_the_whole_matrix(frames):
    model = net(frames=frames)
    with torch.no_grad(), attention_weights(model) as weights:
        model(video(2, frames))
    share = rollout(weights, OFFSETS)
    assert share.shape == (2, frames, 10) and (share.sum((1, 2)) - 1).abs().max() < 1e-12
    assert (share - whole_matrix(weights, OFFSETS)).abs().max() < 1e-14
    assert torch.equal(share, rollout(weights, [OFFSETS] * 3)), "offsets for each block"
    assert (share - rollout(weights)).abs().max() > 1e-3, "a head's attention lands on the frame that it reads"
    other = rollout([w.flip(-1).roll(1, 1) for w in weights], OFFSETS)
    assert (share - other).abs().max() > 1e-3 and torch.allclose(share.sum(2), other.sum(2)), "totals: by the offsets alone"


def test_rollout_by_hand():
    """One block, one head that reads the frame before: half of a class token's share stays, half lands where it looks."""
    w = torch.zeros(1, 3, 1, 2, 2)
    w[..., 1] = 1  # every query looks at the patch
    assert torch.allclose(rollout([w], (-1,))[0] * 6, torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 0.0]]))


@pytest.mark.parametrize("after", [(1, 2), (2, 3)])
def test_rollout_through_sites_follows_their_weights(after):
    model = net(compression=CompressionConfig("inti", after))
    with torch.no_grad(), attention_weights(model) as weights, interpolation_weights(model) as maps:
        model(video())
    share = rollout(weights, OFFSETS, dict(zip(after, maps, strict=True)))
    assert share.shape == (2, 4, 10) and (share.sum((1, 2)) - 1).abs().max() < 1e-12
    even = rollout(weights, OFFSETS, {site: torch.ones_like(m) for site, m in zip(after, maps, strict=True)})
    assert (share - even).abs().max() > 1e-3 and (even.sum((1, 2)) - 1).abs().max() < 1e-12
    # the same with a matrix for each step: (rows: after it, columns: before it)
    R, tokens = torch.eye(40, dtype=torch.float64).expand(2, -1, -1), [(w.shape[1], 10) for w in weights]
    for i, w in enumerate(weights):
        frames = tokens[i][0]
        M = torch.zeros(2, frames, 10, frames, 10, dtype=torch.float64)
        for t in range(frames):
            for head, o in enumerate(OFFSETS):
                M[:, t, :, frame_read(t, o, frames)] += w[:, t, head] / 8
        R = (M.flatten(3).flatten(1, 2) + torch.eye(10 * frames) / 2) @ R
        if i + 1 in after:
            w = maps[after.index(i + 1)].double()
            M = torch.zeros(2, frames // 2, 10, frames, 10, dtype=torch.float64)
            for t in range(frames):
                for n in range(10):
                    M[:, t // 2, n, t, n] = w[:, t, n]
            R = M.flatten(3).flatten(1, 2) @ R
    final = R[:, ::10].mean(1).unflatten(-1, (4, 10))
    assert (share - final).abs().max() < 1e-7


def test_rollout_of_weights_that_do_not_sum_to_one_keeps_the_sum():
    w = torch.rand(1, 1, 2, 5, 5).softmax(-1)
    share = rollout([torch.rand(1, 2, 2, 5, 5).softmax(-1), w], (0, 1), {1: torch.full((1, 2, 5), 0.9)})
    assert torch.allclose(share.sum(), torch.ones(())) and share.shape == (1, 2, 5)


def test_numbers_of_any_library_are_taken():
    g = torch.Generator().manual_seed(5)
    w = [torch.rand(1, 4, 2, 5, 5, generator=g).softmax(-1) for _ in range(2)]
    one, each = rollout(w, (0, -1)), rollout(w, [(0, -1), (2, 0)])
    for offsets in (np.array([0, -1]), torch.tensor([0, -1]), [np.int64(0), np.int64(-1)], [torch.tensor(0), torch.tensor(-1)]):
        assert torch.equal(rollout(w, offsets), one)
    for offsets in (np.array([[0, -1], [2, 0]]), torch.tensor([[0, -1], [2, 0]]), [np.array([0, -1]), torch.tensor([2, 0])]):
        assert torch.equal(rollout(w, offsets), each)
    assert torch.equal(rollout(w, np.zeros(0, int)), rollout(w))
    assert torch.equal(rollout(w, [(), (2, 0)]), rollout(w, [(0, 0), (2, 0)]))
    maps, place = torch.rand(1, 4, 2, 3, 3, generator=g), torch.rand(1, 4, 3, 3, generator=g)
    by_hand = on_place_read(maps, place, (0, 1))
    assert all(torch.equal(on_place_read(maps, place, make([0, 1]))[:, :3], by_hand[:, :3]) for make in (np.array, torch.tensor))
    assert query_token(np.array([1, 2]), 3) == query_token(torch.tensor([1, 2]), 3) == query_token([np.int64(1), 2], 3) == 6


def test_query_maps_and_places_by_hand():
    weights = torch.arange(25.0).view(5, 5)
    assert torch.equal(query_maps(weights), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.equal(query_maps(weights, (1, 0)), torch.tensor([[16.0, 17.0], [18.0, 19.0]])), "patch (1,0) is token 3"
    assert query_maps(torch.rand(2, 3, 4, 10, 10), (2, 2)).shape == (2, 3, 4, 3, 3)
    assert [query_token(q, 3) for q in ("class", (0, 0), (1, 0), (2, 2))] == [0, 1, 4, 9] and grid_side(197) == 14
    maps = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[0.0, 0.0], [2.0, 0.0]]])
    corner = torch.tensor([[False, False], [False, True]])
    assert on_place(maps, corner).tolist() == [0.75, 0.0]
    assert on_place(maps, torch.stack([corner, ~corner])).tolist() == [0.75, 1.0], "a mask for each map"
    assert on_place(maps[0], corner * 0.5).item() == 0.375 and on_place(maps[0] * 0, corner).isnan()


def test_a_head_is_measured_on_the_place_in_the_frame_that_it_reads():
    maps = torch.rand(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    place = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(4)) < 0.5
    got = on_place_read(maps, place, (-1, 0, 2))
    for b in range(2):
        for t in range(4):
            for head, offset in enumerate((-1, 0, 2)):
                if 0 <= t + offset < 4:
                    inside = sum(maps[b, t, head, i, j].item() for i in range(3) for j in range(3) if place[b, t + offset, i, j])
                    assert got[b, t, head].item() == pytest.approx(inside / maps[b, t, head].sum().item(), abs=1e-6)
                else:
                    assert got[b, t, head].isnan(), "outside the clip the head reads its own frame"
    assert torch.equal(on_place_read(maps, place), on_place(maps, place[:, :, None])), "all spatial"
    for wrong in ((maps, place, (1,)), (maps, place[:1], ()), (maps, place[:, :2], ()), (maps[0], place[0], ()),
                  (maps[0, 0], place[0, 0], ()), (maps[:, 0, 0], place[:, 0], ()),
                  (torch.rand(4, 2, 3, 3), torch.rand(4, 2, 3), ())):
        with pytest.raises(ValueError, match="allowed are"):
            on_place_read(*wrong)
    with pytest.raises(ValueError, match="offsets = 1: allowed is a sequence of whole numbers"):
        on_place_read(maps, place, 1)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no block with"), attention_weights(torch.nn.Linear(2, 2)):
        pass
    with pytest.raises(ValueError, match="layers has 3: allowed is -3 to 2"), attention_weights(net(), [0, 3]):
        pass
    for layers, words in (([], "layers has no block"), (1, "layers = 1: allowed is a sequence"), ([0.5], "whole numbers")):
        with pytest.raises(ValueError, match=words), attention_weights(net(), layers):
            pass
    with pytest.raises(ValueError, match="drop out at random"), attention_weights(model := net().train()):
        model(video())
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with attention_weights(model) as weights:
        model(video())
    assert len(weights) == 3, "a dropout of 0 is allowed"
    with pytest.raises(ValueError, match="'class' or \\(row, column\\), each 0 to 2"):
        query_maps(torch.rand(10, 10), (3, 0))
    for query in ("patch", 5, (3.5, 4), (1, 1.0), (1, 2, 0), (1,), None, ("1", "2"), torch.tensor(1), (-1, 0)):
        with pytest.raises(ValueError, match="query .*: allowed is 'class' or"):
            query_token(query, 9)
    with pytest.raises(ValueError, match="8 tokens a frame"):
        query_maps(torch.rand(8, 8))
    with pytest.raises(ValueError, match="of one H and W"):
        on_place(torch.rand(2, 2), torch.ones(2, 3))
    w = torch.rand(1, 4, 2, 5, 5).softmax(-1)
    with pytest.raises(ValueError, match="all of them"):
        rollout([w, None], (0, 1))
    for wrong in ((0, 1, 2), 1, (0.5, 1), torch.tensor([0.0, 1.0]), [(0, 1)] * 2, [(0, 1, 2)], [(0, 1), 1], "ab", None):
        with pytest.raises(ValueError, match="one int for each of 2 heads"):
            rollout([w], wrong)
    with pytest.raises(ValueError, match="sites has 3: allowed is 1 to 2"):
        rollout([w, w], (0, 1), {3: torch.ones(1, 4, 5)})
    with pytest.raises(ValueError, match="every site that fuses"):
        rollout([w, w[:, :2]], (0, 1))
    with pytest.raises(ValueError, match=r"sites\[1\] \(1, 4, 3\): allowed is \(1, 4, 5\)"):
        rollout([w, w[:, :2]], (0, 1), {1: torch.ones(1, 4, 3)})


def test_a_model_with_changed_offsets_is_read_as_it_is():
    """Explorers set a block's offsets by hand: the weights follow, and no config is asked."""
    model = net(offsets=())
    changed = i2v.build_model(replace(model.config, temporal=TemporalConfig(OFFSETS))).eval().double()
    changed.load_state_dict(model.state_dict())
    for block in model.backbone.transformer.resblocks:
        block.attn.offsets = OFFSETS
    with torch.no_grad(), attention_weights(model) as by_hand, attention_weights(changed) as by_config:
        model(video())
        changed(video())
    assert all(torch.equal(a, b) for a, b in zip(by_hand, by_config, strict=True))
