"""The experiments on the real tower: every strategy on moving photographs and on folders of real clips, over seeds.

    python -m i2vlib.course.real [--sets photos-one ...] [--methods stdha ...] [--clips FOLDER ...] [--seeds 3] [--jobs 2]

    -> notebooks/results/real.json, of which i2vlib.course.real_tables makes tables

The tower is saliency-vit-s14 (`python -m i2vlib.fetch saliency-vit-s14`) at 112 pixels; its last UPPER blocks are adapted, on
features of the lower ones that are computed once (i2vlib.training.features). Every method trains at each of RATES and is scored
on a validation split; at its best rate it is then trained with each seed, longer, and scored once on the test split. Jobs of
i2vlib.course.jobs: a call that was stopped goes on. FOLDER: real clips with list files train.txt and val.txt; the latter is the
test split, and a fifth of the former the validation split. Methods over time are compared on clips that move, compressions on
photos-corrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import torch

from i2vlib.compression.inti import Interpolation
from i2vlib.config import FOUR_ADAPTERS, AdaptationConfig, CompressionConfig, ModelConfig, TemporalConfig
from i2vlib.course import jobs
from i2vlib.course.experiments import reversal_pairs, twin_gap, weight_score
from i2vlib.data import photos_corrupted
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.photos import TASKS, photo_data
from i2vlib.presets import TOWERS
from i2vlib.protocol import ClipConfig, TrainConfig
from i2vlib.tower.classifier import VideoClassifier, build_model
from i2vlib.training.evaluate import Result, direction_accuracy, evaluate
from i2vlib.training.features import FeatureSet, keep_features
from i2vlib.training.train import train

RESULTS = Path(__file__).resolve().parents[2] / "notebooks" / "results" / "real.json"
NAME = "saliency-vit-s14"
TOWER = TOWERS[NAME]
UPPER = 4  # of 12 blocks
SEEDS = 3
RATES = (3e-4, 1e-3, 3e-3)  # of adapters; all weights train at a tenth, as in the paper, and the head alone at ten times
HEAD = 0.1  # the head's learning rate as a share of the adapters': a head that runs ahead settles on what one frame tells
CLIP = ClipConfig(4, size=TOWER.image_size, short_side=TOWER.image_size, test_short_side=TOWER.image_size, random_crop=False,
                  flip=0.0, mean=TOWER.mean, std=TOWER.std)
CORRUPTED = photos_corrupted.TASK.name
LARGE = "photos-one-16"  # photos-one in steps of 16 clips: what is slow at 8 sets out sooner
MOVING = (*TASKS, LARGE)
EMBEDDED = (*MOVING, CORRUPTED)


@dataclass(frozen=True)
class Budget:
    """Steps of a run and clips a step: of a sweep, and of the runs that are tested."""

    sweep: int
    steps: int
    batch: int = 8


PHOTOS, LONGER, CLIPS = Budget(200, 400), Budget(300, 300, 16), Budget(60, 120)


def budget_of(name: str) -> Budget:
    """The budget of a set; a name that is none of the embedded ones is a folder of real clips."""
    return LONGER if name == LARGE else PHOTOS if name in EMBEDDED else CLIPS


class Method(NamedTuple):
    """What makes a strategy, on whatever tower."""

    adaptation: AdaptationConfig
    temporal: TemporalConfig = TemporalConfig()
    compression: CompressionConfig = CompressionConfig()


LINEAR = AdaptationConfig("linear", FOUR_ADAPTERS, scale=1.0, dropout=0.0)
SITES, MERGED, DROPPED = (9, 10), 12, 21  # r of ToMe, a block, and of STA, a site: once merged, InTI's multiply-adds


def _over_time() -> dict[str, Method]:
    """Operators over time move 1/3 of the channels: 2 of this tower's 6 heads, or two folds of 1/6."""
    heads = TemporalConfig((-1, 1, 0, 0, 0, 0))
    rows = {"adapters": TemporalConfig(), "embedding": TemporalConfig((), True), "stdha": heads,
            "stdha-4": TemporalConfig((-1, -1, 1, 1, 0, 0)), "stdha-far": TemporalConfig((-1, 1, -2, 2, 0, 0)),
            "zeroi2v": replace(heads, embedding=True), "hr-qkv": replace(heads, queries=True)}
    rows |= {name: TemporalConfig(shift=shift, folds=6) for name, shift in (
        ("class-token-shift", "class_token"), ("channel-shift-kv", "channel_kv"), ("channel-shift-qkv", "channel_qkv"))}
    rows["patch-shift"] = TemporalConfig(shift="patch")
    frozen, full = (Method(AdaptationConfig(kind)) for kind in ("frozen", "full"))
    return {"probe": frozen, "full": full} | {name: Method(LINEAR, temporal) for name, temporal in rows.items()}


