"""Whatever is random is the same for all frames of a clip; the geometry is checked with pictures of coordinates."""

from __future__ import annotations

import colorsys

import pytest
import torch

from i2vlib.data.transforms import test_views as make_views
from i2vlib.data.transforms import train_transform
from i2vlib.protocol import ClipConfig

PLAIN = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
SMALL = ClipConfig(frames=3, size=48, short_side=64, test_short_side=48, flip=0.0, **PLAIN)


def coordinates(height: int, width: int, frames: int = 3) -> torch.Tensor:
    """Red holds the row, green the column: a crop shows where it was taken."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack([rows, columns, torch.zeros_like(rows)], -1).to(torch.uint8)
    return picture[None].repeat(frames, 1, 1, 1)


def still(height: int = 72, width: int = 100, frames: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (1, height, width, 3), generator=g, dtype=torch.uint8).repeat(frames, 1, 1, 1)


def test_frames_of_the_right_size_stay_as_they_are():
    frames = torch.randint(0, 256, (3, 48, 48, 3), dtype=torch.uint8)
    wide = torch.nn.functional.pad(frames, (0, 0, 8, 8))  # a wall on both sides, as around the embedded clips
    config = ClipConfig(frames=3, size=48, test_short_side=48, random_crop=False, flip=0.0, **PLAIN)
    for clip in (frames, wide):
        for out in (train_transform(config)(clip, 0)[0], make_views(config)(clip)[0]):
            assert (out.permute(0, 2, 3, 1) * 255 - frames).abs().max() < 1e-4


def test_normalised_with_mean_and_std():
    config = ClipConfig(frames=1, size=8, test_short_side=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    out = make_views(config)(torch.full((1, 8, 8, 3), 255, dtype=torch.uint8))
    assert out.dtype == torch.float32
    assert torch.allclose(out[0, 0, :, 3, 3], torch.tensor([0.9 / 0.5, 0.8 / 0.25, 0.7 / 0.125]))


@pytest.mark.parametrize("strong", [
    dict(flip=0.5), dict(rand_augment=(4, 7)), dict(erasing=1.0), dict(flip=0.5, rand_augment=(4, 7), erasing=0.5),
    dict(colour_jitter=1.0), dict(grey=0.5), dict(flip=0.5, colour_jitter=0.8, grey=0.2)])
def test_all_frames_share_every_random_choice(strong):
    transform = train_transform(ClipConfig(frames=4, size=48, short_side=64, test_short_side=48, **strong))
    different = []
    for seed in range(12):
        torch.manual_seed(seed)
        video, _ = transform(still(), 0)
        assert video.shape == (4, 3, 48, 48) and all(torch.equal(video[0], v) for v in video[1:])
        different.append(video[0])
    assert len({d.sum().item() for d in different}) > 6  # and the choices do differ between clips


def test_random_crop_covers_the_picture():
    transform, tops, lefts = train_transform(SMALL), set(), set()
    for seed in range(40):
        torch.manual_seed(seed)
        video, _ = transform(coordinates(64, 96), 0)
        tops.add(int(video[0, 0, 0, 0] * 255) // 16)
        lefts.add(int(video[0, 1, 0, 0] * 255) // 16)
    assert len(tops) >= 3 and len(lefts) >= 4


def test_flip_mirrors_and_exchanges_labels():
    config = ClipConfig(frames=3, size=48, test_short_side=48, random_crop=False, flip=1.0, flip_pairs=((0, 1), (5, 3)),
                        **PLAIN)
    transform = train_transform(config)
    video, _ = transform(coordinates(48, 48), 0)
    assert (video[0, 1, 0] * 255).round().tolist() == list(range(47, -1, -1))
    assert [transform(coordinates(48, 48), label)[1] for label in range(6)] == [1, 0, 2, 5, 4, 3]


def test_flip_keeps_labels_of_clips_that_are_not_flipped():
    transform = train_transform(ClipConfig(frames=3, size=48, test_short_side=48, random_crop=False, flip=0.5,
                                           flip_pairs=((0, 1),), **PLAIN))
    flipped = []
    for seed in range(40):
        torch.manual_seed(seed)
        video, label = transform(coordinates(48, 48), 0)
        mirrored = bool(video[0, 1, 0, 0] > video[0, 1, 0, -1])
        assert label == int(mirrored)
        flipped.append(mirrored)
    assert 8 < sum(flipped) < 32


@pytest.mark.parametrize("last", [False, True])
def test_rand_augment_sees_the_whole_frame_or_with_augment_last_the_flipped_crop(last):
    config = ClipConfig(frames=3, size=48, short_side=64, test_short_side=48, flip=1.0, rand_augment=(4, 7),
                        augment_last=last, **PLAIN)
    transform, seen = train_transform(config), []
    transform.augment = lambda video: seen.append(video) or 255 - video
    video, _ = transform(coordinates(64, 96), 0)
    assert [tuple(v.shape) for v in seen] == [(3, 3, 48, 48) if last else (3, 3, 64, 96)]
    columns = seen[0][0, 1, 0].int().diff()
    assert (columns <= 0).all() and columns.min() < 0 if last else (columns == 1).all(), "mirrored, or not yet"
    assert torch.allclose(video[:, 2], torch.ones(())), "and it is what the model sees: blue was 0"


def test_what_is_erased_is_grey_before_it_is_normalised():
    """With CLIP's scaling 128 is (0.076, 0.169, 0.341), by hand; the mean would be 0 and black below -1."""
    config = ClipConfig(frames=2, size=32, test_short_side=32, random_crop=False, flip=0.0, erasing=1.0)
    video, _ = train_transform(config)(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), 0)
    gone = video[:, 0] > -1
    assert 0.01 < gone.float().mean() < 0.36 and torch.equal(gone[0], gone[1])
    assert torch.allclose(video.transpose(0, 1)[:, gone], torch.tensor([[0.0764], [0.1690], [0.3407]]), atol=1e-4)


