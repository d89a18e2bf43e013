"""Zero-shot: a video is told by the names of classes alone, through CLIP's text tower. Nothing is trained.

    logits[b,c] = s · cos( mean over frames of e[b,t] / |e[b,t]| , mean over prompts of the text features of class c )

e: CLIP's own image feature of a frame, in the space that it shares with text; s: CLIP's scale of logits. The mean over frames
makes it blind to their order: of two classes that differ in direction it cannot tell one from the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.config import ModelConfig, TowerConfig
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.weights import clip_tags, find_weights, load_image_weights, resolve_activation

PROMPTS = ("a video of {}.", "a photo of {}.")


class ZeroShot(nn.Module):
    """(B,T,3,H,W) -> logits (B,classes). Has a .config as a VideoClassifier has: predict() and evaluate() take it as one.

    backbone: with CLIP's weights and its proj; text (classes,E): a feature of each class, of whatever length; scale: of logits.
    """

    def __init__(self, backbone: VideoViT, text: Tensor, scale: float):
        super().__init__()
        self.backbone, self.scale = backbone.requires_grad_(False).eval(), scale
        self.config = replace(backbone.config, classes=len(text))
        self.register_buffer("text", F.normalize(text, dim=-1))

    def forward(self, video: Tensor) -> Tensor:
        frames = F.normalize(self.backbone(video) @ self.backbone.proj, dim=-1)  # (B,T,E)
        return self.scale * F.normalize(frames.mean(1), dim=-1) @ self.text.T


def zero_shot(names: Sequence[str], tower: TowerConfig, weights: str, *, frames: int = 4,
              prompts: Sequence[str] = PROMPTS) -> ZeroShot:
    """CLIP, asked which of these names a video shows.

    tower: such as presets.TOWERS["ViT-B-16"]; weights: an open_clip tag for it, such as cached_tag(tower), or "openai", which
    downloads both towers (600 MB). prompts: each with {} in the name's place; underscores of names become spaces. Raises
    WeightsError where there is no such tag, or it can be had neither from the cache nor from a network.
    """
    config = resolve_activation(ModelConfig(tower, frames=frames), weights)
    path, arch = find_weights(tower, weights), clip_tags(tower)[weights]
    clip = open_clip.create_model(arch, pretrained=str(path), force_quick_gelu=bool(config.tower.quick_gelu))
    backbone = VideoViT(config)
    load_image_weights(backbone, path)
    return ZeroShot(backbone, text_features(clip, open_clip.get_tokenizer(arch), names, prompts), clip.logit_scale.exp().item())


@torch.no_grad()
def text_features(clip: nn.Module, tokenizer: Callable, names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Tensor:
    """(classes, E): for each name the mean of its prompts' unit features. clip: open_clip's whole model."""
    words = [prompt.format(name.replace("_", " ")) for name in names for prompt in prompts]
    found = F.normalize(clip.eval().encode_text(tokenizer(words)), dim=-1)
    return found.unflatten(0, (len(names), len(prompts))).mean(1)


def cached_tag(tower: TowerConfig) -> str:
    """An open_clip tag for this tower whose weights lie in the hub's cache of this machine; empty where none does."""
    for tag, arch in clip_tags(tower).items():
        repository, name = os.path.split(open_clip.get_pretrained_cfg(arch, tag).get("hf_hub", ""))
        names = [name] if name else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
        if repository and any(isinstance(try_to_load_from_cache(repository, n), str) for n in names):
            return tag
    return ""
