"""Zero-shot against open_clip's own encode_image and encode_text, on a tiny random CLIP: nothing is downloaded."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch.nn.functional import normalize

from i2vlib.config import TowerConfig
from i2vlib.data.video import write_clip
from i2vlib.own_video import predict
from i2vlib.presets import TOWERS
from i2vlib.protocol import clip_for
from i2vlib.tower import zero_shot as module
from i2vlib.tower.archives import WeightsError
from i2vlib.tower.zero_shot import ZeroShot, cached_tag, text_features, zero_shot

NAMES = ("a ring", "tying_shoes", "{braces}")
TOWER = TowerConfig(32, 16, 32, 2, 2, 4.0, 16, False)


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(0)
    clip = CLIP(16, CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=32),
                CLIPTextCfg(width=16, heads=2, layers=1)).eval()
    for parameter in clip.visual.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return clip


@pytest.fixture
def asked(clip, tmp_path, monkeypatch) -> ZeroShot:
    """zero_shot, with the tiny CLIP where the real one would be downloaded."""
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    monkeypatch.setattr(module, "clip_tags", lambda tower: {"tiny": "ViT-B-16"})
    monkeypatch.setattr(module, "find_weights", lambda tower, weights: tmp_path / "clip.pt")
    monkeypatch.setattr(module, "resolve_activation", lambda config, weights: config)
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: clip)
    return zero_shot(NAMES, TOWER, "tiny", frames=3)


def test_logits_are_open_clips_cosines(clip, asked):
    video, tokenizer = torch.randn(2, 3, 3, 32, 32), open_clip.get_tokenizer("ViT-B-16")
    with torch.no_grad():
        frames = torch.stack([clip.encode_image(v, normalize=True) for v in video])  # (B,T,E)
        for one, name in enumerate(("a ring", "tying shoes", "{braces}")):
            prompts = [f"a video of {name}.", f"a photo of {name}."]
            text = torch.stack([clip.encode_text(tokenizer([p]), normalize=True)[0] for p in prompts]).mean(0)
            cosine = torch.cosine_similarity(frames.mean(1), text[None], dim=-1)
            torch.testing.assert_close(asked(video)[:, one], clip.logit_scale.exp() * cosine, rtol=0, atol=1e-4)
        one_frame = asked(video[:, :1].expand(-1, 3, -1, -1, -1))
        image, text = clip.encode_image(video[:, 0], normalize=True), normalize(text_features(clip, tokenizer, NAMES), dim=-1)
        torch.testing.assert_close(one_frame, clip.logit_scale.exp() * image @ text.T, rtol=0, atol=1e-4)
        assert (asked(video) - asked(video.flip(1))).abs().max() < 1e-4, "blind to the order of frames"
        assert asked(video).std() > 1e-3


def test_it_answers_for_a_file_as_a_model_does(asked, tmp_path):
    write_clip(tmp_path / "a.mp4", torch.randint(256, (5, 40, 48, 3), dtype=torch.uint8))
    found = predict(asked, tmp_path / "a.mp4", clip_for(TOWER, frames=3), NAMES)
    assert found.probabilities.sum() == pytest.approx(1) and found.class_names == NAMES
    assert not any(p.requires_grad for p in asked.parameters())


def test_what_is_not_in_the_cache_is_not_at_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "try_to_load_from_cache", lambda repository, name: None)
    assert cached_tag(TOWERS["ViT-B-16"]) == ""
    monkeypatch.setattr(module, "try_to_load_from_cache",
                        lambda repository, name: "file" if "datacomp" in repository.lower() else None)
    assert cached_tag(TOWERS["ViT-B-16"]).startswith("datacomp")
    with pytest.raises(WeightsError, match="neither a file nor an open_clip tag"):
        zero_shot(NAMES, TOWERS["ViT-B-16"], "no-such-tag")
