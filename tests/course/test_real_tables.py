"""The tables say what the rows say, and how sure it is; the rank agrees with hand-made orders."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from scipy.stats import binomtest

from i2vlib.course import real, real_tables
from i2vlib.course.real_tables import rank_agreement, results_table, wilson


def row(name: str, method: str, top1: float, seed: int = 0, val: tuple[float, ...] = (0.2, 0.5, 0.505), **more) -> dict:
    steps = real.budget_of(name).steps
    return {"set": name, "method": method, "stage": "seed", "value": seed, "rate": 1e-3, "steps": steps, "val": list(val),
            "top1": top1, "clips": 200, **more}


def written(folder: Path, rows: list[dict]) -> Path:
    path = folder / "real.json"
    path.write_text(json.dumps(rows))
    return path


def cells(table: str) -> dict[str, dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {len(lines[0])} and set(lines[1]) == {"---", "---:"}
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


@pytest.mark.parametrize("right, clips", [(0, 7), (7, 7), (13, 20), (150, 600)])
def test_the_interval_is_wilsons(right, clips):
    assert wilson(right / clips, clips) == pytest.approx(tuple(binomtest(right, clips).proportion_ci(method="wilson")), abs=1e-6)


def test_a_table_of_photographs(tmp_path):
    rows = [row("photos-one", "stdha", top1, seed, direction=0.9, chance=1 / 6) for seed, top1 in enumerate((0.5, 0.6, 0.7))]
    rows += [row("photos-one", "channel-shift-kv", 0.4, val=(0.2, 0.3, 0.4), direction=0.8)]
    rows += [row("photos-two", "stdha", 0.1), {**row("photos-one", "hr-qkv", 0.9), "steps": 1}]  # another set, another budget
    table = results_table("photos-one", written(tmp_path, rows))
    found = cells(table)
    assert list(found) == ["stdha", "channel-shift-kv"]
    assert found["stdha"]["top-1 % (range)"] == "60.0 (50.0-70.0)" and found["stdha"]["direction % (range)"] == "90.0 (90.0-90.0)"
    assert found["stdha"]["rate"] == "0.001"
    assert found["stdha"]["still rising"] == "no (+0.5)" and found["channel-shift-kv"]["still rising"] == "yes (+10.0)"
    low, high = wilson(0.6, 200)
    assert found["stdha"]["mean, 95 % interval"] == f"60.0 [{100 * low:.1f}, {100 * high:.1f}]"
    assert [r["paper (ZeroI2V Table 2(a), SSv2), top-1 %"] for r in found.values()] == ["66.0", "64.5 or 64.6"]
    assert table.startswith("photos-one: 200 test clips, 1 or 3 seed(s); one answer to all would score 16.7 %.")
    assert "each seed" not in table


def test_a_table_of_real_clips_says_how_sure_each_seed_is(tmp_path):
    rows = [row("arid6_small", "probe", top1, seed, chance=0.25) for seed, top1 in enumerate((0.5, 0.25))]
    table = results_table("arid6_small", written(tmp_path, rows))
    low, high = wilson(0.25, 200)
    each = cells(table)["probe"]["each seed, 95 % interval"]
    assert each.startswith("50.0 [") and each.endswith(f", 25.0 [{100 * low:.1f}, {100 * high:.1f}]")
    assert "one answer to all would score 25.0 %" in table and "direction" not in table


def test_a_table_of_compressions(tmp_path):
    rows = [row(real.CORRUPTED, "naive", 0.3), row(real.CORRUPTED, "inti", 0.4, informative=0.9)]
    found = cells(results_table(real.CORRUPTED, written(tmp_path, rows)))
    assert found["inti"]["weight on the clean token % (range)"] == "90.0 (90.0-90.0)"
    assert found["naive"]["weight on the clean token % (range)"] == ""
    assert float(found["inti"]["multiply-adds a clip, M"]) < float(found["naive"]["multiply-adds a clip, M"])
    assert [r["paper (InTI, K400), top-1 %"] for r in found.values()] == ["83.4", "84.9"]


PAPERS_ORDER = ("class-token-shift", "channel-shift-kv", "channel-shift-qkv", "hr-qkv", "stdha")


@pytest.mark.parametrize("tops, spearman", [((1, 2.5, 2.5, 4, 5), 1), ((5, 3.5, 3.5, 2, 1), -1), ((1, 2, 3, 4, 5), 0.9747)])
def test_agreement_of_orders(tmp_path, tops, spearman):
    rows = [row("photos-one", method, top / 10) for method, top in zip(PAPERS_ORDER, tops, strict=True)]
    found = rank_agreement("photos-one", written(tmp_path, rows))
    assert found["operators"] == 5 and found["spearman"] == pytest.approx(spearman, abs=1e-4)
    assert found["kendall"] == pytest.approx(spearman, abs=0.03)


def test_no_agreement_without_an_order(tmp_path):
    path = written(tmp_path, [row("photos-one", method, 0.5) for method in PAPERS_ORDER[:3]])
    assert all(math.isnan(rank_agreement("photos-one", path)[key]) for key in ("spearman", "kendall"))
    with pytest.raises(ValueError, match="2 of the operators .* an order needs three"):
        rank_agreement("photos-one", written(tmp_path, [row("photos-one", method, 0.5) for method in PAPERS_ORDER[:2]]))
    with pytest.raises(ValueError, match="photos-far is not in real.json yet: run make experiments-real"):
        results_table("photos-far", path)


def test_the_paper_has_the_operators_that_are_measured():
    assert set(real_tables.PAPER) <= set(real.OVER_TIME)


def test_what_is_printed(tmp_path, capsys):
    real_tables.main(tmp_path / "real.json")
    assert "real.json holds no tested run yet" in capsys.readouterr().out
    rows = [row("photos-one", method, 0.5) for method in PAPERS_ORDER] + [row(real.CORRUPTED, "inti", 0.5)]
    real_tables.main(written(tmp_path, [*rows, row("arid6_small", "stdha", 0.5)]))
    out = capsys.readouterr().out
    assert out.count("test clips") == 3 and out.count("Agreement") == 1 and "1 of the operators" in out


def test_the_figure_and_the_operators_table_show_what_is_measured(tmp_path):
    rows = [row("photos-one", method, top1, seed, chance=0.2)
            for method, top1 in (("stdha", 0.5), ("probe", 0.2)) for seed in (0, 1)]
    path = written(tmp_path, [*rows, row("sit", "hr-qkv", 0.8, chance=0.5)])
    assert real_tables.tested(path) == ["photos-one", "sit"]
    figure = real_tables.results_figure(["photos-one", "sit"], path)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["hr-qkv", "stdha", "probe"]
    points = {tuple(line.get_ydata()): list(line.get_xdata()) for line in figure.axes[0].lines[:-1]}
    assert points == {(1, 1): [0.5, 0.5], (2, 2): [0.2, 0.2]} and list(figure.axes[1].lines[-1].get_xdata()) == [0.5, 0.5]
    table = cells(real_tables.order_table(["photos-one", "sit"], path))
    assert table["stdha"]["photos-one"] == "50.0" and table["stdha"]["sit"] == "" and table["hr-qkv"]["sit"] == "80.0"
    assert table["stdha"]["the paper, SSv2"] == "66.0" and list(table) == list(real_tables.PAPER)
    assert real_tables.extremes("photos-one", ("stdha", "probe", "full"), path=path) == (0.2, 0.5)


def test_the_curves_count_clips_in_the_budget_of_each_set(tmp_path):
    rows = [row("photos-one", "stdha", 0.5, seed, (0.1, 0.2, 0.3, 0.4), chance=0.2) for seed in (0, 1)]
    rows += [row(real.LARGE, "hr-qkv", 0.5, 0, (0.6, 0.9), chance=0.2)]
    figure = real_tables.learning_figure(["photos-one", real.LARGE], ["stdha", "hr-qkv"], written(tmp_path, rows))
    left, right = ([(list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines] for axis in figure.axes)
    assert left[:2] == [([800, 1600, 2400, 3200], [0.1, 0.2, 0.3, 0.4])] * 2 and left[2][1] == [0.2, 0.2] and len(left) == 3
    assert right[0] == ([2400, 4800], [0.6, 0.9]) and len(right) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["stdha", "hr-qkv"]
    with pytest.raises(ValueError, match="photos-two is not in real.json yet"):
        real_tables.learning_figure(["photos-two"], ["stdha"], tmp_path / "real.json")
