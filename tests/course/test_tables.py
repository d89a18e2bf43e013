"""The tables say what the rows say; orders that are made by hand agree as they should."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from i2vlib.course import tables
from i2vlib.course.methods import methods
from i2vlib.course.paper_tables import TABLES
from i2vlib.course.tasks import TASKS
from i2vlib.course.workflow import write_rows

NAME, TASK = "ZeroI2V 2(c)", "mini-blink"
ORDER = sorted(TABLES[NAME].rows, key=TABLES[NAME].rows.get)


def rows(tops: dict[str, list[float]], task: str = TASK) -> list[dict]:
    return [{"task": task, "method": method, "stage": "seed", "value": seed, "val": [0.5], "top1": top1, "clips": 384}
            for method, values in tops.items() for seed, top1 in enumerate(values)]


def written(folder: Path, found: list[dict]) -> Path:
    write_rows(found, folder / "tables.csv")
    return folder / "tables.csv"


def test_every_table_asks_for_methods_and_tasks_that_there_are():
    for name, table in TABLES.items():
        assert table.reference in table.rows and set(table.tasks) <= set(TASKS), name
        for task in table.tasks:
            unknown = set(table.rows) - set(methods(TASKS[task]))
            assert not unknown, (name, task, unknown)
        assert table.tasks or table.note, f"{name}: where it is not asked, why"


@pytest.mark.parametrize("order, rho", [(ORDER, 1.0), (ORDER[::-1], -1.0)])
def test_the_correlation_of_orders(tmp_path, order, rho):
    path = written(tmp_path, rows({method: [0.1 * i] for i, method in enumerate(order)}))
    assert tables.agreement(NAME, TASK, path) == (len(ORDER), pytest.approx(rho))
    place = {1.0: 1, -1.0: len(ORDER)}[rho]
    said = tables.sentence(NAME, path)
    assert f"Spearman {rho:+.2f} over {len(ORDER)} rows; stdha, the paper's first, is number {place}" in said


def test_an_order_needs_three_rows_that_differ(tmp_path):
    path = written(tmp_path, rows({method: [0.5] for method in ORDER}))
    assert tables.agreement(NAME, TASK, path)[0] == len(ORDER) and math.isnan(tables.agreement(NAME, TASK, path)[1])
    path = written(tmp_path, rows({method: [0.1 * i] for i, method in enumerate(ORDER[:2])}))
    assert tables.agreement(NAME, TASK, path)[0] == 2 and math.isnan(tables.agreement(NAME, TASK, path)[1])
    assert "stdha, the paper's first, is not measured" in tables.sentence(NAME, path)


def test_the_table_has_the_papers_numbers_and_ours(tmp_path):
    path = written(tmp_path, rows({"stdha": [0.5, 0.75], "stdha-field-2": [0.25]}))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.markdown(NAME, path).splitlines()]
    assert lines[0] == ["", "the paper: SSv2, ViT-B/16, 8 frames", TASK]
    assert [line for line in lines if line[0] in ("stdha", "stdha-field-2", "stdha-field-4")] == [
        ["stdha-field-2", "64.7", "25.0"], ["stdha", "66.0", "62.5 (50.0-75.0)"], ["stdha-field-4", "65.5", ""]]


def test_the_figure_draws_differences_of_the_same_seed(tmp_path):
    path = written(tmp_path, rows({"stdha": [0.5, 0.75], "stdha-field-2": [0.25, 0.5, 0.9]}))
    figure = tables.figure(NAME, path)
    order = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    left, right = (axis.lines for axis in figure.axes)
    drawn = {order[int(line.get_ydata()[0])]: list(line.get_xdata()) for line in right if line.get_marker() == "o"}
    assert drawn == {"stdha": [0, 0], "stdha-field-2": [-25, -25]}
    paper = dict(zip((order[int(y)] for y in left[0].get_ydata()), left[0].get_xdata(), strict=True))
    assert paper == {method: pytest.approx(value - 66.0) for method, value in TABLES[NAME].rows.items()}
    with pytest.raises(ValueError, match="its row stdha is measured on no task yet: run make tables"):
        tables.figure(NAME, written(tmp_path, rows({"stdha-field-2": [0.25]})))


def test_rows_have_presets_at_full_size_and_their_runs_make_a_column(tmp_path):
    for name, table in TABLES.items():
        missing = [method for method, top1 in table.rows.items() if top1 is not None and not table.preset(method)]
        assert not missing or not table.presets, (name, missing)
    assert TABLES["InTI 5(a)"].preset("inti-token") == "inti+-token-b16-16f-k400"
    assert TABLES["InTI 2"].preset("inti") == "inti+-b16-16f-k400" and TABLES["InTI 2"].preset("naive") == "naive-b16-16f-k400"
    run = tmp_path / "full" / "ssv2"
    run.mkdir(parents=True)
    (run / "settings.json").write_text(json.dumps({"preset": "stdha-b16-8f-ssv2"}))
    (run / "metrics.json").write_text(json.dumps({"test": {"top1": 0.66}}))
    lines = tables.markdown(NAME, tmp_path / "none.csv", tmp_path / "full").splitlines()
    assert lines[0].endswith("| here, SSv2, ViT-B/16, 8 frames |") and "| stdha | 66.0 | 66.0 |" in lines


def test_sweeps_are_no_results(tmp_path):
    found = rows({"stdha": [0.5]})
    path = written(tmp_path, [*found, {**found[0], "stage": "rate", "value": 0.005, "top1": ""}])
    assert [row["value"] for row in tables.tested(TASK, path)["stdha"]] == [0]


def test_what_is_printed(tmp_path, capsys):
    tables.main(tmp_path / "none.csv")
    out = capsys.readouterr().out
    assert all(f"{name}. {table.question}" in out for name, table in TABLES.items())
