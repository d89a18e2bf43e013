from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import i2vlib as i2v
from i2vlib.config import ModelConfig, TemporalConfig, TowerConfig
from i2vlib.measure import open_clip_tower
from i2vlib.presets import TOWERS
from i2vlib.tower.backbone import Attention, VideoViT
from i2vlib.tower.modes import at_rest

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = TowerConfig(16, 8, 24, 2, 4, 4.0, 10, quick_gelu=True)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_equals_open_clip_at_equal_random_weights(name, quick):
    torch.manual_seed(0)
    depth = 2 if (name, quick) == ("ViT-L-14", False) else TOWERS[name].layers  # OpenAI's L/14 at full depth
    ours = VideoViT(ModelConfig(replace(TOWERS[name], quick_gelu=quick, layers=depth))).eval()
    theirs = open_clip_tower(ours.config)
    theirs.load_state_dict(ours.image_state(), strict=True)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert (ours.embed_images(images) - theirs(images)).abs().max() <= 1e-5
        ours, theirs, images = ours.double(), theirs.double(), images.double()
        assert (ours.embed_images(images) - theirs(images)).abs().max() <= 1e-12


def test_golden_open_clip_tower():
    data = np.load(GOLDEN / "openclip_vit_quickgelu1.npz")
    tower = VideoViT(ModelConfig(TowerConfig(32, 8, 64, 2, 8, 4.0, 48, True)))
    tower.load_state_dict({k[3:]: torch.tensor(data[k]) for k in data.files if k.startswith("sd/")}, strict=True)
    with torch.no_grad():
        got = tower.embed_images(torch.tensor(data["x"]))
        assert (got - torch.tensor(data["out"])).abs().max() <= 1e-5
        got = tower.double().embed_images(torch.tensor(data["x"]).double())
        assert (got - torch.tensor(data["out_f64"])).abs().max() <= 1e-12


def naive_attention(block: Attention, x, frames):
    """STDHA written from eq. 7-9: frame by frame, head by head, softmax by hand."""
    D, h = x.shape[-1], block.heads
    d, T = D // h, frames
    q, k, v = (x @ block.in_proj_weight.T + block.in_proj_bias).chunk(3, -1)
    out = torch.zeros_like(x)
    for n in range(len(x)):
        clip, t = divmod(n, T)
        for i in range(h):
            s = t + (block.offsets[i] if block.offsets else 0)
            m = clip * T + (s if 0 <= s < T else t)
            part = slice(i * d, (i + 1) * d)
            logits = q[n, :, part] @ k[m, :, part].T / d**0.5
            weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
            out[n, :, part] = weights @ v[m, :, part]
    return out @ block.out_proj.weight.T + block.out_proj.bias


