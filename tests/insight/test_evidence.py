"""i2vlib.insight.evidence: Grad-CAM against one written by hand, occlusion against a loop, on models whose answer is known."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import i2vlib as i2v
from i2vlib.config import CompressionConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.insight.evidence import clip_gradcam, occlude_frames, occlude_patches

PLAIN = i2v.PRESETS["full-mini-appearance"]
MODELS = {"plain": PLAIN, "frozen": i2v.PRESETS["probe-mini-appearance"], "adapters and heads": i2v.PRESETS["zeroi2v-mini-blink"],
          "one site": replace(PLAIN, compression=CompressionConfig("inti", (2,))),
          "two sites": i2v.PRESETS["inti-mini-corrupted"]}


def model(config, seed=0):
    """On the shipped tower, with what starts as the identity moved away from it, in float64."""
    torch.manual_seed(seed)
    net = i2v.build_model(config, "mini")
    with torch.no_grad():
        for name, p in net.named_parameters():
            if any(part in name for part in ("adapters", "temporal", "compression")):
                p.add_(0.2 * torch.randn_like(p))
    return net.double().eval()


def clip(frames, seed=1, size=48):
    g = torch.Generator().manual_seed(seed)
    still = torch.randn(1, 1, 3, size, size, generator=g, dtype=torch.float64)
    return still + 0.7 * torch.randn(1, frames, 3, size, size, generator=g, dtype=torch.float64)


def by_hand(net, video, target, layer, where="ln_1"):
    """The equation, one frame and patch at a time; the map before any scaling, and what each frame's own α would give."""
    block, kept = net.backbone.transformer.resblocks[layer], []
    place = block if where == "block" else getattr(block, where)
    hook = place.register_forward_hook(lambda module, inputs, output: kept.append(output))
    video = video.clone().requires_grad_()
    logit = net(video)[0, target]
    hook.remove()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    A, G = kept[0].detach()[:, 1:], gradient[:, 1:]
    T, P, D = A.shape
    side = round(P**0.5)
    alpha = [G[:, :, c].mean().item() for c in range(D)]
    own = [[G[t, :, c].mean().item() for c in range(D)] for t in range(T)]
    together, apart = torch.zeros(T, side, side, dtype=A.dtype), torch.zeros(T, side, side, dtype=A.dtype)
    for t in range(T):
        for i in range(side):
            for j in range(side):
                together[t, i, j] = sum(alpha[c] * a for c, a in enumerate(A[t, i * side + j].tolist()))
                apart[t, i, j] = sum(own[t][c] * a for c, a in enumerate(A[t, i * side + j].tolist()))
    return together.clamp(min=0), apart.clamp(min=0)