def _compressed() -> dict[str, Method]:
    """InTI and what it is compared with: 4 frames to 1 at SITES, or fewer tokens."""
    rows = {"naive": CompressionConfig()}
    rows |= {name: CompressionConfig(kind, SITES) for name, kind in (
        ("mean", "mean"), ("linearpool", "linear"), ("convpool", "conv"), ("inti", "inti"))}
    rows |= {"tome": CompressionConfig("tome", remove=MERGED), "sta": CompressionConfig("sta", SITES, remove=DROPPED)}
    return {name: Method(LINEAR, compression=compression) for name, compression in rows.items()}


OVER_TIME, COMPRESSED = tuple(_over_time()), tuple(_compressed())
METHODS: dict[str, Method] = _over_time() | _compressed()
BLIND = ("probe", "full", "adapters")  # no frame meets another before the mean: no order can be seen


def methods_of(name: str) -> tuple[str, ...]:
    """The methods that are compared on a set."""
    return COMPRESSED if name == CORRUPTED else OVER_TIME


def real_model(method: str, classes: int, seed: int = 0) -> VideoClassifier:
    """A method on the real tower; the seed draws adapters and head. Raises WeightsError where the tower is not at hand."""
    adaptation, temporal, compression = METHODS[method]
    config = ModelConfig(TOWER, temporal, adaptation, CLIP.frames, classes, 0.0, compression, UPPER)
    torch.manual_seed(seed)
    return build_model(config, NAME, resize_positions=True)


