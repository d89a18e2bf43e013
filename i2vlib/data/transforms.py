"""Decoded frames to what the model sees. Whatever is random is drawn once a clip, for all its frames alike.

Frames go through torchvision as one (T,3,H,W) tensor: its transforms draw their parameters once a call, and what is
in front of the last three dimensions shares them. Randomness comes from torch's global state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from i2vlib.config import CLIP_MEAN, CLIP_STD, TowerConfig
from i2vlib.data.augment import RandAugment, erase
from i2vlib.protocol import ClipConfig

# Brightness, contrast, saturation (factors 1 ± this) and hue (± this share of a turn): the ranges of X-CLIP's public code, and so
# of ViFi-CLIP's, which is built on it. There each frame has its own draw; here a clip has one.
JITTER = (0.4, 0.4, 0.2, 0.1)


def unnormalised(clip: Tensor, tower: TowerConfig | None = None) -> Tensor:
    """The tower's normalisation undone, or CLIP's: (...,3,H,W) float as the model sees it -> 0..1, but for rounding."""
    mean, std = (tower.mean, tower.std) if tower else (CLIP_MEAN, CLIP_STD)
    return clip * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)


def train_transform(clip: ClipConfig) -> TrainTransform:
    """The training transform of a protocol: (uint8 (T,H,W,3), label) -> (float32 (T,3,size,size), label)."""
    return TrainTransform(clip)


class TrainTransform:
    """Short side to `short_side`, RandAugment, random resized crop, flip, colour jitter, grey, random erasing, normalise.

    With `augment_last` RandAugment comes behind crop and flip.

    Without `random_crop` the geometry is that of testing: centre crop, and frames of the right size stay as they are.
    A flip exchanges the labels of `flip_pairs`.
    """

    def __init__(self, clip: ClipConfig) -> None:
        self.clip = clip
        self.partner = dict(clip.flip_pairs) | {b: a for a, b in clip.flip_pairs}
        n, m = clip.rand_augment
        self.augment = RandAugment(n, m, clip.augmenter) if n else nn.Identity()  # what is off draws no random number
        self.crop = v2.RandomResizedCrop(clip.size, antialias=True)
        self.colour = [v2.RandomApply([v2.ColorJitter(*JITTER)], clip.colour_jitter)] if clip.colour_jitter else []
        self.colour += [v2.RandomGrayscale(clip.grey)] if clip.grey else []

    def __call__(self, frames: Tensor, label: int) -> tuple[Tensor, int]:
        video = _short_side(frames.permute(0, 3, 1, 2), self.clip.short_side if self.clip.random_crop
                            else self.clip.test_short_side)
        if not self.clip.augment_last:
            video = self.augment(video)
        video = self.crop(video) if self.clip.random_crop else F.center_crop(video, [self.clip.size] * 2)
        if torch.rand(()) < self.clip.flip:
            video, label = F.horizontal_flip(video), self.partner.get(label, label)
        if self.clip.augment_last:
            video = self.augment(video)
        for change in self.colour:
            video = change(video)
        if self.clip.erasing:
            video = erase(video, self.clip.erasing, self.clip.erasing_fill)
        return normalised(video, self.clip), label


def test_views(clip: ClipConfig) -> TestViews:
    """The spatial views of a protocol's test: uint8 (T,H,W,3) -> float32 (test_crops,T,3,size,size)."""
    return TestViews(clip)


test_views.__test__ = False  # the name is not a test's, whatever pytest thinks


class TestViews:
    """Short side to `test_short_side`, then the centre crop, or start, centre and end along the longer side."""

    __test__ = False

    def __init__(self, clip: ClipConfig) -> None:
        self.clip = clip

    def __call__(self, frames: Tensor) -> Tensor:
        video, size = _short_side(frames.permute(0, 3, 1, 2), self.clip.test_short_side), self.clip.size
        if self.clip.test_crops == 1:
            return normalised(F.center_crop(video, [size, size]), self.clip)[None]
        H, W = video.shape[-2:]
        top, left = (H - size) // 2, (W - size) // 2
        corners = [(top, x) for x in (0, left, W - size)] if W >= H else [(y, left) for y in (0, top, H - size)]
        return normalised(torch.stack([F.crop(video, y, x, size, size) for y, x in corners]), self.clip)


def _short_side(video: Tensor, side: int) -> Tensor:
    if min(video.shape[-2:]) == side:
        return video  # untouched: the embedded clips reach the model as they were drawn
    return F.resize(video, [side], antialias=True)


def normalised(video: Tensor, clip: ClipConfig) -> Tensor:
    return F.normalize(F.to_dtype(video, torch.float32, scale=True), list(clip.mean), list(clip.std))
