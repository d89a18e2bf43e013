"""The tables say what the rows say; orders that are made by hand agree as they should."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from i2vlib.course import experiments, tables
from i2vlib.course.methods import methods
from i2vlib.course.paper_tables import TABLES
from i2vlib.course.tasks import TASKS
from i2vlib.course.workflow import write_rows

ROOT = Path(__file__).resolve().parents[2]
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
    same, other = (6, 0) if rho > 0 else (0, 6)
    assert tables.pairs(NAME, TASK, path) == (same, other, 0)
    assert f"the paper orders 6 pairs of these rows; {same} come out so in every seed, {other} the other way" in said
    assert f"stdha, the paper's first, is number {place} of 4. Spearman's rank correlation {rho:+.2f}." in said


def test_a_pair_counts_where_all_its_seeds_agree(tmp_path):
    tops = dict(zip(ORDER, ([0.3, 0.5], [0.4, 0.4], [0.2, 0.3], [0.6, 0.6]), strict=True))  # by the paper's order, lowest first
    path = written(tmp_path, rows(tops))
    # the last is ahead of the three before it in both seeds, the third behind both before it in both; the first two cross
    assert tables.pairs(NAME, TASK, path) == (3, 2, 1)
    lone = written(tmp_path, [row | {"value": row["value"] + 5 * (row["method"] == ORDER[0])} for row in rows(tops)])
    assert tables.pairs(NAME, TASK, lone) == (2, 1, 3), "seeds that only one of two rows has compare with nothing"


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
    with pytest.raises(ValueError, match="its row stdha and another are measured on no task yet: run make tables"):
        tables.figure(NAME, written(tmp_path, rows({"stdha-field-2": [0.25]})))


def test_rows_have_presets_at_full_size_and_their_runs_make_a_column(tmp_path):
    for name, table in TABLES.items():
        missing = [method for method, top1 in table.rows.items() if top1 is not None and not table.preset(method)]
        assert not missing, (name, missing)
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


def test_what_still_rises_is_marked(tmp_path):
    curves = {"stdha": [0.2, 0.5, 0.5, 0.505], "stdha-field-2": [0.2, 0.3, 0.4, 0.5]}
    path = written(tmp_path, [row | {"val": curves[row["method"]]} for row in rows({method: [0.5] for method in curves})])
    text = tables.markdown(NAME, path)
    assert "| stdha | 66.0 | 50.0 |" in text and "| stdha-field-2 | 64.7 | 50.0↑ |" in text


def test_a_page_has_the_figure_the_numbers_and_the_commands(tmp_path):
    picture, text = tables.page(NAME, written(tmp_path, rows({"stdha": [0.5], "stdha-field-2": [0.25]})))
    assert picture.axes and "| stdha | 66.0 | 50.0 |" in text.data and "the paper orders 1 pair of" in text.data
    (unseen,) = tables.page(NAME, tmp_path / "none.csv", tmp_path)
    assert NAME in unseen.data and "--only mini-blink/" in unseen.data
    for folder, name in (("ssv2/videos", NAME), ("k400", "InTI 2"), ("diving48/rgb", "ZeroI2V 6, Diving48")):
        loop = tables.command(name)
        assert f"-p data_root ../data/{folder} " in loop and loop.startswith("for p in ") and loop.endswith("done")
        assert f"notebooks/{'06_train_inti' if name == 'InTI 2' else '04_train_zeroi2v'}.ipynb" in loop
    assert tables.command("ZeroI2V 2(c)").splitlines()[0].split()[3] == "stdha-field-2-b16-8f-ssv2;".rstrip(";")
    data = (ROOT / "data" / "README.md").read_text()
    assert all(pattern.format("train") in data for pattern in tables.LISTS.values()), "the files of data/README.md"


def test_the_overview_has_a_line_for_every_table(tmp_path):
    path = written(tmp_path, rows({method: [0.1 * i] for i, method in enumerate(ORDER)}))
    text = tables.overview(path)
    assert f"| {NAME} | {TASK} | 6 | 6 | 0 | 0 | +1.00 |" in text and "| ZeroI2V 6, UCF101 | not asked here |" in text
    assert all(f"| {name} |" in text for name in TABLES) and len(text.splitlines()) == 2 + len(TABLES)


def test_the_notebooks_own_experiments_stand_beside_the_grid():
    found = tables.measured("InTI 2")["mini-corrupted, of 06"]
    assert [row["top1"] for row in found["inti"]] == experiments.measured("inti-mini-corrupted", "top1")
    assert {"naive", "mean", "tome", "sta"} <= set(found) and {row["clips"] for row in found["inti"]} == {384}
    blink = tables.measured(NAME)["mini-blink, of 04"]
    assert [row["top1"] for row in blink["stdha-field-5"]] == experiments.measured("stdha-far-mini-blink", "top1")
    operators = tables.measured("ZeroI2V 2(a)")["photos-one, of 12"]
    assert len(operators["stdha"]) == 3 and all(row["method"] == "stdha" for row in operators["stdha"])


def test_the_loop_is_one_that_a_shell_takes(tmp_path):
    for name in TABLES:
        subprocess.run(["bash", "-n", "-c", tables.command(name)], check=True)
