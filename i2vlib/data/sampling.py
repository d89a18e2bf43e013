"""Which frames of a video make a clip: pure functions from numbers to frame numbers."""

from __future__ import annotations

import torch

from i2vlib.protocol import ClipConfig


def uniform_indices(total: int, frames: int, *, jitter: torch.Generator | None = None, view: int = 0,
                    views: int = 1) -> list[int]:
    """One frame out of each of `frames` equal segments of a video of `total` frames.

    With a generator `jitter`: a random one of each segment (training). Without: the centre, or with several views the
    same point of every segment, the views' points evenly spaced. A video shorter than the clip repeats frames in place.
    Raises ValueError for counts below 1 or a view out of range.
    """
    _check(total, frames, view, views)
    if jitter is not None:
        offsets = torch.rand(frames, generator=jitter, dtype=torch.float64)
        return ((torch.arange(frames) + offsets) * total / frames).long().clamp(max=total - 1).tolist()
    return [(2 * views * i + 2 * view + 1) * total // (2 * views * frames) for i in range(frames)]


def dense_indices(total: int, frames: int, stride: int, *, generator: torch.Generator | None = None, view: int = 0,
                  views: int = 1) -> list[int]:
    """Every `stride`-th frame from one start.

    With a generator: a random start (training). Without: the view's start; several views are evenly spaced from the
    video's first possible start to its last, one view sits in the middle. A video shorter than the clip's span starts
    at 0 and is played again from its beginning, so that motion keeps its pace. Raises ValueError as above.
    """
    _check(total, frames, view, views)
    if stride < 1:
        raise ValueError(f"stride = {stride}: allowed is 1 or more")
    last = max(total - (frames - 1) * stride - 1, 0)
    if generator is not None:
        start = int(torch.randint(last + 1, (), generator=generator))
    else:
        start = last // 2 if views == 1 else round(last * view / (views - 1))
    return [(start + i * stride) % total for i in range(frames)]


def view_indices(total: int, clip: ClipConfig) -> list[list[int]]:
    """Frame numbers of a protocol's test: `test_clips` lists of `frames` numbers, for a video of `total` frames."""
    views = clip.test_clips
    if clip.sampling == "dense":
        return [dense_indices(total, clip.frames, clip.stride, view=v, views=views) for v in range(views)]
    return [uniform_indices(total, clip.frames, view=v, views=views) for v in range(views)]


def _check(total: int, frames: int, view: int, views: int) -> None:
    for name, value in (("total", total), ("frames", frames), ("views", views)):
        if value < 1:
            raise ValueError(f"{name} = {value}: allowed is 1 or more")
    if not 0 <= view < views:
        raise ValueError(f"view = {view}: allowed is 0 to {views - 1}")
