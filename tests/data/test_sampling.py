"""Frame numbers against small cases worked out by hand and against the definition, frame by frame."""

from __future__ import annotations

import pytest
import torch

from i2vlib.data.sampling import dense_indices, uniform_indices, view_indices
from i2vlib.protocol import ClipConfig


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_uniform_by_hand():
    assert uniform_indices(8, 4) == [1, 3, 5, 7]
    assert uniform_indices(9, 3) == [1, 4, 7]  # the middle of three
    assert uniform_indices(4, 4) == [0, 1, 2, 3]  # a clip as long as the video is the video
    assert uniform_indices(3, 6) == [0, 0, 1, 1, 2, 2]
    assert uniform_indices(1, 3) == [0, 0, 0]


@pytest.mark.parametrize("total, frames", [(4, 4), (100, 8), (37, 16), (5, 8), (1, 4)])
def test_uniform_training_takes_one_frame_of_each_segment(total, frames):
    seen = [set() for _ in range(frames)]
    for seed in range(300):
        for i, index in enumerate(uniform_indices(total, frames, jitter=rng(seed))):
            assert int(i * total / frames) <= index < max((i + 1) * total / frames, i * total / frames + 1)
            seen[i].add(index)
    if total == 37:  # segments of 2.3 frames: each frame of each segment comes up
        assert set().union(*seen) == set(range(37))
    assert total > frames or all(len(s) <= 2 for s in seen)


def test_uniform_views_are_evenly_spaced_in_every_segment():
    views = [uniform_indices(64, 4, view=v, views=4) for v in range(4)]
    assert views == [[2 + 4 * v + 16 * i for i in range(4)] for v in range(4)]


def test_dense_by_hand():
    assert dense_indices(300, 4, 16) == [125, 141, 157, 173]  # 49 frames in the middle of 300
    assert [dense_indices(300, 8, 16, view=v, views=3)[0] for v in range(3)] == [0, 94, 187]
    assert dense_indices(300, 8, 16, view=2, views=3)[-1] == 299
    assert dense_indices(5, 4, 3) == [0, 3, 1, 4]  # short: played again


def test_dense_training_starts_everywhere_and_stays_inside():
    starts = set()
    for seed in range(400):
        clip = dense_indices(60, 4, 16, generator=rng(seed))
        assert clip == [clip[0] + 16 * i for i in range(4)] and clip[-1] < 60
        starts.add(clip[0])
    assert starts == set(range(12))


def test_the_generator_alone_decides():
    assert uniform_indices(100, 8, jitter=rng(3)) == uniform_indices(100, 8, jitter=rng(3))
    assert uniform_indices(100, 8, jitter=rng(3)) != uniform_indices(100, 8, jitter=rng(4))
    assert dense_indices(300, 8, 16, generator=rng(3)) == dense_indices(300, 8, 16, generator=rng(3))


def test_the_views_of_a_protocol_by_hand():
    assert view_indices(8, ClipConfig(4)) == [[1, 3, 5, 7]]
    assert view_indices(8, ClipConfig(2, test_clips=2)) == [[1, 5], [3, 7]]
    assert view_indices(10, ClipConfig(2, "dense", 3, test_clips=3)) == [[0, 3], [3, 6], [6, 9]]


@pytest.mark.parametrize("call, message", [
    (lambda: uniform_indices(0, 4), "total = 0"),
    (lambda: uniform_indices(8, 0), "frames = 0"),
    (lambda: dense_indices(8, 4, 0), "stride = 0"),
    (lambda: dense_indices(8, 4, 1, view=3, views=3), "view = 3: allowed is 0 to 2"),
])
def test_impossible_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
