"""What i2vlib.course.real has measured, as tables: what stands behind each number, and the papers' beside it.

    python -m i2vlib.course.real_tables
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import kendalltau, spearmanr

from i2vlib.config import ModelConfig
from i2vlib.course import real
from i2vlib.course.experiments import PAPER_INTI, in_percent
from i2vlib.course.jobs import load_rows
from i2vlib.measure import multiply_adds
from i2vlib.own_video import wilson
from i2vlib.show.names import finished

# ZeroI2V's Table 2(a), SSv2 top-1 %. Of the channel shifts its text does not say which is the one of KV and which of QKV
PAPER = {"class-token-shift": (61.4,), "channel-shift-kv": (64.5, 64.6), "channel-shift-qkv": (64.5, 64.6), "hr-qkv": (64.8,),
         "stdha": (66.0,)}
RISING = 0.01  # of validation top-1 over the last quarter of the steps, mean over the seeds: more still rises


def measured(name: str, path: Path = real.RESULTS) -> dict[str, list[dict]]:
    """The tested runs of a set by method, one row a seed, without methods that have none. Raises ValueError for none."""
    rows = [row for row in load_rows(path) if row["set"] == name and row["stage"] == "seed" and real.job_of(row)]
    if not rows:
        raise ValueError(f"{name} is not in {path.name} yet: run make experiments-real")
    return {method: found for method in real.METHODS if (found := [row for row in rows if row["method"] == method])}


def tested(path: Path = real.RESULTS) -> list[str]:
    """The sets that have tested runs, in the file's order."""
    return list(dict.fromkeys(row["set"] for row in load_rows(path) if row["stage"] == "seed" and real.job_of(row)))


def results_table(name: str, path: Path = real.RESULTS) -> str:
    """A set's methods as a markdown table under a line that says how many clips were tested and what chance is."""
    runs = measured(name, path)
    columns = {"method": list(runs), "top-1 % (range)": [_spread(rows, "top1") for rows in runs.values()]}
    if name not in real.EMBEDDED:
        columns["each seed, 95 % interval"] = [", ".join(_interval(row["top1"], row["clips"]) for row in rows)
                                               for rows in runs.values()]
    columns["mean, 95 % interval"] = [_interval(_mean(rows, "top1"), rows[0]["clips"]) for rows in runs.values()]
    for key, heading in (("direction", "direction %"), ("informative", "weight on the clean token %")):
        if any(key in row for rows in runs.values() for row in rows):
            columns[f"{heading} (range)"] = [_spread(rows, key) for rows in runs.values()]
    if name == real.CORRUPTED:
        columns["multiply-adds a clip, M"] = [f"{_cost(method):.0f}" for method in runs]
    columns["rate"] = [" or ".join(f"{rate:g}" for rate in sorted({row["rate"] for row in rows})) for rows in runs.values()]
    columns["still rising"] = [_rising(rows) for rows in runs.values()]
    paper = PAPER_INTI if name == real.CORRUPTED else {method: " or ".join(map(str, values)) for method, values in PAPER.items()}
    data = "InTI, K400" if name == real.CORRUPTED else "ZeroI2V Table 2(a), SSv2"
    columns[f"paper ({data}), top-1 %"] = [str(paper.get(method, "")) for method in runs]
    return "\n\n".join([_caption(name, runs), _markdown(list(columns), zip(*columns.values(), strict=True))])


def results_figure(names: Sequence[str], path: Path = real.RESULTS) -> Figure:
    """The sets side by side, a row for each method: a point for each seed, a bar for Wilson's 95 % interval of a share like their
    mean on so many clips, dotted what one answer to all would score. Returns the figure, closed. Raises ValueError for a set
    without tested runs."""
    runs = {name: measured(name, path) for name in names}
    order = [method for method in reversed(real.METHODS) if any(method in found for found in runs.values())]
    figure, axes = plt.subplots(1, len(runs), figsize=(2.1 * len(runs) + 1.2, 0.3 * len(order) + 1), sharey=True, squeeze=False,
                                layout="constrained")
    for axis, (name, found) in zip(axes[0], runs.items(), strict=True):
        for method, rows in found.items():
            y, clips = order.index(method), rows[0]["clips"]
            axis.hlines(y, *wilson(_mean(rows, "top1"), clips), color="0.7", lw=4)
            axis.plot([row["top1"] for row in rows], [y] * len(rows), "o", color="C0", ms=4)
        axis.axvline(rows[0]["chance"], color="0.4", ls=":")
        axis.set(title=f"{name}\n{clips} test clips", xlim=(0, 1.02), xlabel="top-1")
    axes[0][0].set(yticks=range(len(order)), yticklabels=order)
    return finished(figure)


