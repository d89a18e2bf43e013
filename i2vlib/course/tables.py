"""The tables of both papers, what of them is measured here, and how far the orders agree.

    python -m i2vlib.course.tables          all of them as text

A table is a question, the paper's numbers by method, and the tasks of i2vlib.course.grid on which it is asked here.
What is measured lies in notebooks/results/tables.csv (`make tables`).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
from IPython.display import Markdown
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from i2vlib.course import experiments, real
from i2vlib.course.jobs import load_rows
from i2vlib.course.paper_tables import TABLES
from i2vlib.course.real_tables import RISING
from i2vlib.data import mini
from i2vlib.show.names import finished

RESULTS = Path(__file__).resolve().parents[2] / "notebooks" / "results" / "tables.csv"
FULL = RESULTS.with_name("full")  # folders of runs on the papers' data: settings.json and metrics.json of notebooks 04 and 06
NOTEBOOKS = {"mini-motion": "04, 06", "mini-blink": "04", "mini-appearance": "04", "mini-corrupted": "06", "photos-one": "12",
             "photos-corrupted": "12"}  # tasks that have longer experiments of their own, which these notebooks show
TEXT = ("task", "method", "stage", "config", "torch", "machine")  # columns; the others are numbers


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


def kept(task: str) -> dict[str, list[dict]]:
    """The runs of the notebooks' own experiments on a task by method, one row a seed. Of `make experiments` one rate served for
    all methods, of `make experiments-real` rates were swept as they are in the grid."""
    found: dict[str, list[dict]] = {}
    for row in experiments.load_results():
        method, _, own = row["preset"].partition(f"-{task}")
        if (own, row["tower"], row["preset"]) == ("", "mini", f"{method}-{task}"):
            method = {"stdha-far": "stdha-field-5"}.get(method, method)
            found.setdefault(method, []).append({"value": row["seed"], "top1": row["top1"], "clips": mini.TASKS[task[5:]].val})
    for row in load_rows(real.RESULTS):
        if (row["set"], row["stage"]) == (task, "seed"):
            found.setdefault(row["method"], []).append(row)
    return found


def measured(name: str, path: Path = RESULTS) -> dict[str, dict[str, list[dict]]]:
    """What a table asks for and is measured: {task: {method: a row a seed}}, in the table's order, empty tasks left out.
    Beside the repository's own results stand those of its notebooks (`kept`)."""
    table = TABLES[name]
    runs = {task: tested(task, path) for task in table.tasks}
    runs |= {f"{task}, of {NOTEBOOKS[task]}": kept(task) for task in table.tasks if task in NOTEBOOKS and path == RESULTS}
    found = {task: {method: rows[method] for method in table.rows if method in rows} for task, rows in runs.items()}
    return {task: rows for task, rows in found.items() if rows}


def figure(name: str, path: Path = RESULTS) -> Figure:
    """A forest plot: points of top-1 ahead of the reference row, the paper's beside ours. A dot is a seed, a line the mean.

    Returns the figure, closed. Raises ValueError where on no task the reference and another row are measured.
    """
    table, runs = TABLES[name], comparable(name, path)
    if not runs:
        raise ValueError(f"{name}: its row {table.reference} and another are measured on no task yet: run make tables")
    order = list(reversed(table.rows))
    size = (2.6 * (1 + len(runs)) + 1.4, 0.27 * len(order) + 1.2)
    page, axes = plt.subplots(1, 1 + len(runs), figsize=size, sharey=True, squeeze=False, layout="constrained")
    paper = {method: value - table.rows[table.reference] for method, value in table.rows.items() if value is not None}
    axes[0][0].plot(list(paper.values()), [order.index(method) for method in paper], "D", color="0.3", ms=5)
    axes[0][0].set(title=f"the paper\n{table.paper.replace(', ', chr(10), 1)}", yticks=range(len(order)), yticklabels=order,
                   ylim=(-0.7, len(order) - 0.3))
    for axis, (task, found) in zip(axes[0][1:], runs.items(), strict=True):
        for method, rows in found.items():
            ahead, y = differences(rows, found[table.reference]), order.index(method)
            axis.plot(ahead, [y] * len(ahead), "o", color="C0", ms=4.5, alpha=0.7)
            axis.vlines(fmean(ahead), y - 0.35, y + 0.35, color="C0", lw=1.5)
        axis.set(title=f"{task.replace(', ', chr(10), 1)}\n{rows[0]['clips']} test clips")
    for axis in axes[0]:
        axis.axvline(0, color="0.6", lw=0.8, zorder=0)
        axis.set(xlabel=f"points ahead of {table.reference}")
    page.suptitle(f"{name}. {table.question}", x=0.01, ha="left", weight="bold")
    return finished(page)


def comparable(name: str, path: Path = RESULTS) -> dict[str, dict[str, list[dict]]]:
    """What of a table is measured on tasks on which its reference and another row are, so that there are differences to draw."""
    return {task: rows for task, rows in measured(name, path).items() if TABLES[name].reference in rows and len(rows) > 1}


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
    rises = "↑" if values and fmean(map(_last_rise, rows)) > RISING else ""
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values) + rises
    return f"{fmean(values):.1f}{rises} ({min(values):.1f}-{max(values):.1f})"


def _last_rise(row: dict) -> float:
    """By how much the validation clips' top-1 rose in the last quarter of the steps; 0 where it is not known."""
    curve = row.get("val", [])
    return curve[-1] - curve[-2] if len(curve) > 1 else 0.0


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


