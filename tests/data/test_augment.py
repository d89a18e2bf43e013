"""RandAugment and erasing: which operations act how often, and what a level means, against numbers worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2 import functional as F

from i2vlib.data.augment import OPERATIONS, RandAugment, erase

GEOMETRY = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def picture(seed: int = 0, frames: int = 2) -> torch.Tensor:
    """uint8 (T,3,20,20), smooth, its frames alike."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(256, (1, 3, 5, 5), generator=g, dtype=torch.uint8)
    return F.resize(coarse, [20, 20], antialias=True).expand(frames, -1, -1, -1).contiguous()


def as_image(video: torch.Tensor) -> Image.Image:
    return Image.fromarray(video[0].permute(1, 2, 0).numpy())


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).int()


def close(video: torch.Tensor, image: Image.Image, most: int = 1) -> None:
    assert (video[0].int() - pixels(image)).abs().max() <= most


@pytest.mark.parametrize("kind, count", [("pytorchvideo", 14), ("timm", 15)])
def test_two_of_four_operations_act_on_a_clip_on_average(kind, count):
    torch.manual_seed(0)
    augment = RandAugment(4, 7, kind)
    drawn = [augment.draw() for _ in range(4000)]
    assert len(OPERATIONS[kind]) == count and {name for found in drawn for name, _ in found} == set(OPERATIONS[kind])
    acting = torch.tensor([float(len(found)) for found in drawn])
    assert acting.mean() == pytest.approx(2.0, abs=0.06) and acting.var() == pytest.approx(1.0, abs=0.1)
    levels = torch.tensor([level for found in drawn for _, level in found])
    assert levels.mean() == pytest.approx(7.0, abs=0.03) and levels.std() == pytest.approx(0.5, abs=0.03)
    each = Counter(name for found in drawn for name, _ in found)
    assert min(each.values()) > 0.8 * 8000 / count and max(each.values()) < 1.2 * 8000 / count
    twice = sum(len({name for name, _ in found}) < len(found) for found in drawn)
    assert twice == 0 if kind == "pytorchvideo" else twice > 100, "with replacement, or without"


def test_magnitudes_stay_within_0_and_10():
    torch.manual_seed(0)
    levels = [level for _ in range(500) for _, level in RandAugment(4, 10, "timm").draw()]
    assert max(levels) == 10
    assert min(level for _ in range(500) for _, level in RandAugment(4, 0, "timm").draw()) == 0


def both_signs(name: str, kind: str, level: float = 7.0) -> tuple[torch.Tensor, torch.Tensor]:
    """What an operation makes of the picture with either sign; the sign is a fair coin."""
    found = {}
    for seed in range(40):
        torch.manual_seed(seed)
        out = OPERATIONS[kind][name](picture(), level)
        found.setdefault(out.sum().item() if name not in GEOMETRY else tuple(out.flatten().tolist()), out)
    assert len(found) == 2, name
    return tuple(found.values())


@pytest.mark.parametrize("name, enhance", [("Brightness", ImageEnhance.Brightness), ("Contrast", ImageEnhance.Contrast),
                                           ("Saturation", ImageEnhance.Color), ("Sharpness", ImageEnhance.Sharpness)])
def test_enhancements_are_factors_of_1_63_and_0_37(name, enhance):
    for video in both_signs(name, "pytorchvideo"):
        gaps = []
        for factor in (1.63, 0.37):
            gaps.append((video[0].int() - pixels(enhance(as_image(picture())).enhance(factor))).abs().max().item())
        assert min(gaps) <= 2, (name, gaps)


