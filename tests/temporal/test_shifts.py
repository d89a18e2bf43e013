"""STDHA's rivals at no cost against loops over clips, frames, heads, tokens and channels, alone and inside a model."""

from dataclasses import replace

import pytest
import torch

import i2vlib as i2v
from i2vlib.insight.attention import attention_weights
from i2vlib.measure import count
from i2vlib.show.embedded import head_offsets
from i2vlib.show.views import offsets_view
from i2vlib.temporal.heads import relocate_heads
from i2vlib.temporal.shifts import (
    fold_width,
    patch_offsets,
    shift_channels,
    shift_class_token,
    shift_packed_channels,
    shift_packed_class_token,
    shift_patches,
)
from i2vlib.tower.backbone import Attention

B, T, N, H, D = 2, 4, 5, 2, 12  # heads of 6 channels
TOWER = i2v.TowerConfig(16, 4, 32, 2, 2, 2.0, 0, False)
HEADS = (-1, 1)
OPERATORS = {
    "class token": i2v.TemporalConfig(shift="class_token", folds=4),
    "class token kv": i2v.TemporalConfig(shift="class_token_kv", folds=4),
    "channels kv": i2v.TemporalConfig(shift="channel_kv", folds=5),
    "channels qkv": i2v.TemporalConfig(shift="channel_qkv", folds=4),
    "hr qkv": i2v.TemporalConfig(HEADS, queries=True),
    "patches": i2v.TemporalConfig(shift="patch"),
}


def channel_offset(channel, width, n, first=-1):
    """The frame that one channel out of `width` reads, by the definition."""
    fold = width // n
    return first if channel < fold else -first if channel < 2 * fold else 0


def patch_offset(token, grid):
    """The frame that a patch reads, from its row and column: a cell of 3x3, row by row, cut off at the edge of the grid."""
    if not 1 <= token <= grid * grid:
        return 0
    row, column = divmod(token - 1, grid)
    return [+4, -1, -2,
            +1, +0, -3,
            +2, +3, -4][row % 3 * 3 + column % 3]


def naive(x, frames, offset, circular=False):
    """x (B·T, N, C): y[b, t, token, c] = x[b, t + offset(token, c), token, c], one number at a time."""
    clips = x.unflatten(0, (-1, frames))
    rows = []
    for clip in clips:
        for t in range(frames):
            for token in range(x.shape[1]):
                for c in range(x.shape[2]):
                    o = offset(token, c)
                    rows.append(clip[(t + o) % frames if circular else t + o if 0 <= t + o < frames else t, token, c])
    return torch.stack(rows).view(x.shape)


