"""The tables' cells run side by side: one that fails leaves the others alone, and a second call does what is left."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from i2vlib.course import grid, tables, workflow
from i2vlib.course.tasks import REAL

pytest.importorskip("snakemake", reason="Snakemake needs Python 3.11 or newer")
ROOT = Path(workflow.__file__).parents[2]
# in every process of a call: the cells of one method fail
SABOTAGE = 'import os, sys\nif os.environ.get("BROKEN", "-") in sys.orig_argv:\n    sys.exit("broken on purpose")\n'


def call(tmp_path: Path, broken: str = "-") -> tuple[int, str]:
    """A fast run of one method of one task, and its output."""
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    code = ("import sys; from i2vlib.course import workflow; from pathlib import Path\n"
            f"workflow.kept_in = lambda name: Path({str(tmp_path)!r}) / 'work'\n"
            "workflow.main(['--fast', '--only', 'mini-blink/stdha-field', '--cores', '2'])")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "BROKEN": broken, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def test_a_cell_that_fails_is_named_and_measured_by_the_next_call(tmp_path):
    table, cells = tmp_path / "work" / "tables.csv", tmp_path / "work" / "cells" / "mini-blink"
    code, said = call(tmp_path, "stdha-field-4")
    assert code == 1 and "broken on purpose" in said
    assert "2 cells are not measured, the first is mini-blink stdha-field-4 rate 0.005" in said
    before = tables.read_rows(table)
    assert [(row["method"], row["stage"]) for row in before] == [
        (f"stdha-field-{field}", stage) for field in (2, 5) for stage in ("rate", "seed")]
    assert all(row["steps"] == 2 and row["clips"] == 16 for row in before if row["stage"] == "seed")
    written = {path: path.stat().st_mtime_ns for path in cells.rglob("*.json")}
    code, said = call(tmp_path)
    assert code == 0 and "6 of 6 cells are in" in said
    assert all(path.stat().st_mtime_ns == when for path, when in written.items()), "nothing was done twice"
    after = tables.read_rows(table)
    assert len(after) == 6 and [row for row in after if row["method"] != "stdha-field-4"] == before


def row_of(cell: grid.Cell, **more) -> dict:
    return asdict(cell) | {"rate": 5e-3, "steps": 200, "batch": 32, "val": [0.25, 0.5], "config": cell.config, "torch": "2.9.0",
                           "machine": "x86_64, 2 cores", "trainable": 7, "multiply_adds": 9, "cpu_seconds": 3} | more


def test_the_table_keeps_what_it_is_given(tmp_path):
    path, cell = tmp_path / "t.csv", grid.Cell("mini-blink", "stdha", "seed", 1)
    rows = [row_of(cell, top1=0.123456789012345, twin_gap=1e-7), row_of(grid.sweep(cell)[0])]
    workflow.write_rows(rows, path)
    found = tables.read_rows(path)
    assert [row["stage"] for row in found] == ["rate", "seed"] and found[1]["top1"] == 0.123456789012345
    assert "top1" not in found[0] and found[0]["val"] == [0.25, 0.5] and found[1]["machine"] == "x86_64, 2 cores"
    assert {k: v for k, v in rows[0].items() if k != "fast"} == found[1]


def test_what_the_table_has_is_not_measured_again_unless_its_configuration_is_another(tmp_path, monkeypatch):
    cell = grid.Cell("mini-blink", "stdha", "seed", 1)
    old, rows = grid.Cell("mini-blink", "stdha", "seed", 2), []
    rows = [row_of(cell, top1=0.5), row_of(old, top1=0.5, config="0" * 12)]
    workflow.restore([cell, old], rows, tmp_path)
    assert cell.path(tmp_path).is_file() and not old.path(tmp_path).exists()
    missing = workflow.collect([cell, old], tmp_path, tmp_path / "t.csv")
    assert missing == [old] and [row["value"] for row in tables.read_rows(tmp_path / "t.csv")] == [1]


def test_the_cells_are_those_of_the_tables_each_once(monkeypatch):
    monkeypatch.setattr(workflow, "tower_at_hand", lambda: "")
    cells = workflow.wanted()
    assert len(set(cells)) == len(cells) and {cell.value for cell in cells} == set(grid.SEEDS)
    assert {cell.task for cell in cells} == {t for table in tables.TABLES.values() for t in table.tasks if t.startswith("mini-")}
    monkeypatch.setattr(workflow, "tower_at_hand", lambda: REAL)
    assert "photos-one" in {cell.task for cell in workflow.wanted()}
    assert {cell.method for cell in workflow.wanted("mini-blink/stdha-field-2")} == {"stdha-field-2"}
    every = list(workflow.every(cells))
    assert len(every) == 2 * len(cells), "three rates and three seeds a method"
    assert [cell.stage for cell in every[:4]] == ["rate"] * 3 + ["seed"]


def test_a_fast_run_has_every_method_and_every_task(monkeypatch):
    for here in ("", REAL):
        monkeypatch.setattr(workflow, "tower_at_hand", lambda here=here: here)
        fast, whole = workflow.wanted(fast=True), workflow.wanted()
        for kind in ("method", "task"):
            assert {getattr(cell, kind) for cell in fast} == {getattr(cell, kind) for cell in whole}
        methods = [cell.method for cell in fast]
        assert len(methods) - len(set(methods)) < len({cell.task for cell in fast}) and len(fast) < len(whole) / 3


def test_nothing_to_do_is_an_error():
    with pytest.raises(SystemExit):
        workflow.main(["--only", "no such method"])
