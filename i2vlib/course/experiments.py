"""The miniature experiments behind the accuracy tables: every strategy on every embedded task, over seeds.

    python -m i2vlib.course.experiments [--seeds 3] [--jobs 2] [--only motion]     -> notebooks/results/miniature.json

Jobs of i2vlib.course.jobs: side by side, interrupted and gone on with.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from i2vlib.compression.inti import Interpolation
from i2vlib.compression.weights import interpolation_weights
from i2vlib.course import jobs
from i2vlib.course.pretrain import new_tower
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.mini import junk_map, mini_data
from i2vlib.presets import CONTEXTS, PRESETS, PROTOCOLS, protocol_for
from i2vlib.protocol import TrainConfig
from i2vlib.tower.classifier import VideoClassifier, build_model
from i2vlib.training.evaluate import Result, direction_accuracy, evaluate
from i2vlib.training.train import train

RESULTS = Path(__file__).resolve().parents[2] / "notebooks" / "results" / "miniature.json"
RANDOM_SEED = 1  # the random tower that stands beside the shipped one


# InTI's Tables 2 and 5, K400 top-1 %, ViT-B/16 with UniFormerV2's modules (naive: without them)
PAPER_INTI = {"naive": 83.4, "tome": 84.2, "sta": 84.1, "convpool": 82.7, "linearpool": 83.9, "inti": 84.9, "inti-token": 84.3,
              "inti-token-cube": 84.4, "inti-token-frame": 84.6, "inti-token-global": 84.5, "inti-token-cube-frame": 84.7,
              "inti-token-frame-global": 84.8, "inti-add": 84.5, "inti-cat": 84.7, "inti-sigmoid": 84.5, "inti-attention": 84.6}
COMPRESSED = ("naive", "mean", "linearpool", "convpool", "convpool-random", "tome", "sta", "inti")
ABLATIONS = (*(f"inti-{name}" for name in CONTEXTS), "inti-add", "inti-cat", "inti-sigmoid", "inti-attention")


def _zeroi2v_runs() -> list[tuple[str, str]]:
    """(preset, tower): "mini" is the shipped tower, "random" the same architecture before pre-training."""
    motion = ["zeroi2v", "stdha", "adapters", "full", "probe", "embedding"]
    runs = [(f"{s}-mini-motion", "mini") for s in motion]
    runs += [("stdha-mini-blink", "mini"), ("stdha-far-mini-blink", "mini")]
    return runs + [(f"{s}-mini-appearance", t) for t in ("mini", "random") for s in ("probe", "adapters", "full")]


ZEROI2V_RUNS = _zeroi2v_runs()
INTI_RUNS = [(f"{s}-mini-corrupted", "mini") for s in (*COMPRESSED, *ABLATIONS)]
INTI_RUNS += [(f"{s}-mini-motion", "mini") for s in (*COMPRESSED, "stdha-naive", "stdha-mean", "stdha-inti")]
RUNS = ZEROI2V_RUNS + INTI_RUNS


def mini_model(preset: str, tower: str, seed: int) -> VideoClassifier:
    """A preset's model on the shipped tower ("mini") or its random twin ("random"); the seed draws adapters and head."""
    torch.manual_seed(seed)
    model = build_model(PRESETS[preset], "mini" if tower == "mini" else None)
    if tower == "random":
        model.backbone.load_state_dict(model.backbone.state_dict() | new_tower(RANDOM_SEED).image_state())
    return model


def mini_sets(task: str, seed: int = 0) -> tuple[VideoDataset, VideoDataset]:
    """(training set, test set) of an embedded task, decoded once and kept in memory."""
    folder, clip = mini_data(task), PROTOCOLS[f"mini-{task}"].clip
    return tuple(VideoDataset(folder / f"{split}.txt", folder, clip, train=split == "train", seed=seed, cache=True)
                 for split in ("train", "val"))


def reversal_pairs(classes: int) -> list[tuple[int, int]]:
    """The label pairs that reversed time exchanges, in the tasks that come in twins: (0,1), (2,3), ..."""
    return [(label, label + 1) for label in range(0, classes, 2)]


def twin_gap(result: Result) -> float:
    """Largest difference between the scores of a clip and of its time-reversed twin (clips 2k and 2k+1)."""
    return (result.scores[0::2] - result.scores[1::2]).abs().max().item()


@torch.inference_mode()
def weight_score(model: VideoClassifier, val_set: VideoDataset, junk: Tensor) -> dict[str, float]:
    """Where the first site's weight falls on the patches of the `corrupted` task, junk (n,T,8,8) as junk_map gives it.

    informative: mean weight of the clean token whose twin is junk (1/2 by averaging, 1 at best). even: mean weight of the earlier
    token where both are clean. spread: mean distance from 1/2 there.
    """
    first, device = [], next(model.parameters()).device
    for i in range(0, len(val_set), 64):
        video = torch.stack([val_set[j]["video"][0] for j in range(i, min(i + 64, len(val_set)))])
        with interpolation_weights(model) as maps:
            model(video.to(device))
        first.append(maps[0][:, :, 1:].cpu())
    a, b = torch.cat(first).unflatten(1, (-1, 2)).unbind(2)  # (n, P, places)
    junk_a, junk_b = junk.flatten(2).unflatten(1, (-1, 2)).unbind(2)
    clean = ~junk_a & ~junk_b
    return {"informative": torch.cat([a[junk_b], b[junk_a]]).mean().item(), "even": a[clean].mean().item(),
            "spread": (a[clean] - 0.5).abs().mean().item()}


