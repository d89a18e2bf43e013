"""The tables of both papers, what of them is measured here, and how far the orders agree.

    python -m i2vlib.course.tables          all of them as text

A table is a question, the paper's numbers by method, and the tasks of i2vlib.course.grid on which it is asked here.
What is measured lies in notebooks/results/tables.csv (`make tables`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from i2vlib.presets import PRESETS
from i2vlib.show.names import finished

RESULTS = Path(__file__).resolve().parents[2] / "notebooks" / "results" / "tables.csv"
FULL = RESULTS.with_name("full")  # folders of runs on the papers' data: settings.json and metrics.json of notebooks 04 and 06
TEXT = ("task", "method", "stage", "config", "torch", "machine")  # columns; the others are numbers


@dataclass(frozen=True)
class Table:
    """One table of a paper. rows: its top-1 in % by the method's name here, None where it has no number for it.

    tasks: where it is asked here, none if it cannot be. presets: the names of its rows at full size, {} for the method.
    reference: the row that others are compared with. note: what is to be said of it.
    """

    question: str
    paper: str
    rows: Mapping[str, float | None]
    tasks: tuple[str, ...] = ()
    presets: str = "{}-b16-8f-ssv2"
    reference: str = "stdha"
    note: str = ""

    def preset(self, method: str) -> str:
        """The preset of a row at full size; "" where there is none."""
        kind, _, variant = method.partition("-")  # InTI's rows have UniFormerV2's modules, "+", where it compares
        names = (f"{kind}+-{variant}", f"{method}+", method)
        return next((full for name in names if (full := self.presets.format(name)) in PRESETS), "")


MOTION = ("mini-motion", "photos-one")
JUNK = ("mini-corrupted", "photos-corrupted")


def _zeroi2v() -> dict[str, Table]:
    ssv2 = "SSv2, ViT-B/16, 8 frames"
    return {
        "ZeroI2V 2(a)": Table("Which operator over time?", ssv2, {
            "adapters": None, "class-token-shift": 61.4, "channel-shift-qkv": 64.5, "channel-shift-kv": 64.6, "hr-qkv": 64.8,
            "patch-shift": None, "stdha": 66.0}, (*MOTION, "photos-two-pan"),
            note="The text does not say which of the two channel shifts is the one of KV: 64.5 and 64.6."),
        "ZeroI2V 2(b)": Table("How many temporal heads?", ssv2, {
            "stdha-heads-1": 64.8, "stdha": 66.0, "stdha-heads-4": 65.6, "stdha-heads-6": 65.6}, MOTION,
            note="Of 12 heads; of 8 here, and of the real tower's 6."),
        "ZeroI2V 2(c)": Table("How many frames does a layer see?", ssv2, {
            "stdha-field-2": 64.7, "stdha": 66.0, "stdha-field-4": 65.5, "stdha-field-5": 65.7}, ("mini-blink",)),
        "ZeroI2V 2(d)": Table("How wide is an adapter?", ssv2, {
            "stdha-ratio-0.0625": 64.2, "stdha-ratio-0.125": 65.0, "stdha": 66.0, "stdha-ratio-0.5": 65.8}, MOTION),
        "ZeroI2V 3": Table("What is trained?", ssv2, {
            "probe-stdha": 20.0, "full-stdha": 63.2, "heads": 59.6, "st-adapter-4": 66.2, "st-adapter-2-half": 65.8,
            "lora-qv": 64.2, "lora-qkvo": 65.0, "lora-qv-mlp": 64.3, "lora-qv-mlp-6th": 65.6, "lora-6": 65.0, "lora-6-6th": 65.5,
            "gelu-4-8th": 65.6, "gelu-2": 64.6, "gelu-3": 66.1, "gelu-4": 66.1, "linear-4-8th": 65.0, "linear-2": 64.4,
            "linear-3": 65.2, "stdha": 66.0, "linear-6": 66.3, "linear-6-6th": 66.2}, ("mini-motion", "mini-motion-few"),
            note="All rows with STDHA; stdha has four linear adapters a block. A name ends in the width of the bottleneck where "
                 "it is not a quarter of the tower's."),
    }


# InTI's Tables 2 and 5, K400 top-1 %, ViT-B/16 with UniFormerV2's modules (naive: without them)
COMPRESSIONS = {"naive": 83.4, "mean": None, "linearpool": 83.9, "convpool": 82.7, "convpool-random": None, "tome": 84.2,
                "sta": 84.1, "inti": 84.9}
LEVELS = {"inti-token": 84.3, "inti-token-cube": 84.4, "inti-token-frame": 84.6, "inti-token-global": 84.5,
          "inti-token-cube-frame": 84.7, "inti-token-frame-global": 84.8, "inti": 84.9}
FUSIONS = {"inti-add": 84.5, "inti-cat": 84.7, "inti-sigmoid": 84.5, "inti-attention": 84.6, "inti": 84.9}


def _inti() -> dict[str, Table]:
    k400, presets = "K400, ViT-B/16, 16 frames", "{}-b16-16f-k400"
    return {
        "InTI 2": Table("Which compression?", k400, COMPRESSIONS, (*JUNK, "mini-motion"), presets, "inti"),
        "InTI 5(a)": Table("What do the weights see?", k400, LEVELS, JUNK[:1], presets, "inti"),
        "InTI 5(b)": Table("How are levels fused, and weights made?", k400, FUSIONS, JUNK[:1], presets, "inti"),
    }


TABLES: dict[str, Table] = _zeroi2v() | _inti()


# ---- what is measured ----

def read_rows(path: Path = RESULTS) -> list[dict]:
    """The rows of the table of results, numbers as numbers; what a row does not have is left out. [] where there is none yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _parsed(key, value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _parsed(key: str, value: str):
    return value if key in TEXT else [float(x) for x in value.split(";")] if key == "val" else json.loads(value)


def tested(task: str, path: Path = RESULTS) -> dict[str, list[dict]]:
    """The tested runs of a task by method, one row a seed."""
    found: dict[str, list[dict]] = {}
    for row in read_rows(path):
        if (row["task"], row["stage"]) == (task, "seed"):
            found.setdefault(row["method"], []).append(row)
    return found


def full_size(preset: str, folder: Path = FULL) -> list[float]:
    """Top-1 of the runs on a paper's own data that were laid into `folder`, each the folder of notebook 04's or 06's results."""
    runs = [path.parent for path in sorted(folder.glob("*/settings.json"))]
    return [json.loads((run / "metrics.json").read_text())["test"]["top1"] for run in runs
            if json.loads((run / "settings.json").read_text())["preset"] == preset and (run / "metrics.json").is_file()]


def measured(name: str, path: Path = RESULTS) -> dict[str, dict[str, list[dict]]]:
    """What a table asks for and is measured: {task: {method: a row a seed}}, in the table's order, empty tasks left out."""
    table = TABLES[name]
    runs = {task: tested(task, path) for task in table.tasks}
    found = {task: {method: rows[method] for method in table.rows if method in rows} for task, rows in runs.items()}
    return {task: rows for task, rows in found.items() if rows}


def figure(name: str, path: Path = RESULTS) -> Figure:
    """A table as a forest plot: points of top-1 ahead of the reference row, the paper's beside ours, a dot a seed.

    Returns the figure, closed. Raises ValueError where the reference is not measured on any task.
    """
    table, runs = TABLES[name], measured(name, path)
    runs = {task: rows for task, rows in runs.items() if table.reference in rows}
    if not runs:
        raise ValueError(f"{name}: its row {table.reference} is measured on no task yet: run make tables")
    order = list(reversed(table.rows))
    size = (2.4 * (1 + len(runs)) + 1.6, 0.3 * len(order) + 1.1)
    page, axes = plt.subplots(1, 1 + len(runs), figsize=size, sharey=True, squeeze=False, layout="constrained")
    paper = {method: value - table.rows[table.reference] for method, value in table.rows.items() if value is not None}
    axes[0][0].plot(list(paper.values()), [order.index(method) for method in paper], "D", color="0.3", ms=5)
    axes[0][0].set(title=f"the paper\n{table.paper}")
    for axis, (task, found) in zip(axes[0][1:], runs.items(), strict=True):
        for method, rows in found.items():
            ahead = differences(rows, found[table.reference])
            axis.plot(ahead, [order.index(method)] * len(ahead), "o", color="C0", ms=4.5, alpha=0.8)
        axis.set(title=f"{task}\n{rows[0]['clips']} test clips")
    for axis in axes[0]:
        axis.axvline(0, color="0.6", lw=0.8, zorder=0)
        axis.set(xlabel=f"points ahead of {table.reference}")
    axes[0][0].set(yticks=range(len(order)), yticklabels=order)
    return finished(page)


def differences(rows: Sequence[dict], reference: Sequence[dict]) -> list[float]:
    """Top-1 of each seed less that of the reference with the same seed, in points; seeds that only one has are left out."""
    theirs = {row["value"]: row["top1"] for row in reference}
    return [100 * (row["top1"] - theirs[row["value"]]) for row in rows if row["value"] in theirs]


def markdown(name: str, path: Path = RESULTS, full: Path = FULL) -> str:
    """A table with the paper's column, one for each task, mean over the seeds and their range, and one for runs at full size
    where there are any."""
    table, runs = TABLES[name], measured(name, path)
    large = {method: [{"top1": top1} for top1 in full_size(table.preset(method), full)] for method in table.rows}
    runs |= {f"here, {table.paper}": large} if any(large.values()) else {}
    lines = [["", f"the paper: {table.paper}", *runs], ["---", *["---:"] * (1 + len(runs))]]
    for method, paper in table.rows.items():
        lines.append([method, "" if paper is None else f"{paper:.1f}", *(_cell(found.get(method)) for found in runs.values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(rows: Sequence[dict] | None) -> str:
    values = [100 * row["top1"] for row in rows or ()]
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    return f"{fmean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def agreement(name: str, task: str, path: Path = RESULTS) -> tuple[int, float]:
    """How many of the paper's rows are measured on a task, and Spearman's rank correlation of their orders: 1 the same, -1 the
    opposite, nan for fewer than three rows or where all are alike."""
    table, found = TABLES[name], measured(name, path).get(task, {})
    both = [(paper, fmean(row["top1"] for row in found[method])) for method, paper in table.rows.items()
            if paper is not None and method in found]
    ours = {value for _, value in both}
    if len(both) < 3 or len(ours) == 1:
        return len(both), float("nan")
    return len(both), float(spearmanr(*zip(*both, strict=True)).statistic)


def sentence(name: str, path: Path = RESULTS) -> str:
    """What the numbers say of the orders, a line a task: rank correlation, and the ranks of the paper's first row."""
    table, lines = TABLES[name], []
    known = {method: value for method, value in table.rows.items() if value is not None}
    for task, found in measured(name, path).items():
        rows, rho = agreement(name, task, path)
        means = {method: fmean(row["top1"] for row in found[method]) for method in known if method in found}
        first = max(known, key=known.get)
        place = f"{first}, the paper's first, is number {1 + sum(v > means[first] for v in means.values())} of {rows}" \
            if first in means else f"{first}, the paper's first, is not measured"
        lines.append(f"{task}: Spearman {rho:+.2f} over {rows} rows; {place}.")
    return "\n".join(lines)


def main(path: Path = RESULTS) -> None:
    for name, table in TABLES.items():
        print(f"{name}. {table.question}\n")
        print(markdown(name, path), sentence(name, path), table.note, sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
