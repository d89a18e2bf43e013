"""Calls of make experiments that are stopped, and calls side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from _processes import alive, wait_until

from i2vlib.course import experiments, jobs
from i2vlib.course.experiments import RUNS
from i2vlib.presets import PROTOCOLS


def row(preset: str, tower: str, seed: int) -> dict:
    return {"preset": preset, "tower": tower, "seed": seed, "steps": PROTOCOLS["mini-motion"].train.steps}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name, code", [("SIGINT", 1), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_a_call_that_is_stopped_keeps_what_was_measured_and_leaves_nobody_behind(tmp_path, monkeypatch, name, code):
    path, victim = tmp_path / "results.json", Path(__file__).with_name("_experiments_victim.py")
    first, second, third = ((*r, 0) for r in RUNS[:3])
    call = subprocess.Popen([sys.executable, victim, "--out", path, "--seeds", "1", "--jobs", "1"], stderr=subprocess.PIPE,
                            text=True, env={**os.environ, "PYTHONPATH": str(Path(experiments.__file__).parents[2])})
    try:
        wait_until(lambda: list(tmp_path.glob(f"{second[0]} *")) or call.poll() is not None, 120)
        assert jobs.load_rows(path) == [row(*first)]
        # a call beside it: neither does the run that the first is at again, nor is a row of either lost
        done = []
        monkeypatch.setattr(experiments, "run", lambda *job: (done.append(job), row(*job))[1])
        assert [experiments.measure(job, path) for job in (first, second, third)] == [None, None, row(*third)]
        assert done == [third]
        call.send_signal(getattr(signal, name))
        error = call.communicate(timeout=60)[1]
    finally:
        call.kill()
    assert call.returncode == code and (name != "SIGINT" or "stopped: 2 runs are in" in error), error
    trained = [int(p.name.split()[-1]) for p in tmp_path.glob("*-mini-* *")]
    assert len(set(trained)) == 1
    wait_until(lambda: not any(map(alive, trained)), 10)
    assert jobs.load_rows(path) == [row(*first), row(*third)]
    assert experiments.measure(second, path) == row(*second)  # taken over


def test_rows_that_are_written_side_by_side_are_all_kept(tmp_path):
    path, rows = tmp_path / "results.json", [row(*RUNS[i % 3], i) for i in range(24)]
    path.write_text(json.dumps([row("gone", "mini", 0), {**row(*RUNS[0], 99), "steps": 1}]))  # no run of today
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda r: experiments.record(r, path), rows))
    assert sorted(jobs.load_rows(path), key=lambda r: r["seed"]) == rows
    experiments.record({**rows[0], "top1": 1.0}, path)  # measured anew
    assert len(jobs.load_rows(path)) == 24 and {**rows[0], "top1": 1.0} in jobs.load_rows(path)


def test_a_run_that_fails_is_free_again(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory")

    job, path = (*RUNS[0], 0), tmp_path / "results.json"
    monkeypatch.setattr(experiments, "run", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        experiments.measure(job, path)
    monkeypatch.setattr(experiments, "run", row)
    assert experiments.measure(job, path) == row(*job)
    assert {p.name for p in tmp_path.iterdir()} <= {"results.json", ".results.json.lock"}


def half(job: tuple, path: Path) -> dict | None:
    """Every second run fails."""
    if job[2] % 2:
        raise ValueError(f"the loss is nan in seed {job[2]}")
    experiments.record(row(*job), path)
    return row(*job)


def test_a_run_that_fails_does_not_end_the_others_and_is_named(tmp_path, capsys):
    path, todo = tmp_path / "results.json", [(*RUNS[0], seed) for seed in range(4)]
    failed = jobs.measure_all(todo, path, half, experiments.job_of, 2)
    assert sorted(failed) == [todo[1], todo[3]] and [r["seed"] for r in jobs.load_rows(path)] == [0, 2]
    said = capsys.readouterr().out
    assert f"failed: {' '.join(map(str, todo[3]))}: ValueError: the loss is nan in seed 3" in said and "another call" not in said
    jobs.finish([])
    with pytest.raises(SystemExit, match=r"2 run\(s\) failed"):
        jobs.finish(failed)
