"""A person's own video as pictures: which frames were taken, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from i2vlib.data.sampling import view_indices
from i2vlib.data.video import VideoFile
from i2vlib.own_video import Prediction
from i2vlib.protocol import ClipConfig
from i2vlib.show.names import finished, plain

THUMBNAILS = 8  # a row holds no more that can still be recognised
WIDTH = 8.0  # inches


def timeline(path: str | Path, samplings: Mapping[str, ClipConfig], *, title: str = "") -> Figure:
    """The video as a bar from its first frame to its last, once for each way of sampling, with marks at the frames it takes.

    Below each bar its frames, joined to their marks; of several temporal views the first one's, and of more than 8 frames 8 of
    them. samplings: a name for each ClipConfig. Returns the figure, closed. Raises VideoError.
    """
    names, rows = list(samplings), []
    with VideoFile(path) as video:
        for name in names:
            indices = view_indices(len(video), samplings[name])
            places = np.linspace(0, len(indices[0]) - 1, min(len(indices[0]), THUMBNAILS)).round().astype(int)
            shown = [(indices[0][t], t) for t in sorted(set(places.tolist()))]
            rows.append((len(video), indices, shown, video.frames([number for number, _ in shown]).numpy()))
    figure, axes = plt.subplots(len(names), 1, squeeze=False, figsize=(WIDTH, 1.75 * len(names) + (0.55 if title else 0.2)))
    for axis, name, row in zip(axes[:, 0], names, rows, strict=True):
        _row(axis, *row)
        axis.set_title(f"{plain(name)}: {_words(row[1])}", fontsize=10, loc="left")
    axis.text(0.5, -1.86, "above each bar: the number of the frame in the file; below: t, its place in the clip",
              transform=axis.get_yaxis_transform(), ha="center", va="top", fontsize=9)
    figure.suptitle(plain(title, 160, 4), ha="left", x=0.01, fontsize=11)
    return finished(figure)


def _row(axis, total: int, indices: list[list[int]], shown: list[tuple[int, int]], pictures: np.ndarray) -> None:
    """The bar at height 0, a mark a frame taken (a colour a view), thumbnails below at even distances."""
    axis.set(xlim=(-0.5, total - 0.5), ylim=(-1.6, 0.35), yticks=[])
    axis.axhspan(-0.08, 0.08, color="0.85", lw=0)
    for view, numbers in enumerate(indices):
        axis.vlines(numbers, -0.16, 0.16, color=f"C{view}", lw=2.2)
    step = min(WIDTH / len(shown), 1.35)  # inches from one thumbnail to the next
    zoom = 0.92 * min(step / pictures.shape[2], 0.85 / pictures.shape[1]) * 72
    places = 0.5 + (np.arange(len(shown)) - (len(shown) - 1) / 2) * step / WIDTH
    for (number, t), place, picture in zip(shown, places, pictures, strict=True):
        box = AnnotationBbox(
            OffsetImage(picture, zoom=zoom), (number, -0.16), xybox=(place, -0.95), frameon=False, pad=0,
            boxcoords=("axes fraction", "data"), arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.8, "relpos": (0.5, 1)})
        axis.add_artist(box)
        axis.text(place, -1.66, f"t = {t}", transform=axis.get_yaxis_transform(), ha="center", va="top", fontsize=8)
    axis.spines[:].set_visible(False)
    axis.xaxis.set_ticks_position("top")
    axis.tick_params(axis="x", length=0, labelsize=8, pad=-2)


def _words(indices: list[list[int]]) -> str:
    numbers = ", ".join(map(str, indices[0][:THUMBNAILS])) + (", ..." if len(indices[0]) > THUMBNAILS else "")
    more = len(indices) - 1
    return f"frames {numbers}" + (f", and {more} more view{'s' * (more > 1)}" if more else "")


def bars(prediction: Prediction, *, top: int = 8, title: str = "") -> Figure:
    """The most probable classes as bars, a dot for each view where there are several, and the entropy beside that of guessing.

    top: how many classes. Returns the figure, closed.
    """
    order = prediction.probabilities.argsort(descending=True, stable=True)[:top].tolist()
    figure, axis = plt.subplots(figsize=(6.5, 0.9 + 0.32 * len(order)))
    values = prediction.probabilities[order].numpy()
    places = np.arange(len(order))
    axis.barh(places, values, color=["C0"] + ["0.7"] * (len(order) - 1), height=0.7)
    if len(prediction.per_view) > 1:
        for view in prediction.per_view[:, order].numpy():
            axis.plot(view, places, "o", color="black", ms=2.5, alpha=0.6)
    for place, value in zip(places, values, strict=True):
        axis.annotate(f"{value:.1%}" if value >= 0.0005 else "< 0.05%", (value, place), (4, 0), textcoords="offset points",
                      va="center", fontsize=9)
    classes = len(prediction.probabilities)
    axis.axvline(1 / classes, color="0.35", ls="--", lw=1)
    axis.set_yticks(places, [plain(prediction.class_names[i]) for i in order])
    axis.invert_yaxis()
    words = f"entropy {prediction.entropy:.2f} nats; all classes alike: {log(classes):.2f}"
    axis.set(xlim=(0, 1.12), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel=f"probability (dashed: guessing, 1/{classes})\n{words}")
    said = f"{plain(prediction.class_names[prediction.best])}, says the model"
    axis.set_title(plain(title, 160, 4) or said, fontsize=11, loc="left")
    return finished(figure)