def scaled(x):
    return (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_it_equals_grad_cam_by_hand(name):
    config = MODELS[name]
    net, video = model(config), clip(config.frames)
    for target, layer in ((3, -1), (0, 1)):
        want, apart = by_hand(net, video, target, layer)
        found = clip_gradcam(net, video, target, layer)
        assert found.shape == want.shape == (config.frames_at(layer % 4), 8, 8) and found.dtype == torch.float32
        torch.testing.assert_close(found.double(), scaled(want), rtol=0, atol=1e-5)
        assert torch.corrcoef(torch.stack([found.double().flatten(), want.flatten()]))[0, 1] > 1 - 1e-9
        if len(want) > 1:
            assert (found - torch.stack([scaled(x) for x in apart])).abs().max() > 0.05, "not frame by frame"


def test_one_scale_for_the_clip_and_any_class():
    net, video = model(PLAIN), clip(4)
    maps = [clip_gradcam(net, video, target) for target in range(6)]
    for cam in maps:
        highest = cam.amax((1, 2))
        assert cam.min() == 0 and highest.max() == pytest.approx(1, abs=1e-6)
        assert (highest < 0.999).sum() == 3, "one frame alone reaches 1"
    assert all((a - b).abs().max() > 0.1 for a, b in zip(maps, maps[1:], strict=False))
    predicted = int(net(video).argmax())
    assert torch.equal(clip_gradcam(net, video), clip_gradcam(net, video, predicted))


@pytest.mark.parametrize("where", ["block", "ln_2", "attn", "mlp"])
def test_where_only_class_tokens_are_read_it_refuses(where):
    net, video = model(PLAIN), clip(4)
    with pytest.raises(ValueError, match="patches have no gradient at .*block 4 of 4: .* where='ln_1'"):
        clip_gradcam(net, video, 0, where=where)
    assert clip_gradcam(net, video, 0, layer=-2, where=where).max() > 0.99, "one block earlier they still matter"


def test_a_global_branch_reads_patches_to_the_end():
    net = model(replace(PLAIN, temporal=TemporalConfig(global_blocks=1)))
    want = by_hand(net, clip(4), 2, -1, "block")[0]
    torch.testing.assert_close(clip_gradcam(net, clip(4), 2, where="block").double(), scaled(want), rtol=0, atol=1e-5)


def snapshot(net):
    return ([m.training for m in net.modules()], [p.requires_grad for p in net.parameters()],
            [p.grad for p in net.parameters()], [len(m._forward_hooks) + len(m._backward_hooks) for m in net.modules()],
            {k: v.clone() for k, v in net.state_dict().items()})


@pytest.mark.parametrize("name", ["plain", "frozen", "adapters and heads"])
def test_the_model_is_left_as_it_was(name):
    """In training mode with one part in eval mode, gradients of a backward pass on it, inside no_grad; after an error too."""
    net, video = model(MODELS[name]), clip(MODELS[name].frames)
    net.train().backbone.conv1.eval()
    net(video).sum().backward()
    before = snapshot(net)
    with torch.no_grad():
        clip_gradcam(net, video, 0)
        occlude_frames(net, video)
    with pytest.raises(ValueError, match="no gradient") as refused:  # kept: its traceback holds what the call made alive
        clip_gradcam(net, video, 0, where="block")
    after = snapshot(net)
    assert refused.tb is not None
    assert before[:2] == after[:2] and before[3] == after[3] and not any(after[3])
    assert all(a is b for a, b in zip(before[2], after[2], strict=True)), "gradients that an optimiser waits for"
    assert any(g is not None for g in after[2]) and all(torch.equal(v, after[4][k]) for k, v in before[4].items())
    assert video.grad is None and not video.requires_grad


def test_dropout_is_off_while_it_looks():
    net, video = model(replace(PLAIN, head_dropout=0.5)), clip(4)
    for explain in (clip_gradcam, occlude_frames):
        assert torch.equal(explain(net.eval(), video, 3), explain(net.train(), video, 3))


def test_it_works_in_inference_mode_and_in_bfloat16():
    net, video = model(PLAIN), clip(4)
    want = clip_gradcam(net, video, 5)
    with torch.inference_mode():
        assert torch.equal(clip_gradcam(net, video + 0, 5), want)
    rounded = clip_gradcam(net.bfloat16(), video, 5)
    assert rounded.dtype == torch.float32 and torch.corrcoef(torch.stack([rounded.flatten(), want.flatten()]))[0, 1] > 0.95
    assert occlude_frames(net, video, 5).dtype == torch.float32, "differences of logits, not rounded again"


def one_place_model(frames=5):
    """A real tower made by hand: channel 0 of a patch is its red, positions are blank, the last attention averages each frame."""
    config = ModelConfig(TowerConfig(12, 3, 8, 2, 2, 1.0, 0), frames=frames, classes=2)
    net = i2v.build_model(config).double().eval()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        net.backbone.conv1.weight[0, 0] = 1.0
        attention = net.backbone.transformer.resblocks[-1].attn
        attention.in_proj_weight[16:] = attention.out_proj.weight[:] = torch.eye(8)  # values; queries and keys stay 0
        net.head.weight[1, 0], net.head.weight[0, 0] = 1.0, -1.0
    return net


def test_one_frame_and_one_place_can_matter():
    """Red in one patch of one frame, and nothing else: all three must point there, with the sign of the class."""
    net, video = one_place_model(), torch.zeros(1, 5, 3, 12, 12, dtype=torch.float64)
    video[0, 3, 0, 3:6, 6:9] = 1.0  # frame 3, row 1, column 2
    place = torch.zeros(5, 4, 4)
    place[3, 1, 2] = 1
    for layer, where in ((-1, "ln_1"), (0, "block")):
        torch.testing.assert_close(clip_gradcam(net, video, 1, layer, where), place, rtol=0, atol=1e-6)
        assert clip_gradcam(net, video, 0, layer, where).count_nonzero() == 0, "against class 0: relu leaves nothing"
    for by in ("previous", "grey", "mean"):
        drops = occlude_frames(net, video, 1, by)
        alone = torch.arange(5) == 3
        if by != "previous":
            assert drops[3] > 0.1 and (by == "mean" or drops[~alone].abs().max() < 1e-12)
        else:  # frame 3 takes frame 2, frame 4 takes frame 3 and doubles the evidence
            assert drops[3] > 0.1 and drops[4] < -0.1 and drops[:3].abs().max() < 1e-12
        assert torch.equal(occlude_frames(net, video, 0, by), -drops)
    drops = occlude_patches(net, video, 1)
    assert drops.argmax() == place.argmax() and drops.flatten().topk(2).values[1] < 0.1 * drops.max()


class Weighted(nn.Module):
    """Known logits, out of one place of one frame: y_0 = 0, y_1 = Σ of the pixels in frame 2, rows 4-7, columns 8-11."""

    def __init__(self):
        super().__init__()
        self.config = ModelConfig(TowerConfig(12, 4, 8, 1, 1), frames=4, classes=2)
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.batches = []

    def forward(self, video):
        self.batches.append(len(video))
        y = self.weight * video[:, 2, :, 4:8, 8:12].sum((1, 2, 3))
        return torch.stack([torch.zeros_like(y), y], 1)


def test_occlusion_by_hand():
    net, video = Weighted(), clip(4, size=12)
    seen = video[0, :, :, 4:8, 8:12].sum((1, 2, 3))  # (T,)
    want = {"previous": seen[2] - seen[1], "grey": seen[2], "mean": seen[2] - (seen.sum() - seen[2]) / 3}
    for by, drop in want.items():
        torch.testing.assert_close(occlude_frames(net, video, 1, by), torch.tensor([0, 0, drop, 0]).double(), atol=1e-9, rtol=0)
    net.batches.clear()
    drops = occlude_patches(net, video, 1, chunk=7)
    assert net.batches == [1, 7, 7, 7, 7, 7, 1], "36 variants behind the clip itself"
    colour = video.mean((0, 1, 3, 4)).sum() * 16
    assert drops.shape == (4, 3, 3) and drops[2, 1, 2] == pytest.approx(float(seen[2] - colour))
    assert drops.flatten().abs().gt(1e-9).nonzero().tolist() == [[2 * 9 + 1 * 3 + 2]]
    assert occlude_frames(net, -10 * video.abs(), by="grey").abs().max() == 0, "class 0 is predicted, and constant"


def test_the_first_frame_takes_the_second():
    net, video = model(PLAIN), clip(4)
    other = video.clone()
    other[0, 0] = video[0, 1]
    with torch.no_grad():
        want = (net(video) - net(other))[0, 7]
    torch.testing.assert_close(occlude_frames(net, video, 7)[0], want)
    still = video[:, :1].expand(-1, 4, -1, -1, -1)
    assert occlude_frames(net, still, 7).abs().max() < 1e-12, "nothing is new in any frame"


def test_occlusion_equals_the_loop_in_any_chunk():
    net, video = model(i2v.PRESETS["zeroi2v-mini-motion"]), clip(4)
    colour = video.mean((0, 1, 3, 4))[:, None, None]
    found = occlude_patches(net, video, 2, side=2, score="log_probability", chunk=25)
    with torch.no_grad():
        for t, row, column in ((0, 0, 0), (1, 3, 0), (2, 0, 2), (3, 3, 3)):
            painted = video.clone()
            painted[0, t, :, 12 * row:12 * row + 12, 12 * column:12 * column + 12] = colour
            want = net(video).log_softmax(1)[0, 2] - net(painted).log_softmax(1)[0, 2]
            assert want.abs() > 1e-6
            torch.testing.assert_close(found[t, 2 * row:2 * row + 2, 2 * column:2 * column + 2], want.expand(2, 2))
    torch.testing.assert_close(occlude_frames(net, video, 2, chunk=3), occlude_frames(net, video, 2, chunk=8))


def test_larger_squares_are_shared_by_their_patches_and_cut_at_the_edge():
    net, video = Weighted(), clip(4, size=12)
    drops = occlude_patches(net, video, 1, side=2)  # on 3x3 patches: squares of 2x2, 2x1, 1x2, 1x1
    at = drops[2, :2, 2]
    assert drops.shape == (4, 3, 3) and at[0] == at[1] != 0 and drops.count_nonzero() == 2
    assert occlude_patches(net, video, 1, side=3)[2].unique().numel() == 1


def test_bad_input_is_refused():
    net, video = model(PLAIN), clip(4)
    for bad in (video[0], video.expand(2, -1, -1, -1, -1), (video * 0).to(torch.uint8)):
        for explain in (clip_gradcam, occlude_frames, occlude_patches):
            with pytest.raises(ValueError, match=r"allowed is one clip, \(1, T, 3, S, S\) float"):
                explain(net, bad)
    for explain in (clip_gradcam, occlude_frames, occlude_patches):
        for target in (-1, 32):
            with pytest.raises(ValueError, match=f"target = {target}: allowed is 0 to 31"):
                explain(net, video, target)
        with pytest.raises(ValueError, match="no head"):
            explain(model(replace(PLAIN, classes=0)), video)
    for layer in (4, -5):
        with pytest.raises(ValueError, match=f"layer = {layer}: allowed is -4 to 3"):
            clip_gradcam(net, video, 0, layer)
    with pytest.raises(ValueError, match="where = 'ln_3': allowed is ln_1, attn"):
        clip_gradcam(net, video, 0, where="ln_3")
    with pytest.raises(ValueError, match="by = 'black': allowed is previous, grey, mean"):
        occlude_frames(net, video, by="black")
    with pytest.raises(ValueError, match="with 1 frame: allowed is 'grey'"):
        occlude_frames(net, video[:, :1])
    assert occlude_frames(net, video[:, :1], by="grey").shape == (1,)
    with pytest.raises(ValueError, match="score = 'loss': allowed is logit, log_probability"):
        occlude_frames(net, video, score="loss")
    with pytest.raises(ValueError, match="chunk = 0"):
        occlude_patches(net, video, chunk=0)
    with pytest.raises(ValueError, match="side = 9: allowed is 1 to 8"):
        occlude_patches(net, video, side=9)


def test_where_patches_lie_on_no_grid_it_says_so():
    net = model(i2v.PRESETS["tome-mini-corrupted"])
    with pytest.raises(ValueError, match="tokens a frame at ln_1 of block 4 of 4: .* drops or merges"):
        clip_gradcam(net, clip(4), 0)
    assert not any(m._forward_hooks for m in net.modules())
    assert clip_gradcam(net, clip(4), 0, layer=0).shape == (4, 8, 8), "in front of the first merge they do"


def test_a_head_of_zeros_is_named_as_the_cause():
    net = model(PLAIN)
    nn.init.zeros_(net.head.weight)
    with pytest.raises(ValueError, match="does not change with the clip"):
        clip_gradcam(net, clip(4), 0)