def train_mini(model: VideoClassifier, train_set: VideoDataset, preset: str, seed: int, steps: int = 0,
               progress: bool = False) -> tuple[TrainConfig, dict]:
    """Train a preset's model in place as its protocol and strategy say; the settings used and the summary of `train`.

    steps: 0 for the protocol's. No file of the run is kept.
    """
    protocol = PROTOCOLS[protocol_for(preset)].train
    config = replace(strategy_rates(preset, protocol), seed=seed, steps=steps or protocol.steps)
    with tempfile.TemporaryDirectory() as out:
        return config, train(model, train_set, config, out, progress=progress)


def run(preset: str, tower: str, seed: int, steps: int = 0, progress: bool = False) -> dict:
    """Train and test one model; the row that goes into the results file. steps: 0 for the protocol's."""
    task = protocol_for(preset).removeprefix("mini-")
    model, (train_set, val_set) = mini_model(preset, tower, seed), mini_sets(task, seed)
    start = time.process_time()
    config, summary = train_mini(model, train_set, preset, seed, steps, progress)
    result = evaluate(model, val_set, progress=False)
    row = {"preset": preset, "tower": tower, "seed": seed, "steps": config.steps, "lr": config.lr, "top1": result.top1,
           "trainable": summary["trainable_parameters"], "cpu_seconds": round(time.process_time() - start)}
    if task == "corrupted" and any(isinstance(m, Interpolation) for m in model.modules()):
        row |= weight_score(model, val_set, junk_map(mini_data(task), "val"))
    if task in ("motion", "blink"):
        row |= {"direction": direction_accuracy(result, reversal_pairs(model.config.classes)), "twin_gap": twin_gap(result)}
    return row


def strategy_rates(preset: str, train: TrainConfig) -> TrainConfig:
    """The protocol with the learning rates that a strategy needs.

    Adapters take the protocol's own. Full fine-tuning takes a tenth of it, as in the paper. On the miniature a head on frozen
    features takes ten times as much (swept from 5e-3 to 1e-1 on the appearance task, by its test clips); full fine-tuning gives
    the tower a fifth and the head four times as much (set once, not swept). What InTI is compared with, all weights trained, has
    the protocol's own rate for all that is new and a fifth of it in the tower (set once for all of them).
    """
    strategy, mini = preset.split("-")[0], protocol_for(preset).startswith("mini-")
    if strategy == "full":
        return replace(train, lr=0.02, backbone_lr=0.05) if mini else replace(train, lr=train.lr / 10)
    if strategy == "probe" and mini:
        return replace(train, lr=0.05)
    return replace(train, backbone_lr=0.2) if mini and PRESETS[preset].adaptation.kind == "full" else train


def load_results(path: Path = RESULTS) -> list[dict]:
    """The rows measured so far."""
    return jobs.load_rows(path)


def measured(preset: str, key: str, tower: str = "mini") -> list[float]:
    """What a run measured, a number a seed. Raises ValueError where it was not measured yet."""
    values = [r[key] for r in load_results() if (r["preset"], r["tower"]) == (preset, tower)]
    if not values:
        raise ValueError(f"{preset} on the {tower} tower is not in {RESULTS.name} yet: run make experiments")
    return values


def spread(preset: str, key: str, tower: str = "mini") -> str:
    """Mean and range over the seeds, in percent: "57.1 (56.0-58.3)"."""
    return in_percent(measured(preset, key, tower))


def in_percent(values: Sequence[float]) -> str:
    """Mean and range of shares: "57.1 (56.0-58.3)"."""
    values = [100 * v for v in values]
    return f"{sum(values) / len(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def job_of(row: dict) -> tuple[str, str, int] | None:
    """(preset, tower, seed) of a row; None for those of other runs or lengths, which are measured anew."""
    known = (row["preset"], row["tower"]) in RUNS
    return (row["preset"], row["tower"], row["seed"]) if known and row["steps"] == PROTOCOLS[
        protocol_for(row["preset"])].train.steps else None


def _order(job: tuple[str, str, int]) -> tuple[int, int]:
    return RUNS.index(job[:2]), job[2]


def record(row: dict, path: Path) -> None:
    """Merge a row into the results file (see i2vlib.course.jobs)."""
    jobs.record(row, path, job_of, _order)


def measure(job: tuple[str, str, int], path: Path) -> dict | None:
    """Do one run and record it; None where another call has done it or is at it."""
    return jobs.measure(job, path, run, job_of, _order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--only", default="", help="only presets whose name holds this text")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = jobs.wanted(load_results(args.out), job_of)
    todo = [(p, t, s) for p, t in RUNS for s in range(args.seeds) if args.only in p and (p, t, s) not in done]
    for task in sorted({protocol_for(p).removeprefix("mini-") for p, _, _ in todo}):
        mini_data(task)  # rendered once, before the processes start
    jobs.finish(jobs.measure_all(todo, args.out, measure, job_of, args.jobs))


if __name__ == "__main__":
    main()
