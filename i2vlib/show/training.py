"""What a training run left behind, as figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from i2vlib.show.names import finished, plain
from i2vlib.training.evaluate import Result


def curves(out: str | Path, *, chance: float | None = None) -> Figure:
    """Loss and learning rate over the steps of the run in folder `out`, from its metrics.jsonl; a running mean over the loss.

    chance: the loss of guessing, ln(classes), drawn as a dashed line. Raises FileNotFoundError where there is no run.
    """
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "loss" in line]
    steps, loss = np.array([r["step"] for r in rows]), np.array([r["loss"] for r in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), width_ratios=(2, 1))
    left.plot(steps, loss, color="C0", alpha=0.25, lw=0.8)
    width = max(1, len(loss) // 25)
    if len(loss) >= width:
        mean = np.convolve(loss, np.ones(width) / width, "valid")
        left.plot(steps[width - 1:], mean, color="C0", label=f"mean of {width} steps")
    if chance:
        left.axhline(chance, color="0.4", ls="--", lw=1, label="guessing")
    left.set(title="Training loss", xlabel="optimiser step", ylabel="cross-entropy (nats)", ylim=(0, None))
    left.legend()
    right.plot(steps, [r["lr"] for r in rows], color="C1")
    right.set(title="Warm-up, then cosine", xlabel="optimiser step", ylabel="learning rate", ylim=(0, None))
    return finished(figure)


def confusion(result: Result, names: Sequence[str] = (), *, title: str = "") -> Figure:
    """Rows: the true class; columns: the class predicted; shade: share of the row's clips, written out in up to 12 classes."""
    counts = result.confusion.double()
    share = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    classes = len(share)
    side = min(7.0, 2.2 + 0.42 * classes)
    figure, axis = plt.subplots(figsize=(side + 0.8, side))
    picture = axis.imshow(share, vmin=0, vmax=1, cmap="cividis")
    if classes <= 40:
        labels = [plain(name) for name in names or range(classes)]
        axis.set_xticks(range(classes), labels, rotation=90)
        axis.set_yticks(range(classes), labels)
    if classes <= 12:
        for (i, j), value in np.ndenumerate(share):
            axis.text(j, i, f"{value:.2f}".lstrip("0") if value < 1 else "1", ha="center", va="center", fontsize=8,
                      color="black" if value > 0.55 else "white")
    axis.spines[:].set_visible(False)
    title = plain(title, 160, 4) or f"top-1 {result.top1:.1%} of {len(result.labels)} clips"
    axis.set(title=title, xlabel="predicted", ylabel="true")
    figure.colorbar(picture, label="share of the true class", shrink=0.8)
    return finished(figure)
