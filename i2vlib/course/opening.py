"""The README's opening figure and animation, from the embedded clips, the measured rows and the shipped checkpoint.

    python -m i2vlib.course.opening     -> notebooks/figures/opening.png, opening.gif
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from i2vlib.course.experiments import load_results
from i2vlib.course.ship import shipped
from i2vlib.data.mini import TASKS, mini_data, object_place
from i2vlib.data.video import read_clip
from i2vlib.insight.attention import attention_weights, frame_read, on_place_read, query_maps
from i2vlib.show.attention import MAP, OTHER, OWN, save_animation
from i2vlib.show.clips import pictures, signed, use_style
from i2vlib.show.page import GAP, LINE, Page, grey, lay

FIGURE = Path(__file__).resolve().parents[2] / "notebooks" / "figures" / "opening.png"
ANIMATION = FIGURE.with_suffix(".gif")
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
    """Direction accuracy of each strategy, one point for each seed."""
    for row, preset in enumerate(STRATEGIES):
        values = [r["direction"] for r in load_results() if r["preset"] == preset and r["tower"] == "mini"]
        colour = "C0" if preset.startswith(("zeroi2v", "stdha")) else "0.4"
        axis.scatter(values, [row] * len(values), s=60, color=colour, zorder=3)
        axis.text(sum(values) / len(values) - 0.03, row, f"{sum(values) / len(values):.2f}", ha="right", va="center")
    axis.axvline(0.5, color="0.7", ls="--", lw=1, zorder=0)
    axis.set(yticks=range(len(STRATEGIES)), xlim=(0.35, 1.04), ylim=(len(STRATEGIES) - 0.5, -0.5),
             xlabel="direction accuracy, one point for each seed", title="Blind to order: exactly one half")
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


# ---- the animation ----

@dataclass(frozen=True)
class Head:
    """A head of the shipped checkpoint: block and head from 0, its offset, its class-token maps of all clips (n,T,H,W), on_place:
    their mean share on the object in the frame that the head reads, over the frames t whose t + offset lies in the clip."""

    block: int
    head: int
    offset: int
    maps: Tensor
    on_place: float


def clearest_heads() -> tuple[Head, Head, Tensor]:
    """Of the shipped checkpoint's spatial heads, and of its relocated ones, the one that looks at the object most; the clips.

    Measured on all 384 test clips of the motion task.
    """
    model, clips, _, _ = shipped("motion")
    offsets, place = model.config.temporal.offsets, object_place(clips)
    with torch.no_grad(), attention_weights(model) as weights:
        model(clips)
    maps = [query_maps(w) for w in weights]  # (n,T,h,8,8) a block
    share = torch.stack([on_place_read(m, place, offsets).nanmean((0, 1)) for m in maps])  # (blocks,h)
    moved = torch.tensor(offsets) != 0

    def best(allowed: Tensor) -> Head:
        block, head = divmod(int(share.masked_fill(~allowed, -1).argmax()), len(offsets))
        return Head(block, head, offsets[head], maps[block][:, :, head], float(share[block, head]))

    return best(~moved), best(moved), clips


def heads_title(offset: int) -> str:
    """What the animation shows, of a relocated head of this offset."""
    where = {1: "the next", -1: "the one before"}.get(offset, f"frame t{signed(offset)}")
    return f"ZeroI2V: a spatial head finds the object in its own frame, a relocated head in {where}"


def draw_moment(clip: Tensor, heads: Sequence[Head], number: int, t: int, size: float = 2.35) -> Figure:
    """Frame t of test clip `number` (T,3,48,48), and what a spatial and a relocated head look at, on the frame each reads."""
    shown, inner, (spatial, relocated) = pictures(clip).numpy(), size - GAP, heads
    note = "; ".join(f"{kind}: block {head.block + 1}, head {head.head}, {head.on_place:.2f} on the object" for kind, head in
                     (("Spatial", spatial), (f"relocated, δ = {signed(relocated.offset)}", relocated)))
    page = Page(3, 3, inner + LINE, size, left=0.1, right=1.05, note=f"{note} (mean over 384 test clips)",
                title=heads_title(relocated.offset))
    page.picture(0, 0, 0, inner, shown[t]).set_title(f"frame t = {t} asks", fontsize=10, loc="center", pad=3)
    for column, (kind, head) in enumerate((("spatial head", spatial), ("relocated head", relocated)), 1):
        read, most = frame_read(t, head.offset, len(shown)), float(head.maps[number].max())
        axis, colour = page.picture(0, column, 0, inner, grey(shown[read])), OTHER if read != t else OWN
        lay(axis, head.maps[number, t].numpy() / most, *MAP)
        axis.spines[:].set(visible=True, color=colour, linewidth=2.5 if read != t else 0.8)
        end = " (end)" if head.offset and read == t else ""  # no next frame: its own
        axis.set_title(f"{kind} reads t = {read}{end}", fontsize=10, loc="center", pad=3, color=colour)
    key = "share of the class token's attention\n(1: the head's most in this clip)"
    page.scale(ScalarMappable(MAP[1], MAP[0]), key, 0, inner)
    return page.done()


def draw_animation(number: int = 0) -> None:
    """Write the animation: a picture a frame of test clip `number`, the upper one of the opening figure."""
    use_style()
    *heads, clips = clearest_heads()
    save_animation([draw_moment(clips[number], heads, number, t) for t in range(clips.shape[1])], ANIMATION, fps=0.8)


def main() -> None:
    draw_opening()
    draw_animation()


if __name__ == "__main__":
    main()