def pairs(name: str, task: str, path: Path = RESULTS) -> tuple[int, int, int]:
    """Of the pairs of rows that the paper puts in an order: in how many every seed agrees, in how many every seed disagrees, and
    in how many neither."""
    rows, found = TABLES[name].rows, measured(name, path).get(task, {})
    known = sorted((method for method in found if rows[method] is not None), key=rows.get)
    gaps = [differences(found[more], found[less]) for less, more in combinations(known, 2) if rows[less] < rows[more]]
    same, other = sum(min(gap) > 0 for gap in gaps if gap), sum(max(gap) < 0 for gap in gaps if gap)
    return same, other, len(gaps) - same - other


def sentence(name: str, path: Path = RESULTS) -> str:
    """What the numbers say of the paper's order, a line a task."""
    rows, lines = TABLES[name].rows, []
    known = {method: value for method, value in rows.items() if value is not None}
    first = max(known, key=known.get)
    for task, found in measured(name, path).items():
        means = {method: fmean(row["top1"] for row in found[method]) for method in known if method in found}
        if len(means) < 2:
            continue
        (same, other, open_), rho = pairs(name, task, path), agreement(name, task, path)[1]
        place = f"{first}, the paper's first, is number {1 + sum(v > means[first] for v in means.values())} of {len(means)}" \
            if first in means else f"{first}, the paper's first, is not measured"
        total = same + other + open_
        lines.append(f"**{task}**: the paper orders {total} pair{'s' * (total != 1)} of these rows; {same} come out so in every "
                     f"seed, {other} the other way round in every seed, {open_} neither. {place}."
                     + ("" if math.isnan(rho) else f" Spearman's rank correlation {rho:+.2f}."))
    return "\n\n".join(lines)


def overview(path: Path = RESULTS) -> str:
    """All tables, a line for each task on which pairs of its rows are measured, and one for each that is measured nowhere."""
    lines = ["| table | task | pairs that are ordered | so in every seed | the other way round | neither | rank correlation |",
             "|---|---|---:|---:|---:|---:|---:|"]
    for name in TABLES:
        found = {task: pairs(name, task, path) for task in measured(name, path)}
        for task, counts in found.items():
            if sum(counts):
                rho = agreement(name, task, path)[1]
                numbers = [sum(counts), *counts, "" if math.isnan(rho) else f"{rho:+.2f}"]
                lines.append(f"| {name} | {task} | {' | '.join(map(str, numbers))} |")
        if not any(map(sum, found.values())):
            lines.append(f"| {name} | {'no such pair measured yet' if TABLES[name].tasks else 'not asked here'} | | | | | |")
    return "\n".join(lines)


# ---- a page of it ----

LISTS = {"k400": "kinetics400_{}_list_videos.txt", "ssv2": "sthv2_{}_list_videos.txt",  # as data/README.md lays them out
         "ucf101": "ucf101_{}_split_1_videos.txt", "hmdb51": "hmdb51_{}_split_1_videos.txt", "diving48": "Diving48_V2_{}.json"}
ROOTS = {"k400": "k400", "ssv2": "ssv2/videos", "ucf101": "ucf101/videos", "hmdb51": "hmdb51/videos", "diving48": "diving48/rgb"}


def command(name: str) -> str:
    """How its rows are measured on the paper's data, as a shell's loop; "" where there is no preset, or no released list."""
    presets = list(dict.fromkeys(filter(None, map(TABLES[name].preset, TABLES[name].rows))))
    data = presets[0].rsplit("-", 1)[1] if presets else ""
    if data not in LISTS:
        return ""
    notebook = "06_train_inti" if name.startswith("InTI") else "04_train_zeroi2v"
    files = [LISTS[data].format(part) for part in ("train", "test" if data == "diving48" else "val")]
    return (f"for p in {' '.join(presets)}; do\n"
            f"  .venv/bin/papermill notebooks/{notebook}.ipynb runs/$p.ipynb --cwd notebooks -p preset $p \\\n"
            f"    -p train_list ../data/{data}/{files[0]} -p val_list ../data/{data}/{files[1]} \\\n"
            f"    -p data_root ../data/{ROOTS[data]} -p out results/full/$p\ndone")


def page(name: str, path: Path = RESULTS, full: Path = FULL) -> list:
    """A table to look at: its figure, where something is measured, and under it, as Markdown, the numbers, what they say of the
    paper's order, and the commands, folded."""
    table, drawn = TABLES[name], comparable(name, path)
    missing = [] if drawn or not table.tasks else ["Still to be measured: `make tables`, or of this task "
                                                   f"`python -m i2vlib.course.workflow --only {table.tasks[0]}/`."]
    loop = command(name)
    folded = f"<details><summary>at full size</summary>\n\n```\nmkdir -p runs\n{loop}\n```\n\n</details>" if loop else ""
    title = [] if drawn else [f"**{name}. {table.question}**"]
    text = [*title, table.note, markdown(name, path, full), sentence(name, path), *missing, folded]
    return [*([figure(name, path)] if drawn else []), Markdown("\n\n".join(filter(None, text)))]


def main(path: Path = RESULTS) -> None:
    for name, table in TABLES.items():
        print(f"{name}. {table.question}\n")
        print(markdown(name, path), sentence(name, path), table.note, sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
