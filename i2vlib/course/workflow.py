"""All cells of the grid, side by side, gone on with after whatever stopped them, and one tidy table of what they measured.

    python -m i2vlib.course.workflow [--fast] [--only TEXT] [--cores 2] [-- FLAGS OF SNAKEMAKE]

    -> notebooks/results/tables.csv, a row a cell; with --fast build/tables-fast/tables.csv, whose numbers mean nothing

Snakemake (i2vlib/course/Snakefile) runs what is missing and keeps on where a cell fails. A row of the table that has the
configuration of today (its hash) is not measured again; take it out to have it measured.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from i2vlib.course import grid, tables
from i2vlib.course.methods import methods
from i2vlib.course.paper_tables import TABLES
from i2vlib.course.settings import write_json
from i2vlib.course.tasks import REAL, TASKS
from i2vlib.files import whole_file
from i2vlib.own_video import tower_at_hand
from i2vlib.places import kept_in
from i2vlib.training.lock import Lock

SNAKEFILE = Path(__file__).with_name("Snakefile")
COLUMNS = ("task", "method", "stage", "value", "rate", "steps", "batch", "val", "top1", "clips", "chance", "direction",
           "twin_gap", "informative", "even", "spread", "trainable", "multiply_adds", "cpu_seconds", "config", "torch", "machine")


def wanted(only: str = "", fast: bool = False) -> list[grid.Cell]:
    """The tested cells that the papers' tables ask for, each once, in their order; those of a tower that is not here are not.

    only: a text that TASK/METHOD holds. fast: one seed, each method on the first of its tasks, and each task with some method.
    """
    here = {"mini", *([REAL] if tower_at_hand() == REAL else [])}
    pairs = list(dict.fromkeys(
        (task, method) for table in TABLES.values() for task in table.tasks for method in table.rows
        if method in methods(TASKS[task]) and TASKS[task].tower in here and only in f"{task}/{method}"))
    if fast:
        pairs = [(task, method) for i, (task, method) in enumerate(pairs)
                 if method not in {other for _, other in pairs[:i]} or task not in {other for other, _ in pairs[:i]}]
    return [grid.Cell(task, method, "seed", seed, fast) for task, method in pairs
            for seed in (grid.SEEDS[:1] if fast else grid.SEEDS)]


def every(cells: Sequence[grid.Cell]) -> Iterator[grid.Cell]:
    """The cells and the sweeps before them, each once."""
    return iter(dict.fromkeys(other for cell in cells for other in (*grid.sweep(cell), cell)))


# ---- the table ----

def write_rows(rows: Sequence[dict], path: Path) -> None:
    """Replace the table by these rows, sorted by task, method, stage and value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=_key):
        writer.writerow({**{key: row.get(key, "") for key in COLUMNS}, "val": ";".join(map(str, row["val"]))})
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def _key(row: dict) -> tuple:
    return row["task"], row["method"], row["stage"], row["value"]


def restore(cells: Sequence[grid.Cell], rows: Sequence[dict], folder: Path) -> None:
    """Write the files of the cells that the table has measured as they are configured today, where they are not there."""
    measured = {(*_key(row), row["config"]): row for row in rows}
    for cell in cells:
        row, path = measured.get((cell.task, cell.method, cell.stage, cell.value, cell.config)), cell.path(folder)
        if row and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, row)


def collect(cells: Sequence[grid.Cell], folder: Path, path: Path) -> list[grid.Cell]:
    """Merge what is measured into the table; returns the cells that are not."""
    rows = {_key(row): row for row in tables.read_rows(path)}
    found = {cell: json.loads(cell.path(folder).read_text()) for cell in cells if cell.path(folder).is_file()}
    rows |= {_key(row): row for row in found.values()}
    write_rows(list(rows.values()), path)
    return [cell for cell in cells if cell not in found]


# ---- the command ----

def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="two steps of each method and on each task: that they run")
    parser.add_argument("--only", default="", help="cells whose TASK/METHOD holds this text")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 2)
    parser.add_argument("flags", nargs="*", help="for Snakemake, after --")
    args = parser.parse_args(arguments)
    if find_spec("snakemake") is None:
        sys.exit("the tables are run by Snakemake, which needs Python 3.11 or newer: PYTHON=/path/to/python3.11 make tables")
    cells = list(every(wanted(args.only, args.fast)))
    if not cells:
        parser.error(f"--only {args.only!r}: no TASK/METHOD of the tables holds it, such as mini-motion/stdha")
    folder = kept_in(f"build/tables{'-fast' if args.fast else ''}")
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / "lock")
    if holder := lock.take():
        sys.exit(f"{folder}: {holder} is at the tables")
    path = folder / "tables.csv" if args.fast else tables.RESULTS
    if tower_at_hand() != REAL:
        print(f"{REAL} is not here, so its tasks are left out: python -m i2vlib.fetch {REAL}")
    restore(cells, tables.read_rows(path), folder / "cells")
    try:
        status = _snakemake(folder, args)
    finally:
        missing = collect(cells, folder / "cells", path)
        print(f"{len(cells) - len(missing)} of {len(cells)} cells are in {path}")
    if missing:
        c = missing[0]
        sys.exit(f"{len(missing)} cells are not measured, the first is {c.task} {c.method} {c.stage} {c.value:g}; what failed is "
                 "named above. The same call goes on from here")
    sys.exit(status)


def _snakemake(folder: Path, args: argparse.Namespace) -> int:
    """Exit status of Snakemake, in this process, so that it ends with it. Its own lock is not used: it outlives a process that
    was killed, this module's does not."""
    from snakemake.cli import main as snakemake

    root = str(SNAKEFILE.parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])  # of the cells
    settings = [f"fast={int(args.fast)}", *([f"only={args.only}"] if args.only else [])]
    try:
        snakemake(["--snakefile", str(SNAKEFILE), "--directory", str(folder), "--cores", str(args.cores), "--keep-going",
                   "--rerun-incomplete", "--nolock", "--rerun-triggers", "params", "mtime", "--quiet", "rules", "host",
                   "--config", *settings, *args.flags])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    main()
