"""The README's opening figure, from the embedded clips and the measured rows:  python -m i2vlib.show.opening"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from i2vlib.data.mini import TASKS, mini_data
from i2vlib.data.video import read_clip
from i2vlib.experiments import load_results
from i2vlib.show.clips import use_style

FIGURE = Path(__file__).resolve().parents[2] / "notebooks" / "figures" / "opening.png"
STRATEGIES = {"probe-mini-motion": "linear probe", "full-mini-motion": "full fine-tuning",
              "adapters-mini-motion": "linear adapters", "embedding-mini-motion": "adapters, temporal embedding",
              "stdha-mini-motion": "adapters, STDHA", "zeroi2v-mini-motion": "adapters, STDHA, embedding\n(ZeroI2V)"}


def draw_twins(axes: np.ndarray) -> None:
    """Two clips of the motion task, a row each: the same frames in opposite order, with opposite labels."""
    folder = mini_data("motion")
    for row, line in zip(axes, (folder / "val.txt").read_text().splitlines(), strict=False):
        name, label = line.rsplit(" ", 1)
        frames = read_clip(folder / name, range(TASKS["motion"].frames))
        margin = (frames.shape[2] - frames.shape[1]) // 2  # the model sees the middle square
        for t, axis in enumerate(row):
            axis.imshow(frames[t, :, margin:frames.shape[2] - margin].numpy())
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_title(f"\"{TASKS['motion'].class_names[int(label)]}\"")
    for t, axis in enumerate(axes[-1]):
        axis.set_xlabel(f"t = {t}")


def draw_heads(axis: Axes, frames: int = 4) -> None:
    """Which frame each group of heads reads, from every frame: straight for spatial heads, slanted for relocated ones."""
    groups = (("δ = −1", "C0", -1, -0.22), ("δ = 0", "0.55", 0, 0.0), ("δ = +1", "C4", 1, 0.22))
    for name, colour, offset, shift in groups:
        for t in range(frames):
            source = t + offset if 0 <= t + offset < frames else t
            edge = bool(offset) and source == t  # outside the clip: the own frame instead
            style = {"arrowstyle": "-|>", "color": colour, "lw": 1.6, "ls": ":" if edge else "-"}
            axis.annotate("", (t + shift, 0.93), (source + shift / 3, 0.07), arrowprops=style)
        axis.plot([], [], color=colour, label=name)
    axis.scatter(range(frames), [0] * frames, marker="s", s=90, color="0.3")
    axis.scatter(range(frames), [1] * frames, marker="s", s=90, color="0.3")
    axis.set(title="Some heads read the frame before or after", ylim=(-0.2, 1.5), xlim=(-0.5, frames - 0.5),
             xticks=range(frames), xlabel="frame (dotted: at the clip's edge a head reads its own)", yticks=[0, 1])
    axis.set_yticklabels(["keys,\nvalues", "queries"])
    axis.legend(loc="upper center", ncols=3, handlelength=1.2, columnspacing=1)


def draw_accuracy(axis: Axes) -> None:
    """Direction accuracy of each strategy, a point a seed."""
    for row, preset in enumerate(STRATEGIES):
        values = [r["direction"] for r in load_results() if r["preset"] == preset and r["tower"] == "mini"]
        colour = "C0" if preset.startswith(("zeroi2v", "stdha")) else "0.4"
        axis.scatter(values, [row] * len(values), s=60, color=colour, zorder=3)
        axis.text(sum(values) / len(values) - 0.03, row, f"{sum(values) / len(values):.2f}", ha="right", va="center")
    axis.axvline(0.5, color="0.7", ls="--", lw=1, zorder=0)
    axis.set(yticks=range(len(STRATEGIES)), xlim=(0.35, 1.04), ylim=(len(STRATEGIES) - 0.5, -0.5),
             xlabel="direction accuracy, a point a seed", title="Blind to order: exactly one half")
    axis.set_yticklabels(STRATEGIES.values())


def draw_opening() -> None:
    """Write the figure."""
    use_style()
    figure = plt.figure(figsize=(12.5, 3.1))
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1, 1.05, 1.45), wspace=0.03)
    draw_twins(left.subplots(2, TASKS["motion"].frames))
    draw_heads(middle.subplots())
    draw_accuracy(right.subplots())
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    draw_opening()
