"""Clips as film strips: frames in a row, time on the axis."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from i2vlib.config import TowerConfig
from i2vlib.data.transforms import unnormalised
from i2vlib.show.names import finished, plain
from i2vlib.show.page import COLUMNS

STYLE = Path(__file__).resolve().parents[1] / "assets" / "course.mplstyle"


def use_style() -> None:
    """Draw what follows in the course's style: colour-blind-safe colours, titles on the left, no clutter."""
    plt.style.use(STYLE)


def film(clips: Tensor | Sequence[Tensor], *, title: str = "", rows: Sequence[str] = (), frames: Sequence[str] = (),
         size: float = 1.25) -> Figure:
    """Draw one clip or several as rows of frames, COLUMNS of them in a row: the first ones of each clip, the next of each, ...

    clips: one clip or a sequence of clips, each (T,H,W,3) uint8 as decoded, or (T,3,H,W) float as the model sees it (CLIP's
    normalisation is undone; of other towers give pictures(clip, tower)). rows: a label for each clip; frames: a label for each
    time, "t = 0", "t = 1", ... if left out. size: width of a frame, inches. Returns the figure, closed, so that a notebook
    shows it once. Raises ValueError for other shapes, for nothing to draw, and where rows are not one a clip.
    """
    strips = [pictures(c) for c in ([clips] if isinstance(clips, Tensor) and clips.ndim == 4 else clips)]
    if not strips or not all(len(s) for s in strips) or len(rows) not in (0, len(strips)):
        raise ValueError(f"clips of {[len(s) for s in strips]} frames with {len(rows)} rows: allowed is one clip or more, of a "
                         "frame or more each, and one row a clip, or none")
    longest, tall = max(len(s) for s in strips), size * strips[0].shape[1] / strips[0].shape[2]
    columns, parts = min(longest, COLUMNS), ceil(longest / COLUMNS)
    labels = list(frames) or [f"t = {t}" for t in range(longest)]
    width = size * columns + (1.4 if rows else 0.2)
    height = (tall * len(strips) + 0.25) * parts + (0.5 if title else 0.15)
    figure, axes = plt.subplots(len(strips) * parts, columns, squeeze=False, figsize=(width, height), layout="constrained")
    for (row, column), axis in np.ndenumerate(axes):
        part, r = divmod(row, len(strips))
        t = part * columns + column
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if t < len(strips[r]):
            axis.imshow(strips[r][t].numpy())
        if r == len(strips) - 1 and t < len(labels):
            axis.set_xlabel(plain(labels[t], 40, 6))
        if rows and column == 0:
            axis.set_ylabel(plain(rows[r], 40, 3), rotation=0, ha="right", va="center")
    figure.suptitle(plain(title, 160, 4), ha="left", x=0.01, fontsize=11)
    return finished(figure)


def pictures(clip: Tensor, tower: TowerConfig | None = None) -> Tensor:
    """(T,H,W,3) uint8 out of either layout; of a float clip the tower's normalisation is undone, CLIP's without a tower."""
    if clip.ndim == 4 and clip.shape[-1] == 3 and clip.dtype == torch.uint8:
        return clip
    if clip.ndim == 4 and clip.shape[1] == 3 and clip.is_floating_point():
        clip = unnormalised(clip.detach().cpu().float(), tower)
        return (clip.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    raise ValueError(f"clip {tuple(clip.shape)} {clip.dtype}: allowed is (T, H, W, 3) uint8 or (T, 3, H, W) float")


def frames_fused(frames: np.ndarray, count: int) -> np.ndarray:
    """Frames (T,H,W,3) uint8 averaged in `count` groups of neighbours: how frames behind a site are drawn."""
    if count == len(frames):
        return frames
    return frames.reshape(count, -1, *frames.shape[1:]).mean(1).round().astype(np.uint8)


def signed(offset: int) -> str:
    """An offset in frames in words: -1 as "−1", 1 as "+1", 0 as "0"."""
    return f"{offset:+d}".replace("-", "−") if offset else "0"
