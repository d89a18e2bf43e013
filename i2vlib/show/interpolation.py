"""InTI's weights as pictures: at each site, followed through the sites, and the frames that they fuse into."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from torch import Tensor

from i2vlib.compression.weights import cascade, fuse_frames, to_pixels
from i2vlib.show.clips import pictures

WEIGHT_MAP = "PuOr"  # purple above the mean's weight, orange below; told apart by all colour-blind eyes


def interpolation(clip: Tensor, maps: Sequence[Tensor], *, title: str = "", size: float = 1.25) -> Figure:
    """One clip, the weights of every site, the weight of each input frame in the last one, and what is fused by them.

    clip (T,3,S,S) float, as the model sees it; maps: (1,T,N), (1,T/2,N), ... as compression.weights.interpolation_weights gives
    them, on a square grid of patches. Below stand the fused frames beside the plain average, drawn from the pixels. size: width
    of a frame, inches. Returns the figure, closed. Raises ValueError where maps and clip do not fit.
    """
    frames, side = len(clip), clip.shape[-1]
    if not maps or maps[0].shape[:2] != (1, frames):
        raise ValueError(f"maps {[tuple(m.shape) for m in maps]} of a clip of {frames} frames: allowed is (1, {frames}, N) first")
    maps = [m.detach().cpu().float() for m in maps]
    grid = (round((maps[0].shape[2] - 1) ** 0.5),) * 2
    together, left = cascade(maps), maps[-1].shape[1] // 2
    rows = [("frames", pictures(clip), None)]
    rows += [(f"weights at\nsite {i}", to_pixels(m, grid, (side, side))[0], 0.5) for i, m in enumerate(maps, 1)]
    if len(maps) > 1:
        rows.append((f"weight in the\n{'last frame' if left == 1 else f'last {left} frames'}",
                     to_pixels(together, grid, (side, side))[0], left / frames))
    figure = plt.figure(figsize=(size * frames + 2.2, size * (len(rows) + 1) + 0.5))
    cells = figure.add_gridspec(len(rows) + 1, 2 * frames)
    for r, (label, shown, neutral) in enumerate(rows):
        axes = _row(figure, cells, r, shown, label, neutral)
        if neutral:
            bar = figure.colorbar(axes[0].images[0], ax=axes, pad=0.01, aspect=12, ticks=[0, neutral, 1], panchor=False)
            bar.ax.set_yticklabels(["0", f"{neutral:g}, the mean's".replace("0.", "."), "1"], fontsize=8)
    _fused(figure, cells, len(rows), clip, together, left, grid)
    figure.suptitle(title, ha="left", x=0.01, fontsize=11)
    plt.close(figure)
    return figure


def _row(figure: Figure, cells, r: int, shown: Tensor, label: str, neutral: float | None) -> list:
    """Pictures side by side over the frames that they stand for; in weight maps the mean's weight has the middle colour."""
    each, axes = cells.ncols // len(shown), []
    style = {} if neutral is None else {"cmap": WEIGHT_MAP, "norm": TwoSlopeNorm(neutral, 0, 1)}
    for t, picture in enumerate(shown):
        axis = figure.add_subplot(cells[r, t * each:(t + 1) * each], xticks=[], yticks=[])
        axis.spines[:].set(visible=neutral is not None, color="0.75", linewidth=0.5)  # an even map is as white as the page
        axis.imshow(picture.numpy(), **style)
        if r == 0:
            axis.set_title(f"t = {t}", fontsize=9, loc="center")
        axes.append(axis)
    axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return axes


def _fused(figure: Figure, cells, r: int, clip: Tensor, together: Tensor, left: int, grid: tuple[int, int]) -> None:
    """The fused frames, then the plain averages of the same groups."""
    average = clip.unflatten(0, (left, -1)).mean(1)
    fused = fuse_frames(clip[None].cpu().float(), together, grid, left)[0]
    half = cells.ncols // 2
    for start, label, shown in ((0, "fused by its weights", fused), (half, "plain average", average)):
        each = max(1, half // left)
        for i, picture in enumerate(pictures(shown)):
            axis = figure.add_subplot(cells[r, start + i * each:start + (i + 1) * each], xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.imshow(picture.numpy())
            if i == 0:
                axis.set_title(label, fontsize=9, loc="left")
