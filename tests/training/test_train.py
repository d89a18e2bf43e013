"""Training: what is learnt, what is optimised how, and that nothing which stops a run changes its result."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import _train_victim as victim
import av
import numpy as np
import pytest
import torch
from _processes import alive, wait_until
from _train_victim import MODEL, TRAIN, TinySet, tiny_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_video import encode
from timm.scheduler import CosineLRScheduler

from i2vlib.config import AdaptationConfig, ConfigError
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.loading import Batches, mix, total_steps
from i2vlib.data.video import write_clip
from i2vlib.protocol import ClipConfig
from i2vlib.tower import backbone
from i2vlib.tower.checkpoints import load_checkpoint
from i2vlib.training import runs
from i2vlib.training.evaluate import evaluate
from i2vlib.training.mixing import mix_clips
from i2vlib.training.optimiser import lr_factor, parameter_groups
from i2vlib.training.runs import TrainingError
from i2vlib.training.state import SavedRun
from i2vlib.training.train import train

SHORT = replace(TRAIN, steps=4, save_every=100)
MIXED = replace(TRAIN, mixup=0.8, cutmix=1.0, repeats=2)


def run(model, data, config, out, **options) -> dict:
    return train(model, data, config, out, progress=False, **options)


def lines(out: Path, split: str = "train") -> list[dict]:
    read = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if line["split"] == split]


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def weights(model) -> dict:
    return {k: v.clone() for k, v in model.state_dict().items()}


# ---- stopping and going on -------------------------------------------------------------------------------------------

@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes to be killed are forked")
def test_killed_runs_end_with_the_weights_of_an_uninterrupted_one(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(runs.__file__).parents[2]), "OMP_NUM_THREADS": "1",
           "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, victim.__file__, "killed", tmp_path], env=env, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, killed = (runs.read_state(tmp_path / name) for name in ("whole", "killed"))
    assert equal(whole["model"], killed["model"])
    assert not equal(whole["model"], tiny_model().state_dict())  # something was learnt
    for name in ("model.safetensors", "best.safetensors"):
        assert equal(*(load_checkpoint(tmp_path / run / name).state_dict() for run in ("whole", "killed")))
    assert equal(load_checkpoint(tmp_path / "killed" / "model.safetensors").state_dict(), whole["model"])
    timeless = [{k: v for k, v in line.items() if k != "clips_per_second"} for line in lines(tmp_path / "whole")]
    assert [{**line, "clips_per_second": 0} for line in timeless] == [
        {**line, "clips_per_second": 0} for line in lines(tmp_path / "killed")]
    assert [line["step"] for line in timeless] == list(range(1, 11))
    assert lines(tmp_path / "whole", "val") == lines(tmp_path / "killed", "val")
    assert [line["step"] for line in lines(tmp_path / "killed", "val")] == [4, 7, 10]
    for name in ("loss", "epochs", "top1", "top5", "best", "bad_files", "steps"):
        assert whole["summary"][name] == killed["summary"][name]
    assert killed["summary"]["bad_files"] == {"clips/3.mp4": "no video stream"}
    board = EventAccumulator(str(tmp_path / "killed" / "tb")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 11))


def test_processes_share_a_run(tmp_path):
    two = together(["shared", tmp_path / "two"])
    assert two.returncode == 0, two.stdout + two.stderr
    one = victim.share(tmp_path / "one")
    saved = runs.read_state(tmp_path / "two")
    summary = saved["summary"]
    assert (summary["processes"], one["processes"]) == (2, 1)
    for name in ("top1", "top5", "bad_files", "epochs", "steps"):
        assert summary[name] == one[name]
    assert set(one["bad_files"]) == {"clips/1.mp4", "clips/3.mp4", "clips/4.mp4"}
    assert two.stdout.count("left out clips/3.mp4") == 1
    for name, weight in runs.read_state(tmp_path / "one")["model"].items():
        assert torch.allclose(saved["model"][name], weight, atol=1e-5), name
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    # the same once more, but the second process is killed, and torchrun starts both again
    folder = tmp_path / "killed"
    folder.mkdir()
    killed = together(["shared", folder / "run", signal.SIGKILL.value], "--max-restarts=1")
    assert killed.returncode == 0 and "exitcode: -9" in killed.stdout + killed.stderr, killed.stdout + killed.stderr
    assert equal(saved["model"], runs.read_state(folder / "run")["model"])
    assert [line["loss"] for line in lines(folder / "run")] == [line["loss"] for line in lines(tmp_path / "two")]
    recorded = [int(path.name.split()[1]) for path in folder.glob("process *")]
    assert len(recorded) >= 8  # two that train and two that decode, twice; those that decode for testing
    # what a killed process had decoding for it looks every 5 seconds whether it is still there
    wait_until(lambda: not any(map(alive, recorded)), 15)


def together(task: list, *options: str) -> subprocess.CompletedProcess:
    """Two processes of _train_victim.py, started by torchrun on a machine that shows no GPU."""
    env = {**os.environ, "PYTHONPATH": str(Path(runs.__file__).parents[2]), "OMP_NUM_THREADS": "1",
           "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options,
                           victim.__file__, *map(str, task)], env=env, capture_output=True, text=True, timeout=300)


def test_sigterm_in_one_of_two_stops_both_after_one_step_and_one_process_goes_on(tmp_path):
    """Where accumulate keeps the number of micro-batches, also with dropout and mixup; else the run is refused."""
    stopped = together(["drawn", tmp_path / "run", signal.SIGTERM.value])
    assert stopped.returncode != 0 and "holds step 5" in stopped.stdout, stopped.stdout + stopped.stderr
    saved = runs.read_state(tmp_path / "run")
    assert (saved["step"], saved["processes"], len(lines(tmp_path / "run"))) == (5, 2, 5)
    with pytest.raises(ConfigError, match=r"accumulate = 2 x 1 process.* makes 2 micro-batches a step, but .* has 4, and draws"):
        victim.drawn(tmp_path / "run", 2)
    assert victim.drawn(tmp_path / "run", 4)["processes"] == 1
    victim.drawn(tmp_path / "one", 4)
    one, run = (runs.read_state(tmp_path / name)["model"] for name in ("one", "run"))
    for name, weight in one.items():
        assert torch.allclose(run[name], weight, atol=1e-5), name


class InterruptedSet(TinySet):
    """Ctrl-C is pressed, or another signal arrives, while the nth clip is read, in this process as all is in memory."""

    left, signal, memory = 0, signal.SIGINT, range(20)

    def __getitem__(self, i):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.signal)
        return super().__getitem__(i)


@pytest.mark.parametrize("where, config, name", [
    ("reading", TRAIN, "SIGINT"), ("updating", TRAIN, "SIGINT"), ("reading", MIXED, "SIGINT"), ("updating", MIXED, "SIGINT"),
    ("reading", TRAIN, "SIGTERM"), ("updating", TRAIN, "SIGTERM"), ("updating", TRAIN, "SIGHUP")])
def test_a_signal_saves_a_whole_step(tmp_path, where, config, name):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} here")
    number = getattr(signal, name)
    whole = tiny_model()
    run(whole, TinySet(), config, tmp_path / "whole")
    model, data = tiny_model(), InterruptedSet()
    data.signal = number
    if where == "reading":
        data.left = 20 * config.repeats  # in step 4
    calls = iter(range(1, 1000))

    def press(*_) -> None:
        if where == "updating" and next(calls) == 7:  # the first half of step 4
            signal.raise_signal(number)

    hook = model.register_forward_hook(press)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if name == "SIGINT" else SystemExit) as stopped:
        run(model, data, replace(config, save_every=100), tmp_path / "cut")
    assert name == "SIGINT" or stopped.value.code == {"SIGTERM": 143, "SIGHUP": 129}[name]
    assert signal.getsignal(number) is before
    assert runs.read_state(tmp_path / "cut")["step"] == (3 if where == "reading" else 4)
    hook.remove()
    data.left = 0
    other = tiny_model()  # its weights come from the file
    run(other, data, replace(config, save_every=100), tmp_path / "cut")
    assert equal(whole.state_dict(), other.state_dict())


def test_a_finished_run_returns_its_summary_and_weights(tmp_path):
    model = tiny_model()
    summary = run(model, TinySet(), SHORT, tmp_path)
    other, data = tiny_model(), InterruptedSet()
    data.left = 1  # any read would interrupt
    assert run(other, data, SHORT, tmp_path) == summary
    assert equal(other.state_dict(), model.state_dict())
    assert len(lines(tmp_path)) == 4
    (tmp_path / "note.txt").write_text("mine")
    run(tiny_model(), TinySet(), replace(SHORT, steps=2), tmp_path, resume=False)
    assert len(lines(tmp_path)) == 2 and (tmp_path / "note.txt").exists()
    assert runs.read_state(tmp_path)["step"] == 2


def test_resuming_with_other_settings_names_the_field(tmp_path):
    run(tiny_model(), TinySet(), SHORT, tmp_path)
    with pytest.raises(ConfigError, match=r"TrainConfig.lr = 0.02, but the run in .* has 0.01"):
        run(tiny_model(), TinySet(), replace(SHORT, lr=0.02), tmp_path)
    with pytest.raises(ConfigError, match=r"ModelConfig.adaptation.ratio = 0.5, but .* has 0.25"):
        run(tiny_model(adaptation=replace(MODEL.adaptation, ratio=0.5)), TinySet(), SHORT, tmp_path)
    with pytest.raises(ConfigError, match="has 21 clips, but that of the run in .* had 20"):
        run(tiny_model(), TinySet(21), SHORT, tmp_path)
    run(tiny_model(), TinySet(), replace(SHORT, workers=1, save_every=1), tmp_path)  # do not touch the weights


class ListedSet(TinySet):
    """A set whose list, clip settings and seed can be other than those of a TinySet of the same length."""

    def __init__(self, paths: str = "clips", clip: ClipConfig | None = None, seed: int = 0):
        super().__init__(seed=seed)
        self.clip = clip or ClipConfig(2, size=16)
        for entry in self.entries:
            entry.path = entry.path.replace("clips", paths)


@pytest.mark.parametrize("steps", [4, 2])
def test_what_another_run_was_trained_on_is_refused(tmp_path, steps):
    """Both for a finished run and for one that stopped after step 2."""
    data = ListedSet()
    run(tiny_model(), data, SHORT, tmp_path)
    if steps == 2:
        state = runs.read_state(tmp_path)
        runs.write_state(tmp_path, {**state, "step": 2, "summary": None})
    before = (tmp_path / "state.pt").read_bytes()
    for other in (ListedSet("others"), ListedSet(clip=ClipConfig(2, size=16, flip=0.25)), ListedSet(seed=1)):
        with pytest.raises(ConfigError, match="training set's list, clip settings or seed .* another folder, or resume"):
            run(tiny_model(), other, SHORT, tmp_path)
    frozen = tiny_model()
    with torch.no_grad():
        frozen.backbone.conv1.weight[0, 0, 0, 0] += 1  # one number of other image weights
    for model in (tiny_model(seed=9), frozen):
        with pytest.raises(ConfigError, match="model's initial weights are not .* another folder, or resume=False"):
            run(model, data, SHORT, tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before
    run(tiny_model(), ListedSet(), SHORT, tmp_path)


def test_a_cell_that_trains_may_be_run_again(tmp_path):
    """With the model that the first call left, after Ctrl-C and after the end; a new one still goes on then."""
    model, data = tiny_model(), InterruptedSet()
    data.left = 20
    with pytest.raises(KeyboardInterrupt):
        run(model, data, SHORT, tmp_path)
    assert runs.read_state(tmp_path)["step"] == 3
    summary = run(model, data, SHORT, tmp_path)
    assert summary["steps"] == 4 and run(model, data, SHORT, tmp_path) == summary
    assert run(tiny_model(), data, SHORT, tmp_path) == summary


@pytest.mark.parametrize("name", ["model.safetensors", "best.safetensors", "metrics.jsonl"])
def test_what_a_folder_without_a_state_holds_is_kept(tmp_path, name):
    for other in (name, "merged.safetensors", ".model.safetensors.12.part", "state.pt.part"):
        (tmp_path / other).write_text("of another run")
    with pytest.raises(ConfigError, match=f"no state.pt to go on from, but holds {name}, .*resume=False to discard"):
        run(tiny_model(), TinySet(), SHORT, tmp_path)
    assert (tmp_path / name).read_text() == "of another run"
    run(tiny_model(), TinySet(), SHORT, tmp_path, resume=False)
    assert (tmp_path / "merged.safetensors").read_text() == "of another run" and len(lines(tmp_path)) == 4
    assert not list(tmp_path.glob("*.part"))


def test_a_run_killed_before_it_learnt_anything_may_begin_with_other_settings(tmp_path):
    data = InterruptedSet()
    data.left = 1
    with pytest.raises(KeyboardInterrupt):
        run(tiny_model(), data, SHORT, tmp_path)
    assert runs.read_state(tmp_path)["step"] == 0
    assert run(tiny_model(seed=9), TinySet(), replace(SHORT, lr=0.02), tmp_path)["steps"] == 4


def test_a_broken_state_file_is_named(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match="state.pt cannot be read"):
        run(tiny_model(), TinySet(), SHORT, tmp_path)
    run(tiny_model(), TinySet(), SHORT, tmp_path, resume=False)


def test_the_state_runs_no_code(tmp_path):
    run(tiny_model(), TinySet(), SHORT, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert json.loads(state["model_config"]) == json.loads(MODEL.to_json()) | {
        "tower": json.loads(tiny_model().config.tower.to_json())}
    assert json.loads(state["train_config"]) == json.loads(SHORT.to_json())
    assert {"model", "optimizer", "schedule", "sampler", "random", "step"} <= set(state)


def test_what_a_new_run_would_save_is_the_pair_of_seed_and_step(tmp_path):
    fresh = SavedRun(tiny_model(), TinySet(), SHORT, tmp_path, None, False)
    fresh.step = 3
    state = fresh.state()
    assert state["sampler"] == {"seed": 7, "place": 18} and state["random"] == {"seed": 7, "step": 3}


# ---- what is optimised, and how --------------------------------------------------------------------------------------

def test_it_learns(tmp_path):
    model = tiny_model(adaptation=AdaptationConfig("full"), head_dropout=0.0)
    config = replace(TRAIN, steps=60, batch_size=12, lr=5e-3, label_smoothing=0.0)
    summary = run(model, TinySet(60), config, tmp_path, val_set=TinySet(30, seed=5000))
    assert summary["top1"] >= 0.9
    assert summary["loss"] < 0.5 * lines(tmp_path)[0]["loss"]
    assert summary["best"]["top1"] >= summary["top1"] and (tmp_path / "best.safetensors").exists()
    assert equal(load_checkpoint(tmp_path / "model.safetensors").state_dict(), model.state_dict())
    assert not model.training


def test_it_validates_as_often_as_asked_and_a_resumed_run_may_ask_otherwise(tmp_path):
    data = TinySet(12), replace(SHORT, steps=5, validate_every=2), tmp_path
    run(tiny_model(), *data, val_set=TinySet(6, seed=5000))
    assert [line["step"] for line in lines(tmp_path, "val")] == [2, 4, 5]
    assert run(tiny_model(), data[0], replace(data[1], validate_every=0), tmp_path)["steps"] == 5
    with pytest.raises(ConfigError, match="TrainConfig.validate_every = -1: allowed is 0 .after each pass. or more"):
        replace(SHORT, validate_every=-1)


def test_only_what_requires_gradients_moves(tmp_path):
    model = tiny_model()
    before = weights(model)
    run(model, TinySet(), SHORT, tmp_path)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    trains = {k for k, p in model.named_parameters() if p.requires_grad}
    assert moved <= trains and {"head.weight", "backbone.temporal_embedding", "backbone.ln_post.weight"} <= moved


def test_groups():
    model = tiny_model(adaptation=AdaptationConfig("full"))
    groups = parameter_groups(model, replace(TRAIN, lr=1.0, backbone_lr=0.1, weight_decay=0.05))
    names = {p: name for name, p in model.named_parameters()}
    found = {names[p]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in model.parameters())
    block = "backbone.transformer.resblocks.1"
    for name, want in {
        "head.weight": (1.0, 0.05), "head.bias": (1.0, 0.0), "backbone.conv1.weight": (0.1, 0.05),
        "backbone.class_embedding": (0.1, 0.0), "backbone.positional_embedding": (0.1, 0.0),
        "backbone.temporal_embedding": (0.1, 0.0), "backbone.ln_pre.weight": (0.1, 0.0),
        f"{block}.attn.in_proj_weight": (0.1, 0.05), f"{block}.attn.in_proj_bias": (0.1, 0.0),
    }.items():
        assert found[name] == want, name
    decayed = parameter_groups(model, replace(TRAIN, lr=1.0, backbone_lr=0.1, weight_decay=0.05, decay_biases=True))
    decayed = {names[p] for g in decayed for p in g["params"] if g["weight_decay"]} - {k for k, v in found.items() if v[1]}
    assert {"head.bias", f"{block}.attn.in_proj_bias", f"{block}.attn.out_proj.bias", f"{block}.mlp.c_fc.bias"} <= decayed
    assert all(name.endswith("bias") and "ln_" not in name for name in decayed), "biases, and none of a norm"
    adapters = parameter_groups(tiny_model(), TRAIN)
    assert sum(p.numel() for g in adapters for p in g["params"]) < sum(p.numel() for p in model.parameters()) / 2


def test_the_learning_rate_of_each_step(tmp_path):
    config = replace(TRAIN, steps=10, lr=1.0, warmup=0.2, warmup_start=0.1)
    got = [lr_factor(step, 10, config) for step in range(11)]
    assert got[:3] == pytest.approx([0.1, 0.55, 1.0])
    assert got[6] == pytest.approx(0.5) and got[10] == pytest.approx(0.0)
    assert all(a > b for a, b in zip(got[2:], got[3:], strict=False))
    run(tiny_model(), TinySet(), replace(config, lr=1e-2), tmp_path)
    assert [line["lr"] for line in lines(tmp_path)] == pytest.approx([1e-2 * factor for factor in got[:10]])


def test_the_learning_rate_of_two_schedulers_side_by_side(tmp_path):
    """40 epochs of 10 steps, 2.5 of them warm-up: MMEngine's LinearLR by step times its CosineAnnealingLR by epoch."""
    config = replace(TRAIN, epochs=40, steps=0, warmup=2.5 / 40, warmup_start=0.1, cosine="times")
    got = [lr_factor(step, 400, config) for step in range(400)]
    stair = [0.5 * (1 + math.cos(math.pi * epoch / 40)) for epoch in range(40)]
    assert got[0] == pytest.approx(0.1) and got[9] == pytest.approx(0.1 + 0.9 * 9 / 24)
    assert got[10] == pytest.approx((0.1 + 0.9 * 10 / 24) * stair[1]) and got[24] == pytest.approx(stair[2])
    assert got[25:30] == pytest.approx([stair[2]] * 5) and got[395] == pytest.approx(stair[39])
    smooth = [lr_factor(step, 400, replace(config, steps=400)) for step in range(400)]
    assert smooth[200] == pytest.approx(0.5) and len(set(smooth)) == 400


