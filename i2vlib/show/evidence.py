"""Evidence as pictures: Grad-CAM on its frames, the drop for each patch, and which frame matters."""

from __future__ import annotations

from math import ceil
from textwrap import wrap

import numpy as np
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from i2vlib.show.clips import pictures
from i2vlib.show.names import plain
from i2vlib.show.page import BLUE, COLUMNS, GAP, LINE, VERMILION, Page, grey, lay, name_row, ramp

FOR, AGAINST = VERMILION, BLUE
LEFT, LETTER = 0.95, 0.064  # inches: labels, a letter of the scale's


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
    # the package moves the least to 0: it says nothing of none
    label = f"evidence for {plain(name)}\n0: least, 1: most in this clip"
    return _maps(clip, cam, ramp(FOR), Normalize(0, 1), "Grad-CAM", label, title, size)


def patch_importance(clip: Tensor, drops: Tensor, *, name: str = "the class", score: str = "logit", title: str = "",
                     size: float = 1.0) -> Figure:
    """The frames, and under each of them the drop for every patch that is painted over, all on one scale around 0.

    drops (T,h,w), as evidence.occlude_patches gives them for the class `name` and this `score`; vermilion: the patch speaks for
    the class, blue: against it. The rest as in `gradcam`. Raises ValueError where clip and drops do not fit, and for no drops or
    nan among them.
    """
    _refuse_nan(drops)
    most = float(drops.abs().max()) or 1.0  # no drop anywhere: an empty map, not a division by 0
    label = f"drop in the {score.replace('_', '-')} of\n{plain(name)} without the patch"
    return _maps(clip, drops, ramp(AGAINST, FOR), Normalize(-most, most), "patches", label, title, size)


def frame_importance(clip: Tensor, drops: Tensor, *, name: str = "the class", score: str = "logit", title: str = "",
                     size: float = 1.0) -> Figure:
    """Which frame matters: the frames, and under each a bar for the drop without it, on one time axis and one scale.

    clip as in `gradcam`; drops (T,), as evidence.occlude_frames gives them for the class `name` and this `score`. Vermilion above
    the zero line: the frame speaks for the class; blue below: against it. Returns the figure, closed. Raises ValueError where the
    two do not fit, and for no drops or nan among them.
    """
    _refuse_nan(drops)
    shown, values = pictures(clip).numpy(), drops.detach().cpu().double().numpy()
    if values.shape != (len(shown),):
        raise ValueError(f"clip of {len(shown)} frames with drops {tuple(drops.shape)}: allowed is one drop a frame, (T,)")
    columns, bars = min(len(shown), COLUMNS), 1.15
    tall = _height(shown, size)
    page = Page(len(shown), columns, tall + GAP + bars, size, left=LEFT, right=0.15, below=LINE, title=title,
                note=f"above 0: speaks for {plain(name)}", indent=LEFT)
    low, high = min(0.0, values.min()), max(0.0, values.max())
    room = 0.22 * (high - low) or 1.0  # for the numbers at the ends of the bars
    for row, start in enumerate(range(0, len(shown), columns)):
        times = np.arange(start, min(start + columns, len(shown)))
        for column, t in enumerate(times):
            page.picture(row, column, bars + GAP, tall, shown[t])
        axis = page.bars(row, times, 0, bars, f"drop in {score.replace('_', '-')}\nwithout t")
        axis.bar(times, values[times], width=0.62, color=[FOR if v >= 0 else AGAINST for v in values[times]])
        axis.axhline(0, color="black", lw=0.9)
        for t in times:
            up = values[t] >= 0
            axis.annotate(_signed(values[t]), (t, values[t]), (0, 3 if up else -3), textcoords="offset points", ha="center",
                          va="bottom" if up else "top", fontsize=8)
        axis.set_ylim(low - room * (low < 0), high + room * (high > 0 or low == 0))
        axis.locator_params(axis="y", nbins=4)
        axis.spines["bottom"].set_visible(False)  # the zero line stands for it
    return page.done()


def _maps(clip: Tensor, maps: Tensor, colours: Colormap, norm: Normalize, row_name: str, label: str, title: str,
          size: float) -> Figure:
    """Rows of frames, under each row its maps on the frames (or on the average of the frames that a map belongs to) in grey.

    A map of more than COLUMNS frames stands under several rows of them.
    """
    shown, maps = pictures(clip).numpy(), maps.detach().cpu().float().numpy()
    if maps.ndim != 3 or not len(maps) or len(shown) % len(maps):
        raise ValueError(f"clip of {len(shown)} frames with maps {maps.shape}: allowed is (T, h, w), or (T', h, w) with T' a "
                         "divisor of T")
    each = len(shown) // len(maps)  # frames a map
    columns = min(len(shown), COLUMNS // each * each or COLUMNS)
    strips, tall = ceil(each / columns), _height(shown, size)  # strips: rows of frames over a row of maps
    block, step = max(each, columns), tall + GAP  # block: frames in these strips
    long = min(strips * step + tall, 2.4)  # of the colour bar
    lines = [line for part in label.split("\n") for line in wrap(part, max(12, int(long / LETTER)), break_on_hyphens=False)]
    page = Page(ceil(len(shown) / block) * columns, columns, strips * step + tall, size, left=LEFT,
                right=0.72 + 0.16 * len(lines), below=LINE, title=title)
    for t, picture in enumerate(shown):
        strip, column = divmod(t % block, columns)
        axis = page.picture(t // block, column, (strips - strip) * step, tall, picture)
        if t % block == 0:
            name_row(axis, "frames")
    for i, values in enumerate(maps):
        first = i * each
        average = grey(shown[first:first + each].mean(0))
        middle = first % block + (min(each, columns) - 1) / 2
        axis = page.picture(first // block, middle, 0, tall, average)
        laid = lay(axis, values, colours, norm)
        axis.set_xlabel(f"t = {first}" if each == 1 else f"t = {first} to {first + each - 1}, fused", fontsize=9)
        if first % block == 0:
            name_row(axis, row_name)
            axis.yaxis.set_label_coords(-(middle * size + 0.05) / (size - GAP), 0.5)  # at the left, not at the picture
    page.scale(laid, "\n".join(lines), 0, long)
    return page.done()


def _refuse_nan(drops: Tensor) -> None:
    if not drops.numel() or not drops.isfinite().all():
        wrong = int((~drops.isfinite()).sum())
        raise ValueError(f"drops {tuple(drops.shape)}, {wrong} of them nan or infinite: allowed is one or more finite numbers")


def _signed(value: float) -> str:
    digits = f"{value:+.0f}" if abs(value) >= 100 else f"{value:+.2g}"
    return digits.replace("-", "−") if value else "0"


def _height(shown: np.ndarray, size: float) -> float:
    return (size - GAP) * shown.shape[1] / shown.shape[2]
