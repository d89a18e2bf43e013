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
    """The run in folder `out` over its steps, from its metrics.jsonl: the loss with a running mean, and the learning rate.

    Where validation clips were scored, their top-1 and the step that was kept as the best stand beside the rate.

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
    rates, scored = np.array([r["lr"] for r in rows]), [(line["step"], line["top1"]) for line in lines if "top1" in line]
    if scored:
        best = max(scored, key=lambda pair: pair[1])  # of equal ones the first, as `train` keeps it
        right.plot(steps, rates / rates.max(), color="C1", lw=1, label="learning rate / its largest")
        right.plot(*zip(*scored, strict=True), "o-", color="C2", ms=4, label="top-1")
        right.plot(*best, "*", color="C3", ms=13, label=f"kept: step {best[0]}, {best[1]:.3f}")
        right.set(title="Validation clips", xlabel="optimiser step", ylabel="share", ylim=(0, 1.08))
        right.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.28))  # below: the curves cross the whole picture
    else:
        right.plot(steps, rates, color="C1")
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
