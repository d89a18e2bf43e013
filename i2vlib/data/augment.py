"""RandAugment and random erasing as the papers' released code has them: one draw a clip, which all of its frames share.

What is drawn is ours to say, what it does to pixels is torchvision's. Randomness comes from torch's global state.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

LEVELS = 10  # magnitudes count from 0 to 10
DEVIATION = 0.5  # of the normal distribution that a magnitude is drawn from
SHARE = 0.5  # of the operations drawn that act
BILINEAR = InterpolationMode.BILINEAR


class RandAugment:
    """n operations are drawn for a clip, each acts with probability ½ at a magnitude drawn around m: uint8 (T,3,H,W) -> the same.

    kind "pytorchvideo": 14 operations, none drawn twice (ZeroI2V, by MMAction2). kind "timm": the 15 of timm's "inc1", drawn with
    replacement (rand-m7-n4-mstd0.5-inc1, UniFormerV2). The magnitude is a normal draw of deviation .5, kept within 0 and 10.

    The first is as it acts in the authors' code, which hands bytes to functions made for 0..1: Solarize, with a threshold of
    1 - level/10, inverts every value but 0, and what rotation, shear and translation uncover is black. The second has grey there.
    """

    def __init__(self, n: int, magnitude: float, kind: str):
        self.n, self.magnitude, self.kind, self.operations = n, magnitude, kind, OPERATIONS[kind]

    def __call__(self, video: Tensor) -> Tensor:
        for name, level in self.draw():
            video = self.operations[name](video, level)
        return video

    def draw(self) -> list[tuple[str, float]]:
        """The operations that act on a clip, in order, each with its magnitude."""
        names = list(self.operations)
        if self.kind == "pytorchvideo":
            chosen = torch.randperm(len(names))[:self.n]
        else:
            chosen = torch.randint(len(names), (self.n,))
        levels = (self.magnitude + DEVIATION * torch.randn(self.n)).clamp(0, LEVELS)
        acts = torch.rand(self.n) < SHARE
        return [(names[i], level) for i, level, act in zip(chosen.tolist(), levels.tolist(), acts.tolist(), strict=True) if act]


def erase(video: Tensor, probability: float, fill: str) -> Tensor:
    """A rectangle of 2 to 33 % of the picture, the same in all frames, grey (128) or with new noise in each: (T,3,H,W) uint8."""
    if torch.rand(()) >= probability:
        return video
    value = 128.0 if fill == "grey" else torch.randint(256, video.shape, dtype=torch.uint8)
    mask = v2.RandomErasing(1.0, (0.02, 1 / 3), (0.3, 10 / 3), value=1.0)(torch.zeros(1, *video.shape[-2:])) > 0
    return torch.where(mask, torch.as_tensor(value, dtype=torch.uint8), video)


# ---- operations: what a level from 0 to 10 means ----

def signed(most: float) -> Callable[[float], float]:
    """level -> ± most·level/10, the sign by a fair coin."""
    return lambda level: most * level / LEVELS * (1 if torch.rand(()) < 0.5 else -1)


def _geometry(fill: float) -> dict[str, Callable[[Tensor, float], Tensor]]:
    """Rotate to 30 degrees, shear to .3 about the upper left corner, translate to .45 of a side."""
    turn, slant, move = signed(30.0), signed(0.3), signed(0.45)

    def affine(video: Tensor, shear=(0.0, 0.0), translate=(0.0, 0.0)) -> Tensor:
        degrees = [math.degrees(math.atan(part)) for part in shear]
        return F.affine(video, 0.0, list(translate), 1.0, degrees, BILINEAR, [fill] * 3, center=[0.0, 0.0])

    return {"Rotate": lambda v, level: F.rotate(v, turn(level), BILINEAR, fill=[fill] * 3),
            "ShearX": lambda v, level: affine(v, shear=(slant(level), 0.0)),
            "ShearY": lambda v, level: affine(v, shear=(0.0, slant(level))),
            "TranslateX": lambda v, level: affine(v, translate=(move(level) * v.shape[-1], 0.0)),
            "TranslateY": lambda v, level: affine(v, translate=(0.0, move(level) * v.shape[-2]))}


def _colour() -> dict[str, Callable[[Tensor, float], Tensor]]:
    """Factors 1 ± .9·level/10, and what has no magnitude. Posterize keeps 4 - int(.4·level) bits."""
    factor = signed(0.9)
    return {"Brightness": lambda v, level: F.adjust_brightness(v, 1 + factor(level)),
            "Contrast": lambda v, level: F.adjust_contrast(v, 1 + factor(level)),
            "Saturation": lambda v, level: F.adjust_saturation(v, 1 + factor(level)),
            "Sharpness": lambda v, level: F.adjust_sharpness(v, 1 + factor(level)),
            "AutoContrast": lambda v, level: F.autocontrast(v), "Equalize": lambda v, level: F.equalize(v),
            "Invert": lambda v, level: F.invert(v), "Posterize": lambda v, level: F.posterize(v, 4 - int(0.4 * level))}


def _solarize(video: Tensor, threshold: float) -> Tensor:
    """Values from the threshold on are inverted."""
    return torch.where(video >= float(threshold), 255 - video, video)  # a byte would wrap 256 to 0


def _solarize_add(video: Tensor, level: float) -> Tensor:
    """Values below 128 grow by 11·level."""
    return torch.where(video < 128, (video.to(torch.int16) + int(11 * level)).clamp(max=255).to(torch.uint8), video)


OPERATIONS = {
    "pytorchvideo": {**_colour(), "Solarize": lambda v, level: _solarize(v, 1 - level / LEVELS), **_geometry(0.0)},
    "timm": {**_colour(), "Solarize": lambda v, level: _solarize(v, 256 - int(25.6 * level)), "SolarizeAdd": _solarize_add,
             **_geometry(128.0)},
}