@pytest.mark.parametrize("kind, fill", [("pytorchvideo", 0), ("timm", 128)])
def test_geometry_is_that_of_pils_affine(kind, fill):
    """A level of 7: 21 degrees, .21 of a shear about the upper left corner, .315 of a side."""
    def pil(coefficients):
        return as_image(picture()).transform((20, 20), Image.AFFINE, coefficients, Image.BILINEAR, fillcolor=(fill,) * 3)

    wanted = {"ShearX": [(1, s, 0, 0, 1, 0) for s in (0.21, -0.21)], "ShearY": [(1, 0, 0, s, 1, 0) for s in (0.21, -0.21)],
              "TranslateX": [(1, 0, s * 20, 0, 1, 0) for s in (0.315, -0.315)],
              "TranslateY": [(1, 0, 0, 0, 1, s * 20) for s in (0.315, -0.315)]}
    for name, forms in wanted.items():
        for video in both_signs(name, kind):
            alike = [((video[0].int() - pixels(pil(form))).abs() <= 2).float().mean().item() for form in forms]
            assert max(alike) > 0.85 and min(alike) < 0.6, (name, alike)  # but where picture and fill meet, which the two blend
    rotated = [as_image(picture()).rotate(a, Image.BILINEAR, fillcolor=(fill,) * 3) for a in (21, -21)]
    for video in both_signs("Rotate", kind):
        assert max(((video[0].int() - pixels(image)).abs() <= 3).float().mean().item() for image in rotated) > 0.85
        assert (video[0, :, 0, 0] == fill).all(), "the corner that is uncovered"


def test_posterize_keeps_two_bits_at_level_seven_and_invert_inverts():
    video = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    for kind in OPERATIONS:
        assert torch.equal(OPERATIONS[kind]["Posterize"](video, 7.0), video & 0b11000000)
        assert torch.equal(OPERATIONS[kind]["Posterize"](video, 4.9), video & 0b11100000), "4 - int(1.96)"
        assert torch.equal(OPERATIONS[kind]["Invert"](video, 7.0), 255 - video)
    image = as_image(picture())
    close(OPERATIONS["timm"]["AutoContrast"](picture(), 7.0), ImageOps.autocontrast(image))
    close(OPERATIONS["timm"]["Equalize"](picture(), 7.0), ImageOps.equalize(image))


def test_solarize_in_both_codes():
    video = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    theirs = OPERATIONS["pytorchvideo"]["Solarize"](video, 7.0).flatten()[:256]
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert theirs[0] == 0 and torch.equal(theirs[1:], 255 - bytes_[1:]), "a threshold of .3, on bytes"
    timm = OPERATIONS["timm"]["Solarize"](video, 7.0).flatten()[:256]
    assert torch.equal(timm[:77], torch.arange(77, dtype=torch.uint8)) and timm[77] == 255 - 77, "256 - int(179.2)"
    added = OPERATIONS["timm"]["SolarizeAdd"](video, 7.0).flatten()[:256]
    assert added[0] == 77 and added[127] == 204 and torch.equal(added[128:], torch.arange(128, 256).to(torch.uint8))
    assert torch.equal(OPERATIONS["timm"]["Solarize"](video, 0.0), video), "a threshold that nothing reaches"


@pytest.mark.parametrize("kind", OPERATIONS)
def test_frames_that_are_alike_stay_alike(kind):
    for seed in range(30):
        torch.manual_seed(seed)
        out = RandAugment(4, 7, kind)(picture(seed, frames=3))
        assert out.dtype == torch.uint8 and torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


@pytest.mark.parametrize("fill", ["grey", "noise"])
def test_erasing(fill):
    video, shares, erased = torch.full((3, 3, 64, 64), 7, dtype=torch.uint8), [], 0
    for seed in range(300):
        torch.manual_seed(seed)
        out = erase(video, 0.25, fill)
        gone = (out != video).any(1)  # (T,H,W)
        if gone.any():
            erased += 1
            rows, columns = gone.any(0).any(1).nonzero(), gone.any(0).any(0).nonzero()
            box = (rows[-1] - rows[0] + 1).item() * (columns[-1] - columns[0] + 1).item()
            shares.append(box / 64**2)
            if fill == "grey":
                assert (out[:, :, gone[0]] == 128).all() and torch.equal(out[0], out[1])
            else:
                assert not torch.equal(out[0], out[1]), "new noise in each frame"
    assert 50 < erased < 100 and min(shares) > 0.015 and 0.25 < max(shares) < 0.36