def test_the_learning_rate_of_timms_schedule():
    """30 epochs of 10 steps, 5 of them warm-up, against timm's own scheduler as ViFi-CLIP's code calls it."""
    config = replace(TRAIN, warmup=5 / 30, warmup_start=0.0, cosine="whole", lr_end=0.01)
    got = [lr_factor(step, 300, config) for step in range(301)]
    assert got[0] == 0 and got[25] == pytest.approx(0.5) and got[49] == pytest.approx(0.98)
    assert got[50] == pytest.approx(0.01 + 0.99 * (0.5 + math.sqrt(3) / 4)), "down from 1: a sixth of the way to cos π"
    assert got[150] == pytest.approx(0.505) and got[300] == pytest.approx(0.01)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = CosineLRScheduler(optimiser, t_initial=300, lr_min=0.01, warmup_lr_init=0, warmup_t=50, cycle_limit=1,
                               t_in_epochs=False)
    for step in range(300):
        theirs.step_update(step)
        assert got[step] == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12), step


def test_the_learning_rate_of_uniformerv2s_schedule():
    """22 epochs of 10 steps, 5 of them warm-up: from and to 1e-6 of 4e-5, by the formula of slowfast's lr_policy."""
    config = replace(TRAIN, warmup=5 / 22, warmup_start=0.025, lr_end=0.025)
    for step in range(220):
        epoch = step / 10
        want = 1e-6 + (4e-5 - 1e-6) * epoch / 5 if epoch < 5 else (
            1e-6 + (4e-5 - 1e-6) * (math.cos(math.pi * (epoch - 5) / 17) + 1) * 0.5)
        assert 4e-5 * lr_factor(step, 220, config) == pytest.approx(want, rel=1e-12), step