@pytest.mark.parametrize("offsets", [(), (-1, 1, 0, 0), (2, -1, -1, 3)])
@pytest.mark.parametrize("grad", [False, True])
def test_attention_equals_the_loop(offsets, grad):
    torch.manual_seed(0)
    block = Attention(16, 4, offsets).double()
    x = torch.randn(2 * 5, 6, 16, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        got = block(x, 5, torch.nn.ModuleDict())
    torch.testing.assert_close(got, naive_attention(block, x, 5), rtol=0, atol=1e-12)
    if grad:  # the in-place relocation must give the weights the gradient of the loop
        got.square().sum().backward()
        fast, block.in_proj_weight.grad = block.in_proj_weight.grad.clone(), None
        naive_attention(block, x, 5).square().sum().backward()
        torch.testing.assert_close(fast, block.in_proj_weight.grad, rtol=0, atol=1e-11)


def random_model(offsets, embedding=False, frames=4):
    torch.manual_seed(0)
    return i2v.build_model(ModelConfig(SMALL, TemporalConfig(offsets, embedding), frames=frames, classes=3)).eval().double()


def test_without_offsets_order_is_invisible():
    model, video = random_model(()), torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    assert (model(video) - model(video.flip(1))).abs().max() < 1e-14
    moved = random_model((-1, 1, 0, 0))
    assert (moved(video) - moved(video.flip(1))).abs().max() > 1e-4


def test_a_still_clip_is_an_image():
    """All frames equal: whichever frame a head reads, it reads the same. Rolled frames would pass too; see the next test."""
    image = torch.randn(2, 1, 3, 16, 16, dtype=torch.float64)
    spatial, moved = random_model(()), random_model((-1, 1, 2, -3))
    moved.load_state_dict(spatial.state_dict())
    assert (moved(image.expand(-1, 4, -1, -1, -1)) - spatial(image)).abs().max() < 1e-13


def test_frames_do_not_wrap_around():
    model, video = random_model((-1, 0, 0, 0)), torch.randn(1, 4, 3, 16, 16, dtype=torch.float64)
    changed = video.clone()
    changed[:, 3] += 1
    same = (model.frame_features(video) - model.frame_features(changed)).abs().amax((0, 2))
    assert same[:3].max() == 0 and same[3] > 0  # heads look back only: frame 3 touches no earlier frame


def test_receptive_field_grows_by_the_offsets_of_each_layer():
    model, video = random_model((-1, 1, 0, 0), frames=8), torch.randn(1, 8, 3, 16, 16, dtype=torch.float64)
    changed = video.clone()
    changed[:, 4] += 1
    touched = (model.frame_features(video) - model.frame_features(changed)).abs().amax((0, 2)) > 0
    assert touched.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]  # two layers, one frame each way a layer


def test_any_length_without_a_temporal_embedding_and_a_clear_error_with_one():
    model = random_model((-1, 1, 0, 0))
    assert model.frame_features(torch.randn(1, 7, 3, 16, 16).double()).shape == (1, 7, 24)
    with pytest.raises(ValueError, match="video of 7 frames: this model has a temporal embedding for 4"):
        random_model((-1, 1, 0, 0), True)(torch.randn(1, 7, 3, 16, 16).double())
    with pytest.raises(ValueError, match=r"allowed is \(B, T, 3, 16, 16\)"):
        model(torch.randn(1, 4, 3, 20, 20).double())


def test_at_rest_all_is_in_eval_mode_and_then_as_it_was_module_by_module():
    model = i2v.build_model(ModelConfig(SMALL, frames=4, classes=3)).train()
    model.backbone.ln_pre.eval()
    before = [module.training for module in model.modules()]
    with at_rest(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(KeyboardInterrupt), at_rest(model):
        raise KeyboardInterrupt
    assert [module.training for module in model.modules()] == before and True in before and False in before


def test_drop_path_leaves_out_whole_branches_of_whole_clips():
    """Rates rise from 0 to drop_path; where nothing is dropped, and in eval mode, the branch is what it was."""
    config = i2v.ModelConfig(i2v.TowerConfig(16, 8, 16, 3, 2, output_dim=0, quick_gelu=False), frames=2, drop_path=0.5)
    torch.manual_seed(0)
    model = VideoViT(config).double()
    assert [block.drop for block in model.transformer.resblocks] == [0.0, 0.25, 0.5]
    block, x = model.transformer.resblocks[2], torch.randn(200, 5, 16, dtype=torch.float64)  # 100 clips of 2 frames
    whole = block.eval()(x, 2)
    plain = VideoViT(replace(config, drop_path=0.0)).double()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(whole, plain.transformer.resblocks[2].train()(x, 2))
    attended = x + block.attn(block.ln_1(x), 2, block.adapters)
    after = x + 2 * (attended - x)  # the attention's branch, kept and doubled
    found = (block.train()(x, 2)).unflatten(0, (100, 2))
    kinds = {"neither": x, "attention": after, "mlp": x + 2 * block.mlp(block.ln_2(x)),
             "both": after + 2 * block.mlp(block.ln_2(after))}
    counts = {name: sum(torch.allclose(found[i], want.unflatten(0, (100, 2))[i], atol=1e-9) for i in range(100))
              for name, want in kinds.items()}
    assert sum(counts.values()) == 100 and all(10 < count < 40 for count in counts.values()), counts
