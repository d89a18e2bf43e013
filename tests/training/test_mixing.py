"""Blending clips: pixels and labels with the same share, the readable ones only, drawn from the CPU's generator."""

from __future__ import annotations

import pytest
import torch

from i2vlib.training.mixing import mix_clips

B, T, C, H, W, CLASSES = 5, 3, 3, 12, 16, 7
LABELS = torch.tensor([4, 0, 6, 6, 2])
ALL = torch.ones(B)


def clips() -> torch.Tensor:
    return torch.randn(B, T, C, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mix(seed: int, video=None, weight=ALL, **alphas):
    torch.manual_seed(seed)
    return mix_clips(clips() if video is None else video, LABELS, weight, CLASSES, **alphas)


def share(target: torch.Tensor, row: int, other: int) -> float:
    """λ out of a row of targets: what its own label has; it must be its own and its neighbour's alone."""
    expected, own = torch.zeros(CLASSES), target[row, LABELS[row]].item()
    if LABELS[row] == LABELS[other]:
        assert own == pytest.approx(1)
        return float("nan")
    expected[LABELS[row]], expected[LABELS[other]] = own, 1 - own
    assert torch.allclose(target[row], expected, atol=1e-6)
    return own


@pytest.mark.parametrize("seed", range(6))
def test_mixup_is_the_sum_of_a_loop(seed):
    video = clips()
    mixed, target = mix(seed, mixup=0.8)
    lam = share(target, 0, B - 1)
    for i in range(B):
        j = i - 1 if i else B - 1
        for t in range(T):
            assert torch.allclose(mixed[i, t], lam * video[i, t] + (1 - lam) * video[j, t], atol=1e-6)
        assert LABELS[i] == LABELS[j] or share(target, i, j) == pytest.approx(lam, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_puts_one_box_in_all_frames_and_its_share_in_the_labels(seed):
    video = clips()
    mixed, target = mix(seed, cutmix=1.0)
    taken = mixed != video
    box = taken[0, 0, 0]
    assert (taken == box).all()  # of all clips, frames and channels
    rows, columns = box.any(1).nonzero()[:, 0], box.any(0).nonzero()[:, 0]
    assert box.sum() == len(rows) * len(columns)
    if len(rows):
        assert len(rows) == rows[-1] - rows[0] + 1 and len(columns) == columns[-1] - columns[0] + 1
    assert torch.equal(mixed, torch.where(box, video.roll(1, 0), video))
    assert share(target, 0, B - 1) == pytest.approx(1 - box.double().mean().item(), abs=1e-6)


@pytest.mark.parametrize("alphas", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_the_unreadable_are_neither_changed_nor_blended_into_others(alphas):
    video, weight = clips(), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    video[weight == 0] = 1e9
    readable = [0, 2, 4]
    for seed in range(8):
        mixed, target = mix(seed, video, weight, **alphas)
        assert torch.equal(mixed[weight == 0], video[weight == 0])
        assert torch.equal(target[weight == 0], torch.eye(CLASSES)[LABELS[weight == 0]])
        torch.manual_seed(seed)
        alone, shares = mix_clips(video[readable], LABELS[readable], torch.ones(3), CLASSES, **alphas)
        assert torch.equal(mixed[readable], alone) and torch.equal(target[readable], shares)
        assert mixed[readable].abs().max() < 100 and torch.allclose(target.sum(1), torch.ones(B))


def test_with_both_on_each_batch_takes_one_of_them():
    boxes, shares = 0, []
    for seed in range(100):
        mixed, target = mix(seed, mixup=1.0, cutmix=1.0)
        other = (mixed == clips()) | (mixed == clips().roll(1, 0))
        boxes += bool(other.all())  # each pixel out of one clip
        shares.append(target[0, LABELS[0]].item())
    assert 35 < boxes < 65
    assert len(set(shares)) > 60 and min(shares) < 0.1 and max(shares) > 0.9


def test_alpha_is_that_of_the_beta_distribution():
    """The variance of Beta(a, a) is 1 / (4 (2a + 1)). The edge of the picture cuts boxes off, so CutMix only comes near it."""
    for alpha in (0.05, 1.0, 200.0):
        shares = torch.tensor([mix(seed, mixup=alpha)[1][0, LABELS[0]].item() for seed in range(200)])
        assert shares.std().item() == pytest.approx((4 * (2 * alpha + 1)) ** -0.5, rel=0.15)
    small, large = (torch.tensor([mix(seed, cutmix=alpha)[1][0, LABELS[0]].item() for seed in range(200)])
                    for alpha in (0.05, 200.0))
    assert small.min() < 0.15 and (small > 0.99).double().mean() > 0.3 and 0.55 < large.min() < large.max() < 0.9


def test_what_has_nothing_to_be_mixed_with_stays():
    one_hot = torch.eye(CLASSES)[LABELS]
    for weight in (torch.zeros(B), torch.eye(B)[2]):
        mixed, target = mix(0, weight=weight, mixup=1.0)
        assert torch.equal(mixed, clips()) and torch.equal(target, one_hot)
    mixed, target = mix(0)
    assert torch.equal(mixed, clips()) and torch.equal(target, one_hot)


def test_the_result_is_plain_and_the_argument_kept():
    video = clips().float()
    before = video.clone()
    mixed, target = mix(3, video, mixup=1.0)
    assert type(mixed) is type(target) is torch.Tensor and mixed.dtype == target.dtype == torch.float32
    assert torch.equal(video, before) and not torch.equal(mixed, before)
    assert torch.equal(mix(3, video, mixup=1.0)[0], mixed) and not torch.equal(mix(4, video, mixup=1.0)[0], mixed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_what_the_cpu_draws():
    for seed in range(4):
        mixed, target = mix(seed, mixup=0.8, cutmix=1.0)
        torch.manual_seed(seed)
        there, shares = mix_clips(clips().cuda(), LABELS.cuda(), ALL, CLASSES, mixup=0.8, cutmix=1.0)
        assert torch.allclose(there.cpu(), mixed) and torch.allclose(shares.cpu(), target)


@pytest.mark.parametrize("video, label, weight", [
    (torch.zeros(5, 3, 12, 16), LABELS, ALL), (clips(), LABELS[:4], ALL), (clips(), LABELS, ALL[:4])])
def test_shapes_that_do_not_fit_are_named(video, label, weight):
    with pytest.raises(ValueError, match=r"video \(5, .*label .*allowed is \(B,T,3,H,W\), \(B,\) and \(B,\)"):
        mix_clips(video, label, weight, CLASSES, mixup=1.0)