def order_table(names: Sequence[str], path: Path = real.RESULTS) -> str:
    """The operators of Table 2(a), the paper's top-1 beside ours on these sets, as a markdown table, empty where not measured."""
    runs = [measured(name, path) for name in names]
    lines = []
    for method, paper in PAPER.items():
        ours = [f"{100 * _mean(found[method], 'top1'):.1f}" if method in found else "" for found in runs]
        lines.append([method, " or ".join(map(str, paper)), *ours])
    return _markdown(["operator", "the paper, SSv2", *names], lines)


def learning_figure(names: Sequence[str], methods: Sequence[str], path: Path = real.RESULTS) -> Figure:
    """The sets side by side: top-1 on the validation split over the clips trained on, a line a seed. A method not measured on a
    set is not drawn there. Returns the figure, closed. Raises ValueError for a set without tested runs."""
    size = (3.6 * len(names) + 1.4, 2.6)
    figure, axes = plt.subplots(1, len(names), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        found, budget = measured(name, path), real.budget_of(name)
        for i, method in enumerate(methods):
            for row in found.get(method, []):
                looks = [budget.steps * budget.batch * (k + 1) / len(row["val"]) for k in range(len(row["val"]))]
                axis.plot(looks, row["val"], color=f"C{i}", marker="o", ms=3, lw=1.2)
        axis.axhline(next(iter(found.values()))[0]["chance"], color="0.4", ls=":")
        axis.set(title=f"{name}: {budget.steps} steps of {budget.batch}", ylim=(0, 1.02), xlabel="clips trained on")
        axis.set_xlim(left=0)
    axes[0][0].set(ylabel="validation top-1")
    figure.legend(handles=[Line2D([], [], color=f"C{i}", marker="o", ms=3, label=m) for i, m in enumerate(methods)],
                  loc="outside right upper", frameon=False)
    return finished(figure)


def extremes(name: str, methods: Sequence[str], key: str = "top1", path: Path = real.RESULTS) -> tuple[float, float]:
    """The least and the most of a number over the seeds of those of these methods that are measured."""
    values = [row[key] for method, rows in measured(name, path).items() if method in methods for row in rows]
    return min(values), max(values)


def rank_agreement(name: str, path: Path = real.RESULTS) -> dict[str, float]:
    """How the order of Table 2(a)'s operators agrees with that of their mean top-1 on a set.

    operators: how many of the five are measured; spearman, kendall (tau-b): 1 for the same order, -1 for its opposite, nan where
    ours are all alike. The two channel shifts count as equal in the paper. Raises ValueError with fewer than three.
    """
    runs = measured(name, path)
    both = [(fmean(PAPER[method]), _mean(runs[method], "top1")) for method in PAPER if method in runs]
    if len(both) < 3:
        raise ValueError(f"{name}: {len(both)} of the operators of Table 2(a) are measured: an order needs three")
    paper, ours = zip(*both, strict=True)
    if len(set(ours)) == 1:
        return {"operators": len(both), "spearman": math.nan, "kendall": math.nan}
    return {"operators": len(both), "spearman": float(spearmanr(paper, ours).statistic),
            "kendall": float(kendalltau(paper, ours).statistic)}


def _caption(name: str, runs: dict[str, list[dict]]) -> str:
    row, seeds = next(iter(runs.values()))[0], sorted({len(rows) for rows in runs.values()})
    chance = f"; one answer to all would score {100 * row['chance']:.1f} %" if "chance" in row else ""
    return (f"{name}: {row['clips']} test clips, {' or '.join(map(str, seeds))} seed(s){chance}. Intervals are Wilson's, as if "
            "clips were independent; the mean's is as wide as one seed's, since all seeds answer the same clips.")


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] + ["---:"] * (len(head) - 1), *lines])


def _mean(rows: Sequence[dict], key: str) -> float:
    return fmean(row[key] for row in rows)


def _spread(rows: Sequence[dict], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return in_percent(values) if values else ""


def _interval(share: float, clips: int) -> str:
    low, high = wilson(share, clips)
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _rising(rows: Sequence[dict]) -> str:
    gain = fmean(row["val"][-1] - row["val"][-2] for row in rows)
    return f"{'yes' if gain > RISING else 'no'} ({100 * gain:+.1f})"


def _cost(method: str) -> float:
    """Millions of multiply-adds a clip, adapters merged."""
    _, temporal, compression = real.METHODS[method]
    classes = real.photos_corrupted.TASK.classes
    return multiply_adds(ModelConfig(real.TOWER, temporal, frames=real.CLIP.frames, classes=classes, compression=compression,
                                     upper=real.UPPER)) / 1e6


def main(path: Path = real.RESULTS) -> None:
    names = tested(path)
    if not names:
        print(f"{path.name} holds no tested run yet: make experiments-real trains them")
    for name in names:
        print(results_table(name, path), "\n")
        if name != real.CORRUPTED:
            try:
                print("Agreement with Table 2(a):", rank_agreement(name, path), "\n")
            except ValueError as error:
                print(error, "\n")


if __name__ == "__main__":
    main()
