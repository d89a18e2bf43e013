"""InTI's weights as pictures: at each site, followed through the sites, and the frames that they fuse into."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from torch import Tensor

from i2vlib.compression.weights import cascade, fuse_frames, to_pixels
from i2vlib.config import TowerConfig
from i2vlib.insight.attention import grid_side
from i2vlib.show.clips import pictures
from i2vlib.show.page import COLUMNS, GAP, LINE, Page, name_row

WEIGHT_MAP = "PuOr"  # purple above the mean's weight, orange below; told apart by all colour-blind eyes
LEFT, RIGHT, WIDEST = 1.0, 1.45, 10.0  # inches: labels, scales, the frames of a row at most


def interpolation(clip: Tensor, maps: Sequence[Tensor], *, tower: TowerConfig | None = None, title: str = "",
                  size: float = 1.25) -> Figure:
    """One clip, the weights of every site, the weight of each input frame in the last one, and what is fused by them.

    clip (T,3,S,S) float, as the model sees it; maps: (1,T,N), (1,T/2,N), ... as compression.weights.interpolation_weights gives
    them, on a square grid of patches; tower: the model's; it says how the clip was normalised (without one: as CLIP's) and how
    many registers there are, which have no place in them. Every map stands under the frames that it stands for, and at the foot
    each fused frame beside the plain average, drawn from the pixels. COLUMNS frames are in a row, or all that are fused into
    one where these are more. size: width of a frame, inches; less where a row would be wider than WIDEST. Returns the figure,
    closed. Raises ValueError where maps and clip do not fit.
    """
    frames = len(clip)
    if not maps or maps[0].shape[:2] != (1, frames):
        raise ValueError(f"maps {[tuple(m.shape) for m in maps]} of a clip of {frames} frames: allowed is (1, {frames}, N) first")
    maps = [m.detach().cpu().float() for m in maps]
    together, left = cascade(maps), maps[-1].shape[1] // 2
    registers = tower.registers if tower else 0
    group, grid, rows = frames // left, (grid_side(maps[0].shape[2], registers),) * 2, [("frames", clip, None)]
    rows += [(f"weights at\nsite {i}", m, 0.5) for i, m in enumerate(maps, 1)]
    if len(maps) > 1:
        rows.append((f"weight in the\n{'last frame' if left == 1 else f'last {left} frames'}", together, left / frames))
    columns = min(frames, COLUMNS // group * group or group)
    size = min(size, WIDEST / columns)
    page = Page(frames, columns, (len(rows) + 1) * size + 2 * LINE - GAP, size, left=LEFT, right=RIGHT, title=title)
    for r, (label, shown, neutral) in enumerate(rows):
        up = (len(rows) - r) * size + LINE
        shown = to_pixels(shown, grid, clip.shape[-2:], registers)[0] if neutral else pictures(shown, tower)
        axes = _draw(page, up, frames // len(shown), shown, label, neutral)
        if r == 0:
            for t, axis in enumerate(axes):
                axis.set_title(f"t = {t}" if size > 0.5 else str(t), fontsize=9, loc="center", pad=3)
        if neutral:
            bar = page.scale(axes[0].images[0], "", up, size - GAP)
            bar.set_ticks([0, neutral, 1], labels=["0", f"{neutral:g}, the mean's".replace("0.", "."), "1"])
            for number, side in ((0, "bottom"), (-1, "top")) if size > 0.5 else ():  # beside the bar, not over the next row's
                bar.ax.get_yticklabels()[number].set_va(side)
    fused = fuse_frames(clip[None].detach().cpu().float(), together, grid, left, registers)[0]
    _draw(page, 0, group, pictures(fused, tower), "fused", words="by its weights", shift=-group / 4)
    _draw(page, 0, group, pictures(clip.unflatten(0, (left, -1)).mean(1), tower), words="plain average", shift=group / 4)
    return page.done()


def _draw(page: Page, up: float, each: int, shown: Tensor, label: str = "", neutral: float | None = None, *, words: str = "",
          shift: float = 0.0) -> list[Axes]:
    """A row of pictures, each under the middle of the `each` frames that it stands for, or `shift` columns right of it.

    neutral: of weight maps the mean's weight, which has the middle colour; words: above each picture.
    """
    axes, style = [], {} if neutral is None else {"cmap": WEIGHT_MAP, "norm": TwoSlopeNorm(neutral, 0, 1)}
    for i, picture in enumerate(shown):
        row, first = divmod(i * each, page.columns)
        middle = (each - 1) / 2 + shift
        axis = page.picture(row, first + middle, up, page.size - GAP, picture.numpy(), **style)
        axis.spines[:].set(visible=neutral is not None, color="0.75", linewidth=0.5)  # an even map is as white as the page
        axis.set_title(words, fontsize=min(9, 4.6 * each * page.size), loc="left", pad=3)  # no wider than half of the frames
        if first == 0:
            name_row(axis, label)
            axis.yaxis.set_label_coords(-(middle * page.size + 0.05) / (page.size - GAP), 0.5)  # at the page's left
        axes.append(axis)
    return axes