def painted(colour: tuple[int, int, int], times: int = 60, **strong) -> torch.Tensor:
    """(times,3): what a transform makes of a clip of one colour, 0 to 255; its frames and pixels stay alike."""
    transform = train_transform(ClipConfig(frames=2, size=8, test_short_side=8, random_crop=False, flip=0.0, **PLAIN, **strong))
    clip, out = torch.tensor(colour, dtype=torch.uint8).expand(2, 8, 8, 3), []
    for seed in range(times):
        torch.manual_seed(seed)
        video, label = transform(clip, 1)
        assert label == 1 and (video == video[:1, :, :1, :1]).all()
        out.append(video[0, :, 0, 0] * 255)
    return torch.stack(out)


def test_colour_jitter_changes_brightness_and_hue_within_their_ranges():
    brightness = painted((100, 100, 100), 200, colour_jitter=1.0)[:, 0] / 100  # grey has no contrast, saturation or hue to change
    assert 0.57 < brightness.min() < 0.65 and 1.35 < brightness.max() < 1.42  # three steps that round
    hues = torch.tensor([colorsys.rgb_to_hsv(*(pixel / 255).tolist())[0] for pixel in painted((120, 60, 60), colour_jitter=1.0)])
    hues = (hues + 0.5) % 1 - 0.5  # the others leave it as it is
    assert -0.11 < hues.min() < -0.08 and 0.08 < hues.max() < 0.11


def test_the_ranges_of_contrast_and_saturation():
    jitter = train_transform(ClipConfig(frames=1, colour_jitter=1.0)).colour[0].transforms[0]
    assert jitter.contrast == pytest.approx((0.6, 1.4)) and jitter.saturation == pytest.approx((0.8, 1.2))


def test_colours_change_with_the_given_probability():
    colour = torch.tensor([120.0, 60.0, 60.0])
    grey = painted((120, 60, 60), 200, grey=0.5)
    lost = (grey == grey[:, :1]).all(1)
    assert 80 < lost.sum() < 120 and torch.allclose(grey[~lost], colour, atol=0.1)
    jittered = painted((120, 60, 60), 200, colour_jitter=0.8)
    assert 140 < ((jittered - colour).abs() > 0.5).any(1).sum() < 180


@pytest.mark.parametrize("height, width, corners", [
    (48, 96, [(0, 0), (0, 24), (0, 48)]), (80, 48, [(0, 0), (16, 0), (32, 0)]), (48, 48, [(0, 0)] * 3)])
def test_three_crops_along_the_longer_side(height, width, corners):
    views = make_views(ClipConfig(frames=3, size=48, test_short_side=48, test_crops=3, **PLAIN))
    out = (views(coordinates(height, width)) * 255).round()
    assert out.shape == (3, 3, 3, 48, 48)
    assert [tuple(v[0, :2, 0, 0].int().tolist()) for v in out] == corners
    single = make_views(ClipConfig(frames=3, size=48, test_short_side=48, **PLAIN))(coordinates(height, width))
    assert torch.equal((single[0] * 255).round(), out[1])


def test_short_side_is_scaled_and_the_aspect_ratio_kept():
    white = torch.full((3, 100, 200, 3), 255, dtype=torch.uint8)
    white[:, :, 100:] = 0
    out = make_views(ClipConfig(frames=3, size=40, test_short_side=50, test_crops=3, **PLAIN))(white)  # 50 x 100 pixels
    assert out.shape == (3, 3, 3, 40, 40)
    assert out[0].min() == 1 and out[2].max() == 0  # the outer crops end before the edge in the middle
    assert out[1, 0, 0, 20].gt(0.5).sum() == 20