def training(method: str, rate: float, steps: int, batch: int, seed: int, looks: int = 1) -> TrainConfig:
    """AdamW for a method at one of RATES. looks: how often the validation split is scored on the way, the end included."""
    kind = METHODS[method].adaptation.kind
    head = rate * (10 if kind == "frozen" else 1 if method in COMPRESSED else HEAD)  # compressions learn at the head's rate
    tower = rate * (0.1 if kind == "full" else 1)
    return TrainConfig(steps=steps, batch_size=batch, lr=head, backbone_lr=tower / head, warmup=0.1, clip_norm=1.0, workers=0,
                       precision="bf16", save_every=steps, validate_every=max(1, steps // looks), seed=seed)


# ---- sets ----

def embedded(name: str) -> Path:
    """The folder of an embedded set."""
    return photos_corrupted.corrupted_photos() if name == CORRUPTED else photo_data("photos-one" if name == LARGE else name)


def feature_sets(name: str, folder: Path | None = None) -> dict[str, FeatureSet]:
    """train, val and test of a set as features: of moving photographs, or of a folder of real clips."""
    root = folder or embedded(name)
    files = {"train": "train", "test": "val"} if folder else {"train": "train", "val": "val", "test": "test"}
    model = real_model("adapters", 2)
    sets = {part: keep_features(model, VideoDataset(root / f"{file}.txt", root, CLIP, train=False))
            for part, file in files.items()}
    return sets if "val" in sets else {"test": sets["test"], **held_out(sets["train"])}


def held_out(features: FeatureSet) -> dict[str, FeatureSet]:
    """train and val out of one training set: a fifth goes to val, drawn by name. A clip and its reversal, whose name ends in
    _rev, go together, so that none that val asks for was seen backwards in training."""
    stems = [Path(entry.path).stem.removesuffix("_rev") for entry in features.entries]
    val = [crc32(stem.encode()) % 5 == 0 for stem in stems]
    return {"train": features.part([i for i, kept in enumerate(val) if not kept]),
            "val": features.part([i for i, kept in enumerate(val) if kept])}


# ---- jobs: (set, method, "rate", rate) on the validation split, (set, method, "seed", seed) on the test split ----

def run(name: str, method: str, stage: str, value: float, *, folder: Path | None = None, results: Path = RESULTS) -> dict:
    """Train and score one model; the row that goes into the results file."""
    budget, sets, clock = budget_of(name), feature_sets(name, folder), time.process_time()
    seed, rate = (0, value) if stage == "rate" else (int(value), best_rate(name, method, jobs.load_rows(results)))
    steps = budget.sweep if stage == "rate" else budget.steps
    model = real_model(method, sets["train"].classes, seed)
    config = training(method, rate, steps, budget.batch, seed, looks=1 if stage == "rate" else 4)
    with tempfile.TemporaryDirectory() as out:
        train(model, sets["train"], config, out, val_set=sets["val"], progress=False)
        lines = map(json.loads, (Path(out) / "metrics.jsonl").read_text().splitlines())
        curve = [line["top1"] for line in lines if "top1" in line]
    row = {"set": name, "method": method, "stage": stage, "value": value, "rate": rate, "steps": steps, "val": curve}
    if stage == "seed":
        row |= scores(name, evaluate(model, sets["test"], progress=False))
        if name == CORRUPTED and any(isinstance(part, Interpolation) for part in model.modules()):
            row |= weight_score(model, sets["test"], photos_corrupted.junk_map(embedded(name), "test"))
    return row | {"trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
                  "cpu_seconds": round(time.process_time() - clock)}


def scores(name: str, result: Result) -> dict[str, float]:
    """What goes into a row: top-1, clips, the share of the most frequent class, which one answer to all would score; where the
    set comes in reversed twins, direction and the twins' largest difference."""
    row = {"top1": result.top1, "clips": len(result.labels), "chance": result.labels.bincount().max().item() / len(result.labels)}
    if name in MOVING or "twins" in name:
        row |= {"direction": direction_accuracy(result, reversal_pairs(result.scores.shape[1])), "twin_gap": twin_gap(result)}
    return row


def best_rate(name: str, method: str, rows: Sequence[dict]) -> float:
    """The one of RATES with the best end on the validation split; of equals the lower. Raises ValueError before all are there."""
    ends = {r["rate"]: r["val"][-1] for r in rows if (r["set"], r["method"], r["stage"]) == (name, method, "rate")}
    if set(ends) != set(RATES):
        raise ValueError(f"{method} on {name}: {len(ends)} of {len(RATES)} rates are measured: run make experiments-real")
    return max(RATES, key=lambda rate: (ends[rate], -rate))


def job_of(row: dict) -> jobs.Job | None:
    """The job that a row answers; None for one of another budget or method."""
    budget = budget_of(row["set"])
    today = row["method"] in METHODS and row["steps"] == (budget.sweep if row["stage"] == "rate" else budget.steps)
    return (row["set"], row["method"], row["stage"], row["value"]) if today else None


def _order(job: jobs.Job) -> tuple:
    name, method, stage, value = job
    return name, list(METHODS).index(method), stage, value


def measure(job: jobs.Job, path: Path, folder: Path | None = None) -> dict | None:
    """Do one job and record it; None where another call has done it or is at it."""
    return jobs.measure(job, path, partial(run, folder=folder, results=path), job_of, _order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="*", default=["photos-one", LARGE, "photos-two-pan", CORRUPTED], choices=EMBEDDED)
    parser.add_argument("--clips", nargs="*", type=Path, default=[], help="folders of real clips with train.txt and val.txt")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS), help="those of the set, of these")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 2))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    folders, failed = {folder.name: folder for folder in args.clips}, []
    for name in [*(() if folders else args.sets), *folders]:
        methods = [method for method in methods_of(name) if method in args.methods]
        if not methods:
            continue
        feature_sets(name, folders.get(name))  # computed once, before the processes start
        for stage, values in (("rate", RATES), ("seed", range(args.seeds))):
            done = jobs.wanted(jobs.load_rows(args.out), job_of)
            todo = [job for value in values for method in methods if (job := (name, method, stage, value)) not in done]
            failed += jobs.measure_all(todo, args.out, partial(measure, folder=folders.get(name)), job_of, args.jobs)
    jobs.finish(failed)


if __name__ == "__main__":
    main()
