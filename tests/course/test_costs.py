"""Printed costs beside counted ones, what is said where they differ; what training keeps, by hand and by a pass that computes."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import i2vlib as i2v
from i2vlib.config import ModelConfig, TemporalConfig, TowerConfig
from i2vlib.course import costs, timings
from i2vlib.course.costs import cells, parameters
from i2vlib.course.timings import Form, forms, given, kept, latencies, quartiles, rivals, standing, step_times
from i2vlib.measure import kept_for_backward, multiply_adds
from i2vlib.presets import PRESETS

TINY = TowerConfig(32, 16, 24, 12, 4, 2.0, 10, quick_gelu=True)  # 12 blocks, as sites and decoders want them


# ---- the printed columns ----

def test_what_agrees_says_nothing_and_what_does_not_says_why():
    found = cells()
    assert all(bool(cell.why) != cell.agrees for cell in found), [c for c in found if bool(c.why) == c.agrees]
    assert (len(found), sum(cell.agrees for cell in found)) == (156, 130)
    assert {cell.group for cell in found} == set(costs.GROUPS) and {cell.column for cell in found} == set(costs.COLUMNS)
    for group in ("image tower, ZeroI2V", "UniFormerV2", "InTI"):
        assert all(cell.agrees for cell in found if cell.group == group)


def test_a_printed_number_is_rounded_to_its_own_digits():
    cell = cells()[0]
    assert replace(cell, printed=421.9).agrees and not replace(cell, printed=426.5).agrees
    small = next(c for c in cells() if c.row == "heads")  # 4.72
    assert replace(small, printed=5).agrees and not small.agrees and replace(small, printed=4.7).agrees


def test_the_numbers_in_the_reasons():
    said = {(c.table, c.group, c.row, c.column): c for c in cells() if c.why}
    evl, uniform = PRESETS["evl-b16-8f-k400"], costs.giga(PRESETS["uniformerv2-b16-16f-k400"])
    tables = 4 * 2 * 27**2 * 768 / 1e6
    assert round(tables, 1) == 4.5 and "4.5 M" in said["ZeroI2V 4", "EVL", "b16, 8 f", "M in all"].why
    assert round(parameters(evl)[0] - tables) in (114, 115) and round(parameters(evl)[1] - tables, 1) == 28.4
    large = parameters(PRESETS["evl-l14-8f-k400"])[1]
    assert round(large) == 58 and round(large - 4 * 2 * 31**2 * 1024 / 1e6) == 50, "for ViT-L the tables are counted"
    for name, layers, without in (("evl-b16-16f-k400", 4, "296.0"), ("evl-b16-16f-ssv2", 12, "326")):
        value = costs.giga(PRESETS[name]) - layers * 4 * 15 * 196**2 * 768 / 1e9
        assert f"{value:.{without.count('.')}f}" == without and any(without in c.why for c in said.values())
    st = [costs.giga(costs._st("b16", 16, "ssv2", places)) - 281.0 for places in (1, 2)]
    assert [round(x) for x in st] == [22, 44] and 318 - 281 == 37
    tome = PRESETS["tome+-b16-16f-k400"]
    by_r = {r: costs.giga(replace(tome, compression=replace(tome.compression, remove=r))) for r in (10, 11)}
    assert [f"{x:.1f}" for x in by_r.values()] == ["199.1", "189.5"]
    assert f"{parameters(PRESETS['inti+-l14-16f-k400'])[0] + 2 * 1024**2 / 1e6:.1f}" == "375.2"
    assert [f"{x / 1.048576:.1f}" for x in (10.65, 21.30, 3.58)] == ["10.2", "20.3", "3.4"]
    assert 12 * 4 * 2 * 64 * 768 == 4608 * 1024
    assert f"{costs.giga(PRESETS['linearpool+-b16-16f-k400']):.1f}" == "174.3" and 0.58 < 174.3 / uniform < 0.62
    twice = said["ZeroI2V 5", "EVL", "l14, 32 f", "extra GFLOPs"]
    assert twice.printed / twice.ours == pytest.approx(2, abs=0.02)
    for name, share in (("aim-l14-32f-ssv2", 0.003), ("evl-l14-8f-k400", 0.002)):
        total = next(c for c in cells() if c.config == PRESETS[name] and c.column == "GFLOPs")
        assert total.deviation == pytest.approx(0, abs=share)


def test_what_merges_is_counted_merged():
    config = PRESETS["zeroi2v-b16-8f-k400"]
    assert costs.inference(config).adaptation == i2v.AdaptationConfig() and costs.giga(config) == costs.giga(costs.bare(config))
    gelu = PRESETS["gelu-4-b16-8f-ssv2"]
    assert costs.inference(gelu) == gelu and costs.giga(gelu) > costs.giga(costs.bare(gelu))
    assert parameters(costs.inference(config))[0] - parameters(costs.bare(config))[0] == pytest.approx(8 * 768 / 1e6)


def test_the_figure_and_the_table_show_every_cell():
    found = cells()
    axis = costs.deviations(found).axes[0]
    marks = [line for line in axis.lines if line.get_marker() in "os" and len(line.get_xdata()) == 1]
    assert len(marks) == 156 and sum(line.get_markerfacecolor() == "white" for line in marks) == 26
    assert axis.title.get_text().startswith("130 of 156")
    assert "+52" in " ".join(text.get_text() for text in axis.texts)
    lines = costs.exceptions(found).splitlines()
    assert len(lines) == 2 + 26 and all(line.count("|") == 8 for line in lines)


# ---- what training keeps ----

@pytest.mark.parametrize("name", ["straightforward", "default", "blocks recomputed", "upper 4 blocks", "with InTI", "EVL",
                                  "full fine-tuning"])
def test_bytes_on_shapes_are_those_of_a_pass_that_computes(name):
    form = forms(TINY, 8, 5)[name]
    model = i2v.build_model(form.config).train()
    with form.around(model) if form.around is not nullcontext else nullcontext():
        assert kept(form) == kept_for_backward(model, given(form.config)) > 0
    assert kept(form, clips=2) > 1.9 * kept(form)


@pytest.mark.parametrize("name, units, small", [
    ("straightforward", 20, 16), ("default", 13, 12), ("blocks recomputed", 1, 0), ("full fine-tuning", 16, 16)])
def test_a_block_keeps_what_the_hand_says(name, units, small):
    """Streams of T·N·D numbers; small: attention's number a query and head and, where norms are not recomputed, two a norm."""
    tower, (long, short) = timings.SHAPES["ViT-B/16"], (12, 11)
    found = [kept(forms(replace(tower, layers=layers))[name]) for layers in (long, short)]
    assert found[0] - found[1] == 8 * 197 * (units * 768 + small) * 4


