"""InTI against a loop over clips, pairs, places and levels, written from the equations; its promises at the start; bad input."""

import itertools
import math

import pytest
import torch

from i2vlib.compression.inti import GlobalContext, InTI, WeightNetwork, count_parts, interpolate
from i2vlib.config import LEVELS, ConfigError

C, GRID = 6, (2, 3)
N = 1 + GRID[0] * GRID[1]
SUBSETS = [levels for n in range(1, 5) for levels in itertools.combinations(LEVELS, n)]


def module(frames=4, width=C, grid=GRID, seed=0, **options):
    """An InTI in float64 whose every parameter is random, so that nothing hides behind a zero."""
    torch.manual_seed(seed)
    inti = InTI(width, frames, grid, **options).double()
    with torch.no_grad():
        for parameter in inti.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return inti


def clip(clips=2, frames=4, tokens=N, width=C, seed=1):
    return torch.randn(clips * frames, tokens, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- the loop: one number at a time from the equations; only exp, erf and sqrt come from a library ----

def gelu(v):
    return [0.5 * a * (1 + math.erf(a / math.sqrt(2))) for a in v]


def linear(weight, bias, v):
    return [sum(w * a for w, a in zip(row, v, strict=True)) + b for row, b in zip(weight.tolist(), bias.tolist(), strict=True)]


def norm(v, weight=None, bias=None):
    mean = sum(v) / len(v)
    spread = math.sqrt(sum((a - mean) ** 2 for a in v) / len(v) + 1e-5)
    weight, bias = weight or [1] * len(v), bias or [0] * len(v)
    return [(a - mean) / spread * w + b for a, w, b in zip(v, weight, bias, strict=True)]


def pair_feature(f, a, b):  # eq. 9
    return gelu(linear(f.linear.weight, f.linear.bias, norm(a + b, f.norm.weight.tolist(), f.norm.bias.tolist())))


def neighbourhood(conv, x, t, i, grid):
    """c of eq. 10: 27 neighbours in time, height and width, channel by channel."""
    if i == 0:
        return [0.0] * len(x[0][0])
    rows, columns = grid
    r, s = divmod(i - 1, columns)
    out = conv.bias.tolist()
    for dt, dr, ds in itertools.product((-1, 0, 1), repeat=3):
        if 0 <= t + dt < len(x) and 0 <= r + dr < rows and 0 <= s + ds < columns:
            other = x[t + dt][1 + (r + dr) * columns + s + ds]
            out = [o + conv.weight[c, 0, dt + 1, dr + 1, ds + 1].item() * other[c] for c, o in enumerate(out)]
    return out


def global_context(level, frames):
    """Eq. 12 and appendix B on the class tokens of one clip."""
    def conv(layer, x):
        w, b = layer.weight[:, 0].tolist(), layer.bias.tolist()
        return [[b[c] + sum(w[c][k + 1] * x[t + k][c] for k in (-1, 0, 1) if 0 <= t + k < len(x))
                 for c in range(len(b))] for t in range(len(x))]

    x = frames
    for layer in level.convs[:2]:
        x = conv(layer, x)
        if len(x) > 1:
            x = [[max(a, b) for a, b in zip(x[2 * t], x[2 * t + 1], strict=True)] for t in range(len(x) // 2)]
        x = [gelu(v) for v in x]
    x = conv(level.convs[2], x)
    mean = [sum(v[c] for v in x) / len(x) for c in range(len(x[0]))]
    return linear(level.linear.weight, level.linear.bias, gelu(mean))


def add(*vectors):
    return [sum(column) for column in zip(*vectors, strict=True)]


def by_hand(inti, x, levels, fusion, head):
    """One clip x[t][i][c] -> weights[t][i], fused[t'][i][c]."""
    net, alpha, p = inti.predictor, inti.alpha.item(), inti.temporal_embedding.tolist()
    x = [[[v + alpha * p[t][c] for c, v in enumerate(token)] for token in frame] for t, frame in enumerate(x)]  # eq. 8
    weights, fused = [[0.0] * len(x[0]) for _ in x], []
    for first in range(0, len(x), 2):
        a, b, out = x[first], x[first + 1], []
        for i in range(len(a)):
            found = {}
            if "token" in levels:
                found["token"] = pair_feature(net.token, a[i], b[i])
            if "frame" in levels:
                found["frame"] = pair_feature(net.frame, a[0], b[0])
            if "global" in levels:
                found["global"] = global_context(net.clip, [frame[0] for frame in x])
            if "cube" in levels:
                around = [neighbourhood(net.cube_conv, x, first + k, i, net.grid) for k in (0, 1)]
                found["cube"] = pair_feature(net.cube, *around)
            token = [found.pop("token")] if "token" in found else []
            parts = {"sep": token + ([add(*found.values())] if found else []), "cat": token + list(found.values()),
                     "add": [add(*token, *found.values())]}[fusion]
            h = gelu(linear(net.hidden.weight, net.hidden.bias, sum(parts, [])))
            if head == "attention":
                vector = net.score.weight[0].tolist()
                logits = [sum(u * v * w for u, v, w in zip(norm(token), h, vector, strict=True)) for token in (a[i], b[i])]
            else:
                logits = linear(net.score.weight, net.score.bias, h)
            if head == "sigmoid":
                w = [1 / (1 + math.exp(-z)) for z in logits]
            else:
                w = [math.exp(z) / sum(map(math.exp, logits)) for z in logits]
            weights[first][i], weights[first + 1][i] = w
            out.append([w[0] * u + w[1] * v for u, v in zip(a[i], b[i], strict=True)])  # eq. 6-7
        fused.append(out)
    return weights, fused


def check_by_hand(levels=LEVELS, fusion="sep", head="softmax", frames=4):
    inti = module(frames, levels=levels, fusion=fusion, head=head)
    x = clip(frames=frames)
    with torch.no_grad():
        got, maps = inti(x, frames).unflatten(0, (2, -1)), inti.predictor(inti.place(x.unflatten(0, (2, -1))))
    for number, one in enumerate(x.unflatten(0, (2, -1)).tolist()):
        weights, fused = by_hand(inti, one, levels, fusion, head)
        torch.testing.assert_close(maps[number], torch.tensor(weights, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(got[number], torch.tensor(fused, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    return maps


@pytest.mark.parametrize("levels", SUBSETS, ids="-".join)
def test_every_choice_of_levels_against_the_loop(levels):
    check_by_hand(levels)


@pytest.mark.parametrize("fusion", ["sep", "add", "cat"])
@pytest.mark.parametrize("head", ["softmax", "sigmoid", "attention"])
@pytest.mark.parametrize("levels", [LEVELS, ("token",), ("frame", "global")], ids="-".join)
def test_every_fusion_and_head_against_the_loop(levels, fusion, head):
    maps = check_by_hand(levels, fusion, head)
    sums = maps.unflatten(1, (-1, 2)).sum(2)
    if head == "sigmoid":
        assert (sums - 1).abs().max() > 0.05, "two independent weights"
    else:
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-14)
        assert maps.min() >= 0


@pytest.mark.parametrize("frames", [2, 6, 10])
def test_other_numbers_of_frames_against_the_loop(frames):
    check_by_hand(frames=frames)


# ---- its promises ----

@pytest.mark.parametrize("head", ["softmax", "sigmoid", "attention"])
@pytest.mark.parametrize("levels", [LEVELS, ("token",), ("global",)], ids="-".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_fresh_module_is_exactly_the_mean_of_each_pair(head, levels, dtype):
    inti = InTI(C, 4, GRID, levels=levels, head=head).to(dtype)
    x = clip().to(dtype)
    a, b = x.unflatten(0, (-1, 2)).unbind(1)
    assert torch.equal(inti(x, 4), a / 2 + b / 2)


def test_a_hand_placed_token_lands_where_it_must():
    x, weights = torch.zeros(2, 4, 3, 5), torch.zeros(2, 4, 3)
    x[1, 3, 2, 4] = 8.0
    weights[1, 3, 2] = 0.25
    y = interpolate(x, weights)
    assert y[1, 1, 2, 4] == 2.0 and y.count_nonzero() == 1


def test_the_result_lies_between_the_two_tokens():
    inti, x = module(), clip()
    a, b = inti.place(x.unflatten(0, (-1, 4))).unflatten(1, (-1, 2)).unbind(2)
    y = inti(x, 4).unflatten(0, (-1, 2))
    assert ((y >= torch.minimum(a, b) - 1e-12) & (y <= torch.maximum(a, b) + 1e-12)).all()


def test_clips_do_not_see_each_other_and_weights_depend_on_the_input():
    inti, x = module(), clip()
    torch.testing.assert_close(inti(x, 4)[:2], inti(x[:4], 4), rtol=0, atol=1e-13)
    maps = inti.predictor(x.unflatten(0, (-1, 4)))
    assert (maps[0] - maps[1]).abs().max() > 0.01


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "attention"])
def test_gradients_by_finite_differences(head):
    inti, x = module(width=4, grid=(1, 2), head=head), clip(1, 4, 3, 4).requires_grad_()
    names = [name for name, _ in inti.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(inti, dict(zip(names, values, strict=True)), (x, 4))

    assert torch.autograd.gradcheck(run, (x, *inti.parameters()), eps=1e-6, atol=1e-6)


def test_every_parameter_moves_within_three_steps():
    """The last layer and α start at zero; the rest must get its gradient as soon as these have moved."""
    inti, x = InTI(C, 4, GRID).double(), clip()
    start = {k: v.clone() for k, v in inti.state_dict().items()}
    optimiser = torch.optim.Adam(inti.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        inti(x, 4)[:, 1:, 0].square().sum().backward()
        optimiser.step()
    assert not [k for k, v in inti.state_dict().items() if torch.equal(v, start[k])]


def test_in_half_precision_the_weights_still_sum_to_one():
    inti = module().bfloat16()
    maps = inti.predictor(inti.place(clip().bfloat16().unflatten(0, (-1, 4))))
    sums = maps.unflatten(1, (-1, 2)).sum(2)
    assert maps.dtype == torch.float32 and (sums - 1).abs().max() < 1e-6 and inti(clip().bfloat16(), 4).dtype == torch.bfloat16


def test_what_is_shared_is_computed_once():
    """The frame level once a pair and the global level once a clip, whatever the number of tokens."""
    inti, seen = module(), {}
    for name in ("frame", "clip"):
        layer = getattr(inti.predictor, name)
        layer.register_forward_hook(lambda m, i, out, name=name: seen.update({name: tuple(out.shape)}))
    inti(clip(), 4)
    assert seen == {"frame": (2, 2, 1, C), "clip": (2, C)}


def test_a_global_context_of_few_frames_pools_only_while_it_can():
    level = GlobalContext(C).double()
    for frames in (1, 2, 3, 5, 16):
        assert level(torch.randn(2, frames, C, dtype=torch.float64)).shape == (2, C)


def test_the_hidden_layers_width():
    assert [count_parts(LEVELS, fusion) for fusion in ("sep", "add", "cat")] == [2, 1, 4]
    assert [count_parts(levels, "sep") for levels in (("token",), ("cube", "frame"), ("token", "global"))] == [1, 1, 2]
    assert WeightNetwork(C, GRID, ("token",)).hidden.in_features == C


# ---- bad input ----

@pytest.mark.parametrize("frames", [0, 1, 3])
def test_an_odd_number_of_frames_is_refused(frames):
    with pytest.raises(ValueError, match=f"frames = {frames}: allowed is an even number"):
        InTI(C, frames, GRID)


def test_input_that_does_not_fit_is_refused():
    inti = module()
    with pytest.raises(ValueError, match="clips of 2 frames: this InTI has a temporal embedding for 4"):
        inti(clip(), 2)
    with pytest.raises(ValueError, match="8 frames in clips of 3"):
        inti(clip(), 3)
    for levels in (LEVELS, ("token",)):
        with pytest.raises(ValueError, match=r"5 tokens a frame: allowed is 1 \+ 2·3"):
            module(levels=levels)(clip(tokens=5), 4)
    for options, name in (({"head": "sofmax"}, "head"), ({"fusion": "sepp"}, "fusion"), ({"levels": ()}, "levels"),
                          ({"levels": ("tokn",)}, "levels")):
        with pytest.raises(ConfigError, match=f"CompressionConfig.{name}"):
            InTI(C, 4, GRID, **options)
    with pytest.raises(ValueError, match="weights"):
        interpolate(torch.zeros(1, 4, 3, 2), torch.zeros(1, 2, 2, 3))
    with pytest.raises(ValueError, match="even T"):
        interpolate(torch.zeros(1, 3, 3, 2), torch.zeros(1, 3, 3))
