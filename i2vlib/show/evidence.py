"""Evidence as pictures: Grad-CAM on its frames, the drop for each patch, and which frame matters."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from i2vlib.show.clips import pictures

FOR, AGAINST = "#D55E00", "#0072B2"  # vermilion and blue of Okabe and Ito, told apart by all colour-blind eyes
COLUMNS = 8  # frames in a row of the page: 16 and 32 take 2 and 4 rows and stay legible
LEFT, TOP, LINE, GAP, LETTER = 0.95, 0.34, 0.26, 0.06, 0.065  # inches; the last: a letter of 9 points


def gradcam(clip: Tensor, cam: Tensor, *, name: str = "the class", title: str = "", size: float = 1.0) -> Figure:
    """The frames, and under each of them where the evidence for a class lies, all on one scale.

    clip: (T,H,W,3) uint8 or (T,3,S,S) float as the model sees it; cam (T',h,w), 0 to 1, as evidence.clip_gradcam gives it. With
    T' < T after compression a map belongs to T/T' fused frames and lies on their average; to lay it on frames fused by InTI's
    weights, give these T' frames as the clip. name: the class. size: width of a frame, inches. Returns the figure, closed. Raises
    ValueError where clip and map do not fit or the map leaves 0 to 1.
    """
    if cam.numel() and not 0 <= float(cam.min()) <= float(cam.max()) <= 1:
        raise ValueError(f"a map from {float(cam.min()):.3g} to {float(cam.max()):.3g}: allowed is 0 to 1; signed drops are for "
                         "patch_importance")
    return _maps(clip, cam, _ramp(FOR), Normalize(0, 1), "Grad-CAM", f"evidence for {name}\n(1: most in this clip)", title, size)


def patch_importance(clip: Tensor, drops: Tensor, *, name: str = "the class", score: str = "logit", title: str = "",
                     size: float = 1.0) -> Figure:
    """The frames, and under each of them the drop for every patch that is painted over, all on one scale around 0.

    drops (T,h,w), as evidence.occlude_patches gives them for the class `name` and this `score`; vermilion: the patch speaks for
    the class, blue: against it. The rest as in `gradcam`. Raises ValueError where clip and drops do not fit.
    """
    most = float(drops.abs().max()) or 1.0  # no drop anywhere: an empty map, not a division by 0
    label = f"drop in the {score.replace('_', '-')} of\n{name} without the patch"
    return _maps(clip, drops, _ramp(AGAINST, FOR), Normalize(-most, most), "patches", label, title, size)


def frame_importance(clip: Tensor, drops: Tensor, *, name: str = "the class", score: str = "logit", title: str = "",
                     size: float = 1.0) -> Figure:
    """Which frame matters: the frames, and under each a bar for the drop without it, on one time axis and one scale.

    clip as in `gradcam`; drops (T,), as evidence.occlude_frames gives them for the class `name` and this `score`. Vermilion above
    the zero line: the frame speaks for the class; blue below: against it. Returns the figure, closed. Raises ValueError where the
    two do not fit.
    """
    shown, values = pictures(clip).numpy(), drops.detach().cpu().double().numpy()
    if values.shape != (len(shown),) or not len(shown):
        raise ValueError(f"clip of {len(shown)} frames with drops {tuple(drops.shape)}: allowed is one drop a frame, (T,)")
    columns, bars = min(len(shown), COLUMNS), 1.15
    tall = _height(shown, size)
    figure, place = _page(len(shown), columns, tall + GAP + bars, size, title, right=0.15, note=f"above 0: speaks for {name}")
    low, high = min(0.0, values.min()), max(0.0, values.max())
    room = 0.22 * (high - low) or 1.0  # for the numbers at the ends of the bars
    for row, start in enumerate(range(0, len(shown), columns)):
        times = np.arange(start, min(start + columns, len(shown)))
        for column, t in enumerate(times):
            _picture(place(row, column, bars + GAP, tall), shown[t])
        axis = place(row, 0, 0, bars, across=len(times))
        axis.bar(times, values[times], width=0.62, color=[FOR if v >= 0 else AGAINST for v in values[times]])
        axis.axhline(0, color="black", lw=0.9)
        for t in times:
            up = values[t] >= 0
            axis.annotate(_signed(values[t]), (t, values[t]), (0, 3 if up else -3), textcoords="offset points", ha="center",
                          va="bottom" if up else "top", fontsize=8)
        axis.set(xlim=(times[0] - 0.5, times[-1] + 0.5), xticks=times, xticklabels=[f"t = {t}" for t in times],
                 ylim=(low - room * (low < 0), high + room * (high > 0 or low == 0)))
        axis.locator_params(axis="y", nbins=4)
        axis.tick_params(length=0, labelsize=9)
        axis.tick_params("y", labelsize=8)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_ylabel(f"drop in {score.replace('_', '-')}\nwithout t", fontsize=9)
        axis.yaxis.set_label_coords(-0.57 / (size * len(times)), 0.5)  # the same in every row, whatever the numbers
    plt.close(figure)
    return figure


def _maps(clip: Tensor, maps: Tensor, colours: Colormap, norm: Normalize, row_name: str, label: str, title: str,
          size: float) -> Figure:
    """Rows of frames, under each row its maps on the frames (or on the average of the frames that a map belongs to) in grey."""
    shown, maps = pictures(clip).numpy(), maps.detach().cpu().float().numpy()
    if maps.ndim != 3 or not len(maps) or len(shown) % len(maps):
        raise ValueError(f"clip of {len(shown)} frames with maps {maps.shape}: allowed is (T, h, w), or (T', h, w) with T' a "
                         "divisor of T")
    each = len(shown) // len(maps)  # frames a map
    columns = min(len(shown), max(each, COLUMNS // each * each))
    tall = _height(shown, size)
    long = min(2 * tall + GAP, 2.4)  # of the colour bar
    lines = [line for part in label.split("\n") for line in wrap(part, max(12, int(long / LETTER)), break_on_hyphens=False)]
    figure, place = _page(len(shown), columns, 2 * tall + GAP, size, title, right=0.72 + 0.16 * len(lines))
    for t, picture in enumerate(shown):
        axis = _picture(place(t // columns, t % columns, tall + GAP, tall), picture)
        if t % columns == 0:
            axis.set_ylabel("frames", rotation=0, ha="right", va="center", fontsize=9)
    for i, values in enumerate(maps):
        group, first = shown[i * each:(i + 1) * each], i * each
        axis = _picture(place(first // columns, first % columns + (each - 1) / 2, 0, tall), _grey(group))
        height, width = group.shape[1:3]
        picture = axis.imshow(values, cmap=colours, norm=norm, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axis.set_xlabel(f"t = {first}" if each == 1 else f"t = {first} to {first + each - 1}, fused", fontsize=9)
        if first % columns == 0:
            axis.set_ylabel(row_name, rotation=0, ha="right", va="center", fontsize=9)
            axis.yaxis.set_label_coords(-((each - 1) / 2 * size + 0.05) / (size - GAP), 0.5)  # at the left, not at the picture
    bar = figure.colorbar(picture, cax=place(0, columns + 0.1, 0, long, width=0.13))
    bar.ax.set_facecolor("0.75")  # the maps let grey frames through, and so does their scale
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
    bar.locator, bar.formatter = plt.MaxNLocator(4), "{x:g}"
    bar.set_label("\n".join(lines), fontsize=9)
    plt.close(figure)
    return figure


def _page(frames: int, columns: int, tall: float, size: float, title: str, right: float,
          note: str = "") -> tuple[Figure, Callable[..., Axes]]:
    """A page of rows, `tall` inches each and a line for the time below, and what places axes on it, exactly; a note at its foot.

    A layout engine would fit pictures of a fixed shape and bars of a free one into columns of different widths.
    place(row, column, up, height, across=1, width=None): `up` inches above the row's foot, over `across` columns.
    """
    rows, top, bottom = ceil(frames / columns), TOP if title else 0.08, 0.26 if note else 0.06
    wide, high = max(3.4, LEFT + columns * size + right, LEFT + 1.2 * LETTER * len(note)), top + rows * (tall + LINE) + bottom
    figure = plt.figure(figsize=(wide, high), layout="none")
    figure.suptitle(title, x=0.1 / wide, y=1 - 0.07 / high, ha="left", va="top", fontsize=11)
    figure.text(LEFT / wide, 0.07 / high, note, fontsize=9, color="0.3")

    def place(row: int, column: float, up: float, height: float, across: int = 1, width: float | None = None) -> Axes:
        foot = high - top - (row + 1) * (tall + LINE) + LINE + up
        return figure.add_axes(((LEFT + column * size) / wide, foot / high, (width or across * size) / wide, height / high))

    return figure, place


def _picture(axis: Axes, picture: np.ndarray) -> Axes:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.imshow(picture)
    return axis


def _signed(value: float) -> str:
    digits = f"{value:+.0f}" if abs(value) >= 100 else f"{value:+.2g}"
    return digits.replace("-", "−") if value else "0"


def _height(shown: np.ndarray, size: float) -> float:
    return (size - GAP) * shown.shape[1] / shown.shape[2]


def _grey(group: np.ndarray) -> np.ndarray:
    """The average of frames (g,H,W,3) without colour, a little paler, so that the map's colour is the only one."""
    luma = group.mean(0) @ np.array([0.299, 0.587, 0.114])
    return np.repeat((110 + 0.55 * luma)[..., None], 3, axis=2).astype(np.uint8)


def _ramp(*colours: str) -> Colormap:
    """From transparent to one colour, or from one colour over transparent to another."""
    strength = np.linspace(0, 1, 128)
    halves = [np.column_stack([np.tile(to_rgb(colour), (128, 1)), 0.9 * strength]) for colour in colours]
    return ListedColormap(np.concatenate([halves[0][::-1], halves[1]]) if len(halves) == 2 else halves[0])