def test_standing_memory_is_weights_and_three_numbers_for_each_that_trains():
    form = forms(TINY, 8, 5)["default"]
    model = i2v.build_model(form.config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert standing(form) == (4 * sum(p.numel() for p in model.parameters()), 12 * trained)
    upper = Form(replace(form.config, upper=4))
    block = sum(p.numel() for p in i2v.VideoClassifier(ModelConfig(TINY)).backbone.transformer.resblocks[0].parameters())
    assert standing(upper)[0] < standing(form)[0] - 8 * 4 * block


def test_table_10_is_of_the_papers_models():
    rows = timings.table_10(timings.SHAPES["ViT-B/16"])
    tuned = {"EVL, SSv2": 98, "ST-Adapter, K400": 7, "ST-Adapter, SSv2": 14, "AIM, K400": 11, "AIM, SSv2": 14, "ZeroI2V": 14}
    assert all(abs(parameters(rows[name][0].config)[1] - millions) < 0.7 for name, millions in tuned.items())


@pytest.mark.parametrize("name", ["straightforward", "default", "blocks recomputed", "upper 4 blocks", "with InTI", "EVL",
                                  "full fine-tuning"])
def test_the_work_of_a_step_is_what_a_counter_sees(name):
    """Forward and backward under PyTorch's operator counter, with the plain form of attention. The counter takes the gradient of
    a depth-wise kernel for that of a full one, D times as much."""
    tower = replace(TINY, mlp_ratio=4.0)
    form, D = forms(tower, 8, 5)[name], TINY.width
    pooled = 3 * (8 + 4 + 2) + 3 * (4 + 2 + 1)  # of InTI's two sites, as the cubes' kernels on 8 and 4 frames of 4 patches
    kernels = {"with InTI": D * (27 * (8 + 4) * 4 + pooled), "EVL": D * 4 * 3 * 8 * 5}.get(name, 0)
    model = i2v.build_model(form.config).train()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with form.around(model) if form.around is not nullcontext else nullcontext():
            model(given(form.config)).square().sum().backward()
    assert timings.step_multiply_adds(form) == counter.get_total_flops() // 2 - (D - 1) * kernels


# ---- seconds and pictures ----

def test_quartiles_are_of_ratios_within_a_round():
    found = quartiles({"a": [2.0, 40.0, 9.0, 8.0, 5.0], "b": [1.0, 20.0, 3.0, 2.0, 1.0]}, "b")
    assert found == {"a": (2.0, 3.0, 4.0), "b": (1.0, 1.0, 1.0)}
    assert quartiles({"a": [2.0], "b": [1.0]}, "b")["a"] == (2.0, 2.0, 2.0)


def test_models_and_forms_are_timed_and_drawn(tmp_path):
    seconds = latencies(TINY, 8, 1, 1)
    live = quartiles(seconds, "image tower")
    assert list(live) == list(rivals(TINY)) and all(len(times) == 1 for times in seconds.values())
    counted = {name: multiply_adds(c) for name, c in rivals(TINY).items()}
    step = quartiles(step_times(forms(TINY, 8, 5), 1), "straightforward")
    assert step["straightforward"] == (1.0, 1.0, 1.0)
    run = {"tower": "tiny", "latency": live, "step": step}
    axis = timings.latency_figure(live, counted, run).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == list(reversed(live))[:-1]
    assert len(timings.trade_figure(dict.fromkeys(step, 0.5), dict.fromkeys(step, 1.0), step, run).axes) == 2
    assert len(timings.trade_figure(dict.fromkeys(step, 0.5), dict.fromkeys(step, 1.0), step).axes) == 1
    (tmp_path / "costs.json").write_text(json.dumps(run))
    assert timings.read_kept(tmp_path / "costs.json")["tower"] == "tiny" and timings.read_kept(tmp_path / "none.json") == {}


def test_they_run_in_half_precision_as_on_a_gpu():
    assert all(latencies(TINY, 4, 2, 1, dtype=torch.bfloat16).values())
    assert all(step_times(forms(TINY, 4, 5), 1, 2, dtype=torch.bfloat16).values())


def test_the_kept_run_is_of_these_models_and_forms():
    run = timings.read_kept()
    assert set(run["latency"]) == set(rivals(TINY)) and set(run["step"]) == set(forms(TINY))
    for found in (run["latency"], run["step"]):
        assert all(low <= middle <= high for low, middle, high in found.values())


def test_the_straightforward_form_gives_the_same_gradients():
    torch.manual_seed(0)
    config = replace(forms(TINY, 8, 5)["default"].config, head_dropout=0.0)
    config = replace(config, adaptation=replace(config.adaptation, dropout=0.0), temporal=TemporalConfig((-1, 1, 0, 0), True))
    model, clip, grads = i2v.build_model(config).double().train(), given(config).double(), []
    for around in (timings.straightforward(model), nullcontext()):
        model.zero_grad()
        with around:
            model(clip).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
