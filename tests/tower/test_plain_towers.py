"""What the library does with a CLIP it does with every plain ViT: without ln_pre, with registers, with another mean and std."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import i2vlib as i2v
from i2vlib.compression.weights import fuse_frames, interpolation_weights, to_pixels
from i2vlib.config import (
    FOUR_ADAPTERS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIX_ADAPTERS,
    AdaptationConfig,
    CompressionConfig,
    ModelConfig,
    TemporalConfig,
    TowerConfig,
)
from i2vlib.insight.attention import attention_weights, grid_side, on_place, query_maps, rollout
from i2vlib.insight.evidence import clip_gradcam, occlude_patches
from i2vlib.show.attention import attention, rollout_map
from i2vlib.show.clips import pictures
from i2vlib.show.embedded import attention_page, interpolation_page, most_concentrated, read_attention, read_weights
from i2vlib.show.interpolation import interpolation
from i2vlib.show.views import attention_view, interpolation_view
from i2vlib.tower.classifier import merge
from i2vlib.tower.export import export_onnx, export_program, relative

TOWER = TowerConfig(16, 4, 32, 2, 2, 2.0, 0, False, ln_pre=False, norm_eps=1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD)
TOWERS = {"DINO's kind": TOWER, "DINOv2 with registers, CLIP's ln_pre": replace(TOWER, registers=3, ln_pre=True),
          "DeiT distilled": replace(TOWER, registers=1)}
STDHA = TemporalConfig((1, -1), embedding=True)
INTI = CompressionConfig("inti", (1,))
every_tower = pytest.mark.parametrize("tower", TOWERS.values(), ids=TOWERS)


@torch.no_grad()
def model(tower, **more):
    torch.manual_seed(0)
    made = i2v.build_model(ModelConfig(tower, **{"temporal": STDHA, "frames": 4, "classes": 3} | more)).eval()
    for parameter in made.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def video(clips=1):
    return torch.randn(clips, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@every_tower
@pytest.mark.parametrize("kind", ["STDHA", "STDHA and InTI", "UniFormerV2"])
def test_adapters_merge_whatever_stands_beside_them(tower, kind):
    more = {"STDHA": {}, "STDHA and InTI": {"compression": INTI},
            "UniFormerV2": {"temporal": TemporalConfig(local=True, global_blocks=1)}}[kind]
    adapted = model(tower, adaptation=AdaptationConfig("linear", SIX_ADAPTERS, dropout=0.0), **more).double()
    plain = merge(adapted)
    assert relative(plain(video(2).double()), adapted(video(2).double())) <= 1e-12
    assert not [name for name in plain.state_dict() if "adapters" in name]


@pytest.mark.parametrize("tower", list(TOWERS.values())[:2], ids=list(TOWERS)[:2])
def test_it_leaves_the_notebook(tmp_path, tower):
    made = model(tower, adaptation=AdaptationConfig("linear", FOUR_ADAPTERS, dropout=0.0), compression=INTI)
    with torch.no_grad():
        assert relative(export_program(made).module()(video(3)), made(video(3))) <= 1e-5
    pytest.importorskip("onnxscript")
    if tower.registers:  # seconds; the other differs from it and from CLIP's by a module less
        assert export_onnx(made, tmp_path / "m.onnx") <= 1e-5


@every_tower
def test_attention_to_registers_has_no_place_and_is_no_class_tokens(tower):
    made, R = model(tower), tower.registers
    with torch.no_grad(), attention_weights(made) as weights:
        made(video())
    assert weights[0].shape == (1, 4, 2, 17 + R, 17 + R)
    maps = query_maps(weights[1], "class", R)
    torch.testing.assert_close(maps.flatten(-2), weights[1][..., 0, 1:17])
    to_registers = weights[1][..., 0, 17:].sum(-1)
    torch.testing.assert_close(maps.sum((-1, -2)) + weights[1][..., 0, 0] + to_registers, torch.ones(1, 4, 2))
    assert grid_side(17 + R, R) == 4 and (on_place(maps, torch.ones(4, 4)) - 1).abs().max() < 1e-6
    torch.testing.assert_close(query_maps(weights[0], (3, 3), R), weights[0][..., 16, 1:17].unflatten(-1, (4, 4)))
    seen = read_attention(made, video()[0])
    assert seen[0].shape == (4, 2, 17, 17) and np.array_equal(seen[0], weights[0][0, ..., :17, :17].numpy())
    assert most_concentrated(seen, [(1, -1)] * 2)[3] < 17, "a register asks for nothing that could be shown"
    share = rollout(weights, (1, -1))
    assert share.shape == (1, 4, 17 + R) and abs(share.sum().item() - 1) < 1e-6
    if R:
        assert to_registers.min() > 0
        for wrong in (0, R + 1, R - 17, -R):
            with pytest.raises(ValueError, match="of them registers"):
                query_maps(weights[0], "class", wrong)


@every_tower
def test_evidence_lies_on_the_patches_alone(tower):
    made, clip = model(tower).double(), video().double()
    cam = clip_gradcam(made, clip, 1)
    block, kept = made.backbone.transformer.resblocks[-1], []
    hook = block.ln_1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    gradient, = torch.autograd.grad(made(clip.clone().requires_grad_())[0, 1], kept)
    hook.remove()
    A, G = kept[0].detach()[:, 1:17], gradient[:, 1:17]
    by_hand = (A @ G.mean((0, 1))).clamp(min=0).unflatten(1, (4, 4))
    by_hand = (by_hand - by_hand.min()) / (by_hand.max() - by_hand.min())
    torch.testing.assert_close(cam.double(), by_hand, rtol=0, atol=1e-5)
    assert occlude_patches(made, clip, 1, side=2).shape == (4, 4, 4)


@every_tower
def test_weights_of_inti_on_pixels_leave_registers_out(tower):
    made, R = model(tower, compression=INTI), tower.registers
    with torch.no_grad(), interpolation_weights(made) as maps:
        made(video())
    pixels = to_pixels(maps[0], (4, 4), (16, 16), R)
    assert torch.equal(pixels[0, :, ::4, ::4].flatten(1), maps[0][0, :, 1:17]) and maps[0].shape == (1, 4, 17 + R)
    assert fuse_frames(video(), maps[0], (4, 4), 2, R).shape == (1, 2, 3, 16, 16)
    assert np.array_equal(read_weights(made, video()[0])[0], maps[0][0, :, :17].numpy())
    with pytest.raises(ValueError, match=r"allowed is 1 \+ 4·4"):
        to_pixels(maps[0], (4, 4), (16, 16), R + 1)


def test_pictures_of_a_tower_with_registers_are_drawn_and_of_its_own_colours():
    tower = TOWERS["DINOv2 with registers, CLIP's ln_pre"]
    frames = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    clip = (frames.permute(0, 3, 1, 2) / 255 - mean) / std
    assert torch.equal(pictures(clip, tower), frames) and not torch.equal(pictures(clip), frames)
    plain, inti = model(tower), model(tower, compression=INTI)
    with torch.no_grad(), attention_weights(plain) as weights:
        plain(clip[None])
    with torch.no_grad(), interpolation_weights(inti) as maps:
        inti(clip[None])
    shares = rollout(weights, (1, -1))
    figures = [attention(clip, weights, layer=1, offsets=(1, -1), t=0, tower=tower), rollout_map(clip, shares, tower=tower),
               interpolation(clip, maps, tower=tower)]
    assert np.array_equal(np.asarray(figures[0].axes[0].images[0].get_array()), frames[0].numpy())
    for draw in (lambda: attention(clip, weights, layer=1), lambda: rollout_map(clip, shares), lambda: interpolation(clip, maps)):
        with pytest.raises(ValueError, match="of them registers"):
            draw()
    assert "explore" not in attention_page(plain, clip)[:20] and interpolation_page(inti, clip)
    line = attention_view(plain, clip).draw(frame=1, block=2, head=0, query="patch", row=3, column=3)[1]
    most = weights[1][0, 1, 0, 16, 1:17]
    assert line.startswith("block 2 head 0 offset +1 frame 1 reads 2") and f"{most.max():.4f}" in line
    assert "site 1 pair 0" in interpolation_view(inti, clip).draw(frame=0, site=1, weights="as learned")[1]
