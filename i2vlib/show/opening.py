"""The README's opening figure, from the embedded clips and the measured rows:  python -m i2vlib.show.opening"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from i2vlib.data.mini import TASKS, mini_data
from i2vlib.data.video import read_clip
from i2vlib.experiments import load_results
from i2vlib.show.clips import use_style

FIGURE = Path(__file__).resolve().parents[2] / "notebooks" / "figures" / "opening.png"
STRATEGIES = {"probe-mini-motion": "linear probe", "full-mini-motion": "full fine-tuning",
              "adapters-mini-motion": "linear adapters", "embedding-mini-motion": "adapters, temporal embedding",
              "stdha-mini-motion": "adapters, STDHA", "zeroi2v-mini-motion": "adapters, STDHA, embedding\n(ZeroI2V)"}


def draw_clip(axes: list[Axes]) -> None:
    """Frame t of a clip of the motion task in axes[t]; both of its directions have exactly these frames."""
    folder = mini_data("motion")
    name, label = (folder / "val.txt").read_text().splitlines()[0].rsplit(" ", 1)
    frames = read_clip(folder / name, range(TASKS["motion"].frames))
    margin = (frames.shape[2] - frames.shape[1]) // 2
    for t, axis in enumerate(axes):
        axis.imshow(frames[t, :, margin:frames.shape[2] - margin].numpy())
        axis.set(xticks=[], yticks=[], xlabel=f"t = {t}")
        axis.spines[:].set_visible(False)
    axes[0].set_title(f"One clip: \"{TASKS['motion'].class_names[int(label)]}\"")


def draw_heads(axis: Axes, frames: int = 4) -> None:
    """Which frame each group of heads reads, from every frame: straight for spatial heads, slanted for relocated ones."""
    groups = (("δ = −1", "C1", -1, -0.22), ("δ = 0", "0.55", 0, 0.0), ("δ = +1", "C0", 1, 0.22))
    for name, colour, offset, shift in groups:
        for t in range(frames):
            source = t + offset if 0 <= t + offset < frames else t
            edge = bool(offset) and source == t  # outside the clip: the own frame instead
            style = {"arrowstyle": "-|>", "color": colour, "lw": 1.6, "ls": ":" if edge else "-"}
            axis.annotate("", (t + shift, 0.93), (source + shift / 3, 0.07), arrowprops=style)
        axis.plot([], [], color=colour, label=name)
    axis.scatter(range(frames), [0] * frames, marker="s", s=90, color="0.3")
    axis.scatter(range(frames), [1] * frames, marker="s", s=90, color="0.3")
    axis.set(title="Relocated heads read a neighbour frame (dotted: clip edge)", ylim=(-0.2, 1.2), xlim=(-0.5, frames - 0.5),
             xticks=range(frames), xlabel="frame", yticks=[0, 1])
    axis.set_yticklabels(["keys, values", "queries"])
    axis.legend(loc="upper left", bbox_to_anchor=(1, 0.85))


def draw_accuracy(axis: Axes) -> None:
    """Direction accuracy of each strategy, a point a seed."""
    for row, preset in enumerate(STRATEGIES):
        values = [r["direction"] for r in load_results() if r["preset"] == preset and r["tower"] == "mini"]
        colour = "C0" if preset.startswith(("zeroi2v", "stdha")) else "0.4"
        axis.scatter(values, [row] * len(values), s=60, color=colour, zorder=3)
        axis.text(sum(values) / len(values) - 0.03, row, f"{sum(values) / len(values):.2f}", ha="right", va="center")
    axis.axvline(0.5, color="0.7", ls="--", lw=1, zorder=0)
    axis.set(yticks=range(len(STRATEGIES)), xlim=(0.35, 1.04), ylim=(len(STRATEGIES) - 0.5, -0.5),
             xlabel="direction accuracy on test clips, 3 seeds", title="Blind to order, exactly at chance")
    axis.set_yticklabels(STRATEGIES.values())


def draw_opening() -> None:
    """Write the figure."""
    use_style()
    figure = plt.figure(figsize=(12, 3.4))
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.15, 1.25, 1.35))
    draw_clip(list(left.subplots(1, TASKS["motion"].frames)))
    draw_heads(middle.subplots())
    draw_accuracy(right.subplots())
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    draw_opening()