def in_packed(width, heads, parts, of_head):
    """offset(token, c) in a packed projection: of_head(token, head, channel of the head) in `parts`, out of q, k, v."""
    def offset(token, c):
        part, c = divmod(c, width)
        head, c = divmod(c, width // heads)
        return of_head(token, head, c) if "qkv"[part] in parts else 0
    return offset


# (the library's function on (B·T, N, 3D) or (B·T, N, D), the offset of each number)
CASES = {
    "channels kv": (3 * D, lambda x: shift_packed_channels(x, T, H, 3),
                    in_packed(D, H, "kv", lambda token, head, c: channel_offset(c, D // H, 3))),
    "channels qkv": (3 * D, lambda x: shift_packed_channels(x, T, H, 4, queries=True),  # 6 // 4: one channel each way
                     in_packed(D, H, "qkv", lambda token, head, c: channel_offset(c, D // H, 4))),
    "class token kv": (3 * D, lambda x: shift_packed_class_token(x, T, 5),
                       in_packed(D, 1, "kv", lambda token, head, c: 0 if token else channel_offset(c, D, 5))),
    "class token": (D, lambda x: shift_class_token(x, T, 4), lambda token, c: 0 if token else channel_offset(c, D, 4, 1)),
    "channels": (D, lambda x: shift_channels(x.unflatten(0, (-1, T)), 12, (2, -2)).flatten(0, 1),
                 lambda token, c: channel_offset(c, D, 12, 2)),
    "hr qkv": (3 * D, lambda x: relocate_heads(x, T, (-2, 1), queries=True),
               in_packed(D, H, "qkv", lambda token, head, c: (-2, 1)[head])),
}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_shift_and_its_gradient_are_those_of_the_loop(name, traced, monkeypatch):
    width, shift, offset = CASES[name]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: traced)
    x = torch.randn(B * T, N, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    y, want = shift(1 * x), naive(x, T, offset)  # 1 * x: some work in place
    assert torch.equal(y, want) and not torch.equal(y, x)
    got, = torch.autograd.grad(y, x, weight)
    torch.testing.assert_close(got, torch.autograd.grad(want, x, weight)[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("grid, registers, frames", [(1, 0, 3), (2, 0, 1), (3, 0, 9), (4, 2, 4), (5, 1, 3), (8, 0, 2)])
def test_a_patch_shift_and_its_gradient_are_those_of_the_loop(grid, registers, frames):
    tokens = 1 + grid**2 + registers
    x = torch.randn(2 * frames, tokens, 2, dtype=torch.float64, requires_grad=True)
    weight, offsets = torch.randn_like(x), patch_offsets(grid, registers)
    y, want = shift_patches(x, frames, offsets), naive(x, frames, lambda token, c: patch_offset(token, grid), circular=True)
    assert torch.equal(y, want) and torch.equal(shift_patches(y, frames, offsets, back=True), x)
    got, = torch.autograd.grad(y, x, weight)
    torch.testing.assert_close(got, torch.autograd.grad(want, x, weight)[0], rtol=0, atol=0)


def test_a_patch_lands_where_it_must():
    x = torch.zeros(6, 10, 1)  # one clip of 6 frames of 3x3 patches
    x[2, 1 + 0] = 1  # upper left, of frame 2: frame 4 (6 - 2 = 4 away, round the end) reads it, 4 + 4 = 2 mod 6
    x[2, 1 + 5] = 2  # middle row, right column, offset -3: frame 5 reads it
    x[2, 0] = 3  # the class token
    y = shift_patches(x, 6, patch_offsets(3))
    assert y[4, 1] == 1 and y[5, 6] == 2 and y[2, 0] == 3 and y.count_nonzero() == 3
    with pytest.raises(ValueError, match="10 offsets for 9 tokens a frame: allowed is one a token"):
        shift_patches(x[:, :9], 6, patch_offsets(3))


def test_second_gradients():
    width, shift, _ = CASES["class token"]
    x = torch.randn(T, 2, width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: shift(1 * x), (x,))


def test_pure_functions_leave_their_input_alone_and_packed_ones_do_not_copy():
    x, packed = torch.randn(T, N, D), torch.randn(T, N, 3 * D)
    before = x.clone()
    shift_class_token(x, T, 4), shift_channels(x[None], 4)
    assert torch.equal(x, before)
    assert shift_packed_channels(packed, T, H, 3).data_ptr() == packed.data_ptr()


def test_what_cannot_move_is_refused():
    with pytest.raises(ValueError, match="n = 12 with 8 channels: a fold would have none .* allowed is 2 to 8"):
        fold_width(8, 12)
    with pytest.raises(ValueError, match="n = 1: allowed is 2 or more"):
        fold_width(8, 1)
    assert [fold_width(64, n) for n in (12, 8, 6, 2)] == [5, 8, 10, 32]
    for shift in (lambda x: shift_class_token(x, 4, 2), lambda x: shift_packed_channels(x, 4, 1, 2),
                  lambda x: shift_packed_class_token(x, 4, 2)):
        with pytest.raises(ValueError, match="7 frames do not make whole clips of 4"):
            shift(torch.zeros(7, 2, 12))


def config(temporal, **changes):
    adapters = i2v.AdaptationConfig("linear", i2v.SIX_ADAPTERS, dropout=0.0)
    return replace(i2v.ModelConfig(TOWER, temporal, adapters, T, 3), **changes)


def model(temporal, **changes):
    """Every parameter away from its start."""
    torch.manual_seed(0)
    net = i2v.build_model(config(temporal, **changes)).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def video(frames=T, clips=2):
    return torch.randn(clips, frames, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def naive_block(block, x, frames, temporal):
    """A block of adapters and an operator in plain sums: what moves is told number by number."""
    width, heads = x.shape[-1], block.attn.heads
    d, n = width // heads, temporal.folds

    def sublayer_input(x):
        if temporal.shift != "class_token":
            return x
        return naive(x, frames, lambda token, c: 0 if token else channel_offset(c, width, n, 1))

    moves = {"channel_kv": ("kv", lambda token, head, c: channel_offset(c, d, n)),
             "channel_qkv": ("qkv", lambda token, head, c: channel_offset(c, d, n)),
             "class_token_kv": ("kv", lambda token, head, c: 0 if token else channel_offset(head * d + c, width, n))}
    parts, of_head = moves.get(temporal.shift, ("qkv", lambda token, head, c: temporal.offsets[head] if temporal.offsets else 0))
    x = sublayer_input(x)
    normed, (wq, wk, wv) = block.ln_1(x), block.attn.in_proj_weight.chunk(3)
    if temporal.shift == "patch":
        normed = naive(normed, frames, lambda token, c: patch_offset(token, 4), circular=True)
    bq, bk, bv = block.attn.in_proj_bias.chunk(3)
    qkv = torch.cat([block.adapters[p](normed) @ w.T + b for p, w, b in zip("qkv", (wq, wk, wv), (bq, bk, bv), strict=True)], -1)
    q, k, v = naive(qkv, frames, in_packed(width, heads, parts, of_head)).chunk(3, -1)
    out = torch.cat([(q[..., s] @ k[..., s].mT / d**0.5).softmax(-1) @ v[..., s]
                     for s in (slice(i * d, (i + 1) * d) for i in range(heads))], -1)
    if temporal.shift == "patch":
        out = naive(out, frames, lambda token, c: -patch_offset(token, 4), circular=True)
    x = sublayer_input(x + block.adapters["attn_out"](block.attn.out_proj(out)))
    return x + block.adapters["mlp_out"](block.mlp(block.adapters["mlp_in"](block.ln_2(x))))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_block_is_that_of_the_loop_and_the_lower_ones_are_the_image_models(name):
    temporal = OPERATORS[name]
    net = model(temporal, upper=1)
    with torch.no_grad():
        lower, upper = net.backbone.transformer.resblocks
        x = net.backbone.embed(video(clips=1))
        assert not (lower.attn.queries or lower.attn.offsets or lower.attn.shift != "none")
        want = naive_block(upper, lower(x, 1), T, temporal)
        torch.testing.assert_close(net.backbone.tokens(video(clips=1))[0], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_costs_nothing_and_is_the_image_model_where_nothing_moves(name):
    net = model(OPERATORS[name])
    plain = i2v.build_model(config(i2v.TemporalConfig())).double().eval()
    plain.load_state_dict(net.state_dict())
    assert count(net, T, 16) == count(plain, T, 16)
    still = video(1).expand(-1, T, -1, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(net(still), plain(still), rtol=0, atol=1e-12)
        torch.testing.assert_close(net(video(1)), plain(video(1)), rtol=0, atol=1e-12)
        assert (net(video()) - net(video().flip(1))).abs().max() > 1e-6, "it tells time's direction"
        assert (plain(video()) - plain(video().flip(1))).abs().max() < 1e-12


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "patches"])
def test_what_a_frame_sees(name):
    """One changed frame reaches its neighbours in one block, the clip's edge not from the other end, another clip never."""
    net = model(OPERATORS[name], upper=1)
    with torch.no_grad():
        for changed in (0, 1, T - 1):
            other = video()
            other[0, changed] += 1
            moved = (net.backbone.tokens(other) - net.backbone.tokens(video())).abs().amax((2, 3)) > 1e-9
            near = [abs(t - changed) <= (2 if OPERATORS[name].shift == "class_token" else 1) for t in range(T)]  # it moves twice
            assert moved.tolist() == [near, [False] * T]


def test_patches_of_all_frames_meet_in_one_block_but_never_those_of_another_clip():
    net = model(OPERATORS["patches"], upper=1)
    with torch.no_grad():
        other = video()
        other[0, 0] += 1
        moved = (net.backbone.tokens(other) - net.backbone.tokens(video())).abs().amax((2, 3)) > 1e-9
    assert moved.tolist() == [[True] * T, [False] * T]


@pytest.mark.parametrize("name", OPERATORS)
def test_merged_saved_exported_and_refused_by_open_clip(name, tmp_path):
    net = model(OPERATORS[name]).float()
    x = video().float()
    merged = i2v.merge(net)
    with torch.no_grad():
        want = net(x)
        torch.testing.assert_close(merged(x), want, rtol=0, atol=1e-5)
        i2v.save_checkpoint(net, tmp_path / "m.safetensors")
        assert torch.equal(i2v.load_checkpoint(tmp_path / "m.safetensors")(x), want)
        graph = i2v.export_program(merged).module()
        for batch in (x, x[:1]):
            torch.testing.assert_close(graph(batch), merged(batch), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="relocated heads" if name == "hr qkv" else "the shift '[cp]"):
        i2v.open_clip_state(merged)
    with pytest.raises(ValueError, match="a shift or queries that move would be lost"):
        i2v.zeroi2v_state(net)


def test_onnx(tmp_path):
    """The others are slices and joins, as relocated heads are; patches are gathered."""
    assert i2v.export_onnx(model(OPERATORS["patches"], upper=1).float(), tmp_path / "m.onnx") <= 1e-5


@pytest.mark.parametrize("name", OPERATORS)
def test_attention_weights_are_those_of_the_forward_pass(name):
    net = model(OPERATORS[name])
    with attention_weights(net) as weights, torch.no_grad():
        x = net.backbone.embed(video())
        net(video())
        block = net.backbone.transformer.resblocks[0]
        x = block.ln_1(block.shift(x, T))
        _, _, v, _ = block.attn.read(x, T, block.adapters)
        out = (weights[0].flatten(0, 1).to(v) @ v).transpose(1, 2).flatten(2)
        if name == "patches":
            out = shift_patches(out, T, patch_offsets(4), back=True)
        torch.testing.assert_close(block.attn.out_proj(out), block.attn(x, T, block.adapters), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="whose heads read k and v of one frame each"):
        head_offsets(net)
    if name != "hr qkv":  # whose frames meet in heads alone
        with pytest.raises(ValueError, match="frames meet in relocated heads only"):
            offsets_view(net, video(clips=1)[0])


@pytest.mark.parametrize("make, message", [
    (lambda: i2v.TemporalConfig((1, 0), shift="channel_kv"), "shift = 'channel_kv': allowed is none with offsets"),
    (lambda: i2v.TemporalConfig(shift="channel"), "shift = 'channel': allowed is none, class_token"),
    (lambda: i2v.TemporalConfig(queries=True), "queries = True: allowed is false without an offset"),
    (lambda: i2v.TemporalConfig((0, 0), queries=True), "queries"),
    (lambda: i2v.TemporalConfig(folds=8), "folds = 8: allowed is 12, the default, with shift 'none'"),
    (lambda: i2v.TemporalConfig(shift="patch", folds=8), "folds = 8: allowed is 12, the default, with shift 'patch'"),
    (lambda: config(OPERATORS["patches"], compression=i2v.CompressionConfig("tome", remove=1)), "temporal.shift with"),
    (lambda: i2v.TemporalConfig(shift="class_token", folds=1), "folds = 1: allowed is 2 or more"),
    (lambda: config(i2v.TemporalConfig(shift="channel_kv", folds=17)), "folds = 17: .* 16 channels a head, .* 2 to 16"),
    (lambda: config(i2v.TemporalConfig(shift="class_token", folds=33)), "1/33 of 32 channels, less than one: allowed is 2 to 32"),
    (lambda: config(OPERATORS["hr qkv"], compression=i2v.CompressionConfig("tome", remove=1)), "temporal.queries with .*'tome'"),
    (lambda: config(OPERATORS["channels kv"], compression=i2v.CompressionConfig("sta", (1,), remove=1)), "temporal.shift with"),
])
def test_a_point_without_meaning_is_refused(make, message):
    with pytest.raises(i2v.ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", ["class token", "class token kv"])
def test_the_class_token_may_move_where_patches_merge(name):
    net = model(OPERATORS[name], compression=i2v.CompressionConfig("tome", remove=2))
    assert net(video()).shape == (2, 3)


def test_rows_of_the_table_move_a_sixth_of_the_channels():
    for data, share in (("b16-8f-ssv2", 12), ("mini-motion", 8)):
        stdha = i2v.PRESETS[f"stdha-{data}"]
        for name in ("class-token-shift", "class-token-kv-shift", "channel-shift-kv", "channel-shift-qkv"):
            row = i2v.PRESETS[f"{name}-{data}"]
            assert replace(row, temporal=stdha.temporal) == stdha and row.temporal.folds == share
        assert i2v.PRESETS[f"patch-shift-{data}"].temporal == replace(stdha.temporal, offsets=(), shift="patch")
        assert i2v.PRESETS[f"hr-qkv-{data}"].temporal == replace(stdha.temporal, queries=True)


def test_attention_alone_takes_the_operators():
    block, empty = Attention(16, 2, shift="channel_kv", folds=4), torch.nn.ModuleDict()
    x = torch.randn(4, 3, 16)
    assert not torch.equal(block(x, 4, empty), block(x, 1, empty)), "4 frames of one clip, 4 clips of one frame"