def test_one_step_is_adamw_on_the_mean_over_readable_clips(tmp_path):
    """Against a plain step written here, with accumulation, a bad clip, smoothing and clipping."""
    still = {"adaptation": replace(MODEL.adaptation, dropout=0.0), "head_dropout": 0.0}
    model, config, data = tiny_model(**still), replace(TRAIN, steps=1, batch_size=20, warmup=0.0), TinySet(bad=(3, 8))
    plain = copy.deepcopy(model)
    items = [data[i] for i in range(20) if i not in data.bad]
    optimiser = torch.optim.AdamW(parameter_groups(plain, config), betas=config.betas)
    logits = plain(torch.cat([item["video"] for item in items]))
    target = torch.tensor([item["label"] for item in items])
    torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1).backward()
    trained = [p for p in plain.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
    optimiser.step()
    run(model, data, config, tmp_path)
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


def test_one_step_on_repeated_and_mixed_clips(tmp_path):
    """Against a plain step written here: two versions of each clip, soft targets that are smoothed, two bad clips."""
    still = {"adaptation": replace(MODEL.adaptation, dropout=0.0), "head_dropout": 0.0}
    model, config, data = tiny_model(**still), replace(MIXED, steps=1, batch_size=20, warmup=0.0), TinySet(bad=(3, 8))
    plain, loss = copy.deepcopy(model), 0.0
    for micro, places in enumerate(Batches(20, config)):
        items = []
        for place in places:
            data.set_epoch(place // 20)
            items.append(data[place % 20])
        weight = torch.tensor([item["weight"] for item in items])
        torch.manual_seed(mix(config.seed, 0, micro, 0))
        video, target = mix_clips(torch.cat([item["video"] for item in items]), torch.tensor([item["label"] for item in items]),
                                  weight, 3, config.mixup, config.cutmix)
        assert (target.max(1).values < 1).any()
        loss -= (weight[:, None] * (0.9 * target + 0.1 / 3) * plain(video).log_softmax(1)).sum() / 36
    optimiser = torch.optim.AdamW(parameter_groups(plain, config), betas=config.betas)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in plain.parameters() if p.requires_grad], config.clip_norm)
    optimiser.step()
    summary = run(model, data, config, tmp_path)
    assert summary["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert set(summary["bad_files"]) == {"clips/3.mp4", "clips/8.mp4"}
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


def test_repeated_clips_are_in_the_order_with_a_number_of_their_own():
    once, twice = Batches(20, TRAIN), Batches(20, replace(TRAIN, repeats=2))
    assert len(twice) == len(once) and total_steps(20, replace(TRAIN, repeats=2)) == total_steps(20, TRAIN)
    for a, b in zip(once, twice, strict=True):
        first, second = b[: len(a)], b[len(a):]  # side by side, a clip would be mixed with itself
        assert [p % 20 for p in first] == [p % 20 for p in second] == [p % 20 for p in a]
        assert [p // 20 for p in first] == [p // 20 * 2 for p in a] and [p // 20 for p in second] == [p // 20 * 2 + 1 for p in a]
    assert sorted(p for batch in twice for p in batch) == list(range(120))
    halves = [Batches(20, replace(TRAIN, repeats=2, accumulate=1), rank, 2) for rank in (0, 1)]
    assert sorted(halves[0][1] + halves[1][1]) == sorted(twice[2] + twice[3])


@pytest.mark.parametrize("bad", [(), (3,)])
def test_a_bad_clip_among_repeated_ones_is_noted(tmp_path, bad):
    """Its batch still has as many readable crops as it has clips."""
    summary = run(tiny_model(), TinySet(6, bad=bad), replace(TRAIN, steps=1, repeats=2), tmp_path)
    assert list(summary["bad_files"]) == [f"clips/{i}.mp4" for i in bad]


def test_a_clip_alone_in_its_micro_batch_cannot_be_mixed():
    for name in ("mixup", "cutmix"):
        with pytest.raises(ConfigError, match=rf"TrainConfig.{name} = 0.5: a micro-batch of 1 clip .* \(accumulate 3 x 2 "):
            Batches(20, replace(TRAIN, accumulate=3, **{name: 0.5}), 0, 2)
    Batches(20, replace(TRAIN, accumulate=3), 0, 2)


def test_the_order_is_a_function_of_seed_and_step():
    batches = Batches(20, TRAIN)
    batches.start = 0
    places = [p for i in range(len(batches)) for p in batches[i]]
    assert sorted(places) == list(range(60))  # three whole passes
    assert sorted(p % 20 for p in places[20:40]) == list(range(20)) and all(p // 20 == 1 for p in places[20:40])
    assert [p % 20 for p in places[:20]] != [p % 20 for p in places[20:40]]
    later = Batches(20, TRAIN)
    later.start = 4
    assert [p for i in range(len(later)) for p in later[i]] == places[24:]
    other = Batches(20, replace(TRAIN, seed=8))
    assert [p for i in range(len(other)) for p in other[i]] != places
    halves = [Batches(20, replace(TRAIN, accumulate=1), rank, 2) for rank in (0, 1)]
    assert halves[0][1] + halves[1][1] == places[6:12]
    with pytest.raises(ConfigError, match="multiple of accumulate 2 x 4 processes"):
        Batches(20, TRAIN, 0, 4)


def test_a_batch_may_be_larger_than_the_set(tmp_path):
    assert run(tiny_model(), TinySet(4), replace(TRAIN, epochs=3, batch_size=6), tmp_path)["steps"] == 2


def test_the_set_is_told_its_pass_also_in_other_processes(tmp_path):
    for workers in (0, 1):
        run(tiny_model(), TinySet(), replace(TRAIN, workers=workers), tmp_path / str(workers))
    assert equal(*(runs.read_state(tmp_path / str(workers))["model"] for workers in (0, 1)))
    still = TinySet()
    still.set_epoch = lambda epoch: None  # the same clips each pass: another result
    run(tiny_model(), still, TRAIN, tmp_path / "still")
    assert not equal(*(runs.read_state(tmp_path / name)["model"] for name in ("0", "still")))


def test_many_models_one_after_the_other_in_one_process(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = tiny_model()
    for precision in ("no", "bf16", "no"):
        summary = run(model, TinySet(), replace(SHORT, precision=precision), tmp_path / "run", resume=False)
        assert summary["precision"] == precision
        assert not {"forward", "_original_forward", "_is_accelerate_prepared"} & set(vars(model))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not copied(torch.randn(1, 2, 3, 16, 16)).any()  # a copy runs its own weights
    tiny_model(seed=3)
    torch.manual_seed(3)
    run(model, TinySet(), SHORT, tmp_path / "last")
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers are untouched


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has no need of it")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_attention_in_bf16_on_a_cpu_is_not_the_fused_one(tmp_path, precision):
    model, fused = tiny_model(), []
    model.register_forward_pre_hook(lambda *_: fused.append(torch.backends.cuda.flash_sdp_enabled()))
    run(model, TinySet(), replace(SHORT, precision=precision), tmp_path)
    assert set(fused) == {precision == "no"} and torch.backends.cuda.flash_sdp_enabled(), "and afterwards as before"


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU cannot")
def test_blocks_that_are_computed_again_give_the_same_weights(tmp_path, monkeypatch):
    seen = []
    real = backbone.checkpoint
    monkeypatch.setattr(backbone, "checkpoint", lambda *args, **options: (seen.append(1), real(*args, **options))[1])
    models = [tiny_model() for _ in range(2)]
    for model, again in zip(models, (False, True), strict=True):
        run(model, TinySet(), replace(SHORT, recompute=again), tmp_path / str(again))
        assert len(seen) == again * SHORT.steps * SHORT.accumulate * model.config.tower.layers
    assert equal(*map(weights, models))


def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="TrainConfig.precision = 'fp16'"):
        run(tiny_model(), TinySet(), replace(SHORT, precision="fp16"), tmp_path)


# ---- what goes wrong -------------------------------------------------------------------------------------------------

def test_bad_files_are_survived_named_once_and_counted(tmp_path, capsys):
    bad = (0, 1, 2, 5, 9)
    data, config = TinySet(10, bad=bad), replace(TRAIN, epochs=6, batch_size=1, accumulate=1)  # batches of bad only
    summary = run(tiny_model(), data, config, tmp_path / "a", val_set=TinySet(6, bad=(0, 4)))
    assert set(summary["bad_files"]) == {f"clips/{i}.mp4" for i in {*bad, 4}}
    printed = capsys.readouterr().out
    for i in {*bad, 4}:
        assert printed.count(f"left out clips/{i}.mp4: no video stream") == 1
    assert lines(tmp_path / "a")[-1]["bad_files"] == 6 and math.isfinite(summary["loss"])
    assert 0.0 in [line["loss"] for line in lines(tmp_path / "a")]
    run(tiny_model(), data, config, tmp_path / "b", val_set=TinySet(6, bad=(0, 4)))
    assert equal(*(runs.read_state(tmp_path / name)["model"] for name in "ab"))


BROKEN = ["empty", "cut", "noise", "sound", "missing", "damaged"]


def write_broken_files(folder: Path) -> dict[str, int]:
    """Six videos that play and six files that do not, with labels."""
    moving = torch.randint(0, 255, (6, 24, 24, 3), dtype=torch.uint8)
    for i in range(6):
        write_clip(folder / f"good {i}.mp4", moving)
    whole = (folder / "good 0.mp4").read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    with av.open(str(folder / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    damaged = bytearray(encode(folder / "source.mp4", "libx264", g="250", bf="3").read_bytes())
    for i in range(damaged.index(b"mdat") + 900, damaged.index(b"moov") - 4, 7):
        damaged[i] ^= 0xFF
    (folder / "damaged.mp4").write_bytes(damaged)
    names = [f"good {i}" for i in range(6)] + BROKEN
    return {f"{name}.mp4": i % 3 for i, name in enumerate(names)}


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_among_good_ones(tmp_path, capfd, workers):
    labels = write_broken_files(tmp_path)
    (tmp_path / "train.txt").write_text("".join(f"{name} {label}\n" for name, label in labels.items()))
    clip = ClipConfig(2, size=16, short_side=16, test_short_side=16, test_clips=2)
    sets = [VideoDataset(tmp_path / "train.txt", tmp_path, clip, train=train) for train in (True, False)]
    config = replace(TRAIN, epochs=2, batch_size=4, workers=workers)
    summary = run(tiny_model(), sets[0], config, tmp_path / "run", val_set=sets[1])
    broken = {str(tmp_path / f"{name}.mp4") for name in BROKEN}
    assert set(summary["bad_files"]) == broken and all(summary["bad_files"].values())
    printed = capfd.readouterr().out
    assert all(printed.count(f"left out {path}: ") == 1 for path in broken)
    result = evaluate(tiny_model(), sets[1], progress=False)
    assert result.indices.tolist() == list(range(6))


class PoisonedSet(TinySet):
    def __getitem__(self, i):
        item = super().__getitem__(i)
        return {**item, "video": item["video"] * math.nan} if i == 13 else item


def test_a_loss_that_is_not_finite_names_step_and_clip(tmp_path):
    config = replace(TRAIN, save_every=1)
    order = [p % 20 for i in range(8) for p in Batches(20, config)[i]]
    step = order.index(13) // 6 + 1
    with pytest.raises(TrainingError, match=rf"the loss is nan in step {step}, from clips/13.mp4\."):
        run(tiny_model(), PoisonedSet(), config, tmp_path)
    state = runs.read_state(tmp_path)
    assert (state["step"] if state else 0) == step - 1
    assert not state or all(v.isfinite().all() for v in state["model"].values())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = tiny_model()
    calls = iter(range(1, 100))

    def poison(*_):
        if next(calls) == 5:  # step 3 of two micro-batches
            model.head.bias.register_hook(lambda gradient: gradient * math.nan)

    model.register_forward_hook(poison)
    with pytest.raises(TrainingError, match="(no longer finite after step|the loss is nan in step 4)"):
        run(model, TinySet(), replace(TRAIN, save_every=1, clip_norm=0.0), tmp_path)
    assert runs.read_state(tmp_path)["step"] == 2


class GuiltySet(TinySet):
    """TinySet, but some clips end the process that reads them, or raise. Each time is a line in the file `deeds`."""

    deeds_of = {3: os.abort, 7: lambda: os._exit(1), 8: lambda: [].pop(), 11: lambda: signal.raise_signal(signal.SIGSEGV)}

    def __init__(self, deeds: Path, n: int = 20, **options):
        super().__init__(n, **options)
        self.deeds = deeds

    def __getitem__(self, i):
        if i in self.deeds_of and i < self.n - 6:  # 11 is innocent where there are fewer
            with open(self.deeds, "a") as file:
                file.write(f"{i}\n")
            self.deeds_of[i]()
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("changes", [{}, {"batch_size": 1, "accumulate": 1, "epochs": 1}])
def test_whatever_ends_a_process_costs_its_clip(tmp_path, capsys, workers, changes):
    config, guilty = replace(TRAIN, workers=workers, **changes), (3, 7, 8, 11)
    left_out, model = tiny_model(), tiny_model()
    run(left_out, TinySet(bad=guilty), config, tmp_path / "left out", val_set=TinySet(14, bad=(3, 7), seed=500))
    capsys.readouterr()
    summary = run(model, GuiltySet(tmp_path / "deeds"), config, tmp_path / "run",
                  val_set=GuiltySet(tmp_path / "deeds", 14, seed=500))
    assert equal(model.state_dict(), left_out.state_dict())
    assert set(summary["bad_files"]) == {f"clips/{i}.mp4" for i in guilty}
    assert summary["bad_files"]["clips/3.mp4"].startswith("harmful to read: the decoder aborted (SIGABRT")
    assert "exit code 1" in summary["bad_files"]["clips/7.mp4"] and "IndexError" in summary["bad_files"]["clips/8.mp4"]
    assert "SIGSEGV" in summary["bad_files"]["clips/11.mp4"]
    printed = capsys.readouterr().out
    assert all(printed.count(f"left out clips/{i}.mp4: ") == 1 for i in guilty)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_harmful_is_not_met_again(tmp_path, workers):
    """Neither in the next pass nor when the run is resumed, which gives the weights of an uninterrupted run."""
    class Interrupt(Exception):
        pass

    def stop(*_):
        if next(calls) == 17:  # in step 9, in the third pass; steps of two forward passes, and three evaluations of 2
            raise Interrupt

    config, deeds, calls = replace(TRAIN, workers=workers, save_every=1), tmp_path / "deeds", iter(range(1, 100))
    whole, model = tiny_model(), tiny_model()
    run(whole, GuiltySet(tmp_path / "others"), config, tmp_path / "whole")
    hook = model.register_forward_hook(stop)
    with pytest.raises(Interrupt):
        run(model, GuiltySet(deeds), config, tmp_path / "cut")
    before = deeds.read_text().split()
    assert {i: before.count(i) for i in ("3", "7", "11")} == {"3": 2, "7": 2, "11": 2}  # and once more to be sure
    hook.remove()
    deeds.write_text("")
    run(tiny_model(), GuiltySet(deeds), config, tmp_path / "cut")
    assert set(deeds.read_text().split()) <= {"8"}  # an exception costs nothing
    assert equal(*(runs.read_state(tmp_path / name)["model"] for name in ("whole", "cut")))


def test_what_cannot_be_trained_says_why(tmp_path):
    for model, data, message in [
        (tiny_model(), TinySet(0), "empty"),
        (tiny_model(classes=0), TinySet(), "classes = 0"),
        (tiny_model(classes=2), TinySet(), "clips/2.mp4 .*label 2.*allowed is 0 to 1"),
        (tiny_model(classes=2), TinySet(named=False), "2 classes, allowed is 0 to 1"),
        (tiny_model().requires_grad_(False), TinySet(), "nothing trains"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(model, data, SHORT, tmp_path)
