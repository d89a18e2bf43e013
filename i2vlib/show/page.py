"""A page of frames and what lies on them: rows at exact places, frames in grey, colours that let them through, one scale."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from i2vlib.show.names import finished, plain

COLUMNS = 8  # frames in a row of the page: 16 and 32 take 2 and 4 rows and stay legible
TOP, LINE, GAP = 0.34, 0.24, 0.07  # inches: title, a line of words, between pictures
VERMILION, BLUE = "#D55E00", "#0072B2"  # of Okabe and Ito, told apart by all colour-blind eyes


class Page:
    """Rows of frames, `columns` in a row, each row `tall` inches with a line between rows; title above, note at the foot.

    A layout engine would fit pictures of a fixed shape and bars of a free one into columns of different widths. size: width of a
    column; left and right: room for words beside the rows; below: room under the last row; all in inches. indent: where the note
    begins.
    """

    def __init__(self, frames: int, columns: int, tall: float, size: float, *, left: float, right: float, below: float = 0.0,
                 title: str = "", note: str = "", indent: float = 0.1):
        title, note = plain(title, 160), plain(note, 200)
        self.columns, self.rows, self.tall, self.size, self.left = columns, ceil(frames / columns), tall, size, left
        self.foot = below + (0.3 if note else 0.05)
        self.high = self.foot + self.rows * (tall + LINE) - LINE + (TOP if title else 0.08)
        self.wide = max(3.4, left + columns * size + right, 0.3 + 0.088 * len(title), indent + 0.2 + 0.066 * len(note))
        fixed = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)  # "none" lasts until the first savefig
        self.figure = plt.figure(figsize=(self.wide, self.high), layout=fixed)
        self.figure.suptitle(title, x=0.1 / self.wide, y=1 - 0.07 / self.high, ha="left", va="top", fontsize=11)
        self.figure.text(indent / self.wide, 0.07 / self.high, note, fontsize=8.5, color="0.3")

    def axes(self, row: int, column: float, up: float, height: float, across: int = 1, width: float | None = None) -> Axes:
        """Axes `up` inches above the row's foot, over `across` columns or `width` inches wide."""
        foot = self.foot + (self.rows - 1 - row) * (self.tall + LINE) + up
        return self.figure.add_axes(((self.left + column * self.size) / self.wide, foot / self.high,
                                     (width or across * self.size) / self.wide, height / self.high))

    def picture(self, row: int, column: float, up: float, height: float, picture: np.ndarray, **style) -> Axes:
        """A frame (H,W,3) of this height in the middle of its column; or a map (H,W), style: its cmap and norm."""
        axis = self.axes(row, column, up, height)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.imshow(picture, **style)
        return axis

    def bars(self, row: int, times: Sequence[int], up: float, height: float, label: str) -> Axes:
        """Axes for bars, one below each frame of the row, named t = ...; the label stands at the same place in every row."""
        axis = self.axes(row, 0, up, height, across=len(times))
        axis.set(xlim=(times[0] - 0.5, times[-1] + 0.5), xticks=times, xticklabels=[f"t = {t}" for t in times])
        axis.tick_params(length=0, labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylabel(label, fontsize=9)
        axis.yaxis.set_label_coords(-0.56 / (self.size * len(times)), 0.5)
        return axis

    def scale(self, colours: ScalarMappable, label: str, up: float, height: float) -> Colorbar:
        """The scale of all maps, at the right of the first row."""
        axis = self.axes(0, self.columns + 0.1, up, height, width=0.13)
        bar = self.figure.colorbar(colours, cax=axis)
        axis.set_facecolor("0.75")  # the maps let grey frames through, and so does their scale
        bar.outline.set_visible(False)
        axis.tick_params(length=0, labelsize=8)
        bar.locator, bar.formatter = plt.MaxNLocator(4), "{x:g}"
        bar.set_label(label, fontsize=8.5)
        return bar

    def done(self) -> Figure:
        """The figure, closed."""
        return finished(self.figure)


def grey(picture: np.ndarray) -> np.ndarray:
    """A frame (H,W,3) without colour, a little paler, so that the map's colour is the only one: uint8."""
    luma = picture @ np.array([0.299, 0.587, 0.114])
    return np.repeat((110 + 0.55 * luma)[..., None], 3, axis=2).astype(np.uint8)


def ramp(*colours: str) -> Colormap:
    """From transparent to one colour, or from one colour over transparent to another."""
    strength = np.linspace(0, 1, 128)
    halves = [np.column_stack([np.tile(to_rgb(colour), (128, 1)), 0.9 * strength]) for colour in colours]
    return ListedColormap(np.concatenate([halves[0][::-1], halves[1]]) if len(halves) == 2 else halves[0])


def lay(axis: Axes, values: np.ndarray, colours: Colormap, norm: Normalize) -> AxesImage:
    """Lay a map (h,w) over all of the picture that the axes hold."""
    return axis.imshow(values, cmap=colours, norm=norm, extent=axis.images[0].get_extent())


def name_row(axis: Axes, words: str, colour: str = "black") -> None:
    """Words at the left of the first picture of a row."""
    axis.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8.5, color=colour)
