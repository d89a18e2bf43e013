"""The grid behind the papers' tables: every method on every task, its rate swept on a validation split, its seeds tested once.

    python -m i2vlib.course.grid TASK METHOD rate 0.005 --to FOLDER       trains for a look at the validation split
    python -m i2vlib.course.grid TASK METHOD seed 0 --to FOLDER           at the best of the rates: trains, and tests once
    python -m i2vlib.course.grid TASK                                     draws the clips, computes features of frozen blocks

    -> FOLDER/TASK/METHOD/rate-0.005.json, one cell: what was measured, what it was measured of, and on what

`make tables` does all of them (i2vlib/course/Snakefile), i2vlib.course.tables says which table asks for which, and reads them.
Every method of a task trains for the same number of steps and at as many rates. A rate is that of adapters; Task says what share
of it the head and a tower whose weights all train get.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from i2vlib.compression.inti import Interpolation
from i2vlib.config import ModelConfig
from i2vlib.course.experiments import reversal_pairs, twin_gap, weight_score
from i2vlib.course.methods import methods
from i2vlib.course.settings import HELD_OUT, write_json
from i2vlib.course.tasks import TASKS, clip_config, folder_of
from i2vlib.data import mini, photos_corrupted
from i2vlib.data.datasets import VideoDataset
from i2vlib.files import whole_file
from i2vlib.measure import inference, multiply_adds
from i2vlib.protocol import ClipConfig, TrainConfig
from i2vlib.tower.classifier import VideoClassifier, build_model
from i2vlib.training.evaluate import Result, direction_accuracy, evaluate
from i2vlib.training.features import keep_features
from i2vlib.training.train import train

SEEDS = (0, 1, 2)
FAST = {"steps": 2, "batch": 4, "clips": 16}  # that every cell runs, in minutes; its numbers mean nothing


@dataclass(frozen=True)
class Cell:
    """One model that is trained: a method on a task, at a rate, from a seed. stage: rate (the sweep, from seed 0) | seed."""

    task: str
    method: str
    stage: str
    value: float
    fast: bool = False

    def path(self, folder: Path) -> Path:
        return folder / self.task / self.method / f"{self.stage}-{self.value:g}.json"

    @property
    def model(self) -> ModelConfig:
        task, (adaptation, temporal, compression) = TASKS[self.task], methods(TASKS[self.task])[self.method]
        return ModelConfig(task.shape, temporal, adaptation, task.data.frames, task.data.classes, 0.0, compression, task.upper)

    def training(self, rate: float) -> TrainConfig:
        """AdamW at one of the task's rates."""
        task, kind, evl = TASKS[self.task], self.model.adaptation.kind, self.model.temporal.evl
        head = rate * (10 if kind == "frozen" and not evl else 1 if kind == "full" else task.head)
        tower = rate * (task.full if kind == "full" else 1)
        steps, batch = (FAST["steps"], FAST["batch"]) if self.fast else (task.steps, task.batch)
        seed = 0 if self.stage == "rate" else int(self.value)
        return TrainConfig(steps=steps, batch_size=batch, lr=head, backbone_lr=tower / head, warmup=0.1, clip_norm=1.0, workers=0,
                           precision="bf16" if task.upper else "auto", save_every=steps, validate_every=max(1, steps // 4),
                           seed=seed)

    @property
    def config(self) -> str:
        """A hash of all that decides the numbers but the rate of a seed's run, which the sweep decides: 12 digits."""
        task, rate = TASKS[self.task], self.value if self.stage == "rate" else 1.0
        configs = [told(config) for config in (self.model, clip_config(task), self.training(rate))]
        facts = [*configs, task.data.version, task.clips, task.rates]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def told(config) -> dict:
    """The fields of a dataclass that are not at their defaults: a field that is new leaves what was measured before as it is."""
    given = {f.name: getattr(config, f.name) for f in fields(config)}
    plain = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(config)
             if f.default is not MISSING or f.default_factory is not MISSING}
    return {name: told(value) if is_dataclass(value) else value for name, value in given.items()
            if name not in plain or value != plain[name]}


def sets(cell: Cell, seed: int) -> dict[str, object]:
    """train, val and test; features where the lower blocks stay. Where a task has no validation clips the last of its training
    clips are, in whole twins."""
    task, folder = TASKS[cell.task], folder_of(TASKS[cell.task])
    own = "val" in task.data.splits and "test" in task.data.splits
    files = {"train": "train", "val": "val" if own else "train", "test": "test" if own else "val"}
    found = {part: VideoDataset(folder / f"{file}.txt", folder, clip_config(task), train=part == "train" and not task.upper,
                                seed=seed) for part, file in files.items()}
    limit = FAST["clips"] if cell.fast else 0
    if not own:
        every = found["train"].entries
        found["train"].entries, found["val"].entries = every[:-HELD_OUT], every[-HELD_OUT:]
    for part, dataset in found.items():
        keep = min(limit or len(dataset), task.clips or len(dataset) if part == "train" else len(dataset))
        dataset.entries = dataset.entries[:keep]
    if task.upper:
        model = new_model(cell, 0)
        return {part: keep_features(model, dataset, progress=False) for part, dataset in found.items()}
    for part, dataset in found.items():
        frames = decoded(folder, files[part])
        dataset.memory = {i: frames[entry.path] for i, entry in enumerate(dataset.entries)}
    return found


def decoded(folder: Path, part: str) -> dict[str, Tensor]:
    """The frames of every clip of a list by its path, uint8 (T,H,W,3): kept beside the list, so that cells do not decode anew."""
    path, dataset = folder / f"{part}.safetensors", VideoDataset(folder / f"{part}.txt", folder, ClipConfig(), train=False)
    if not path.is_file():
        frames = torch.stack([dataset.whole(i) for i in range(len(dataset))])
        with whole_file(path) as file:
            file.write(save({"frames": frames}))
    return {entry.path: clip for entry, clip in zip(dataset.entries, load_file(path)["frames"], strict=True)}


def new_model(cell: Cell, seed: int) -> VideoClassifier:
    """The model of a cell before training; the seed draws adapters and head."""
    torch.manual_seed(seed)
    tower = TASKS[cell.task].tower
    return build_model(cell.model, tower, resize_positions=tower != "mini")


def run(cell: Cell, folder: Path) -> dict:
    """Train a cell's model and score it; what goes into its file. Raises FileNotFoundError where the sweep is not there yet."""
    clock, rate = time.process_time(), cell.value if cell.stage == "rate" else best_rate(cell, folder)
    config = cell.training(rate)
    data, model = sets(cell, config.seed), new_model(cell, config.seed)
    curve = swept_model(cell, rate, folder, model) or trained(model, data, config)
    if cell.stage == "rate":
        save_trained(model, cell.path(folder).with_suffix(".safetensors"))
    row = asdict(cell) | {"rate": rate, "steps": config.steps, "batch": config.batch_size, "val": curve}
    if cell.stage == "seed":
        row |= scores(cell, model, data["test"])
    return row | {"trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
                  "multiply_adds": multiply_adds(inference(cell.model)), "cpu_seconds": round(time.process_time() - clock),
                  "config": cell.config, "torch": version("torch"), "machine": machine()}


def trained(model: VideoClassifier, data: dict, config: TrainConfig) -> list[float]:
    """Train it in place; top-1 on the validation split, four times on the way."""
    with tempfile.TemporaryDirectory() as out:
        train(model, data["train"], config, out, val_set=data["val"], progress=False)
        lines = map(json.loads, (Path(out) / "metrics.jsonl").read_text().splitlines())
        return [line["top1"] for line in lines if "top1" in line]


def save_trained(model: VideoClassifier, path: Path) -> None:
    """Keep what training may have changed: all but frozen weights."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(save({name: value.contiguous() for name, value in model.state_dict().items() if name not in frozen}))


def swept_model(cell: Cell, rate: float, folder: Path, model: VideoClassifier) -> list[float]:
    """The first seed at the best rate is a run of the sweep: its weights into the model, and its curve. [] where it is another
    run, or its weights were not kept (only its row was: i2vlib.course.workflow.restore)."""
    swept = replace(cell, stage="rate", value=rate)
    path = swept.path(folder)
    if (cell.stage, cell.value) != ("seed", 0) or not path.with_suffix(".safetensors").is_file():
        return []
    row = json.loads(path.read_text())
    if row["config"] != swept.config:
        return []
    model.load_state_dict(load_file(path.with_suffix(".safetensors")), strict=False)
    return row["val"]


def scores(cell: Cell, model: VideoClassifier, test) -> dict[str, float]:
    """Top-1, the clips behind it and what one answer to all would score; with twins, direction and their largest difference;
    with known junk, where InTI's weight falls."""
    task, result = TASKS[cell.task], evaluate(model, test, progress=False)
    row = {"top1": result.top1, "clips": len(result.labels), "chance": result.labels.bincount().max().item() / len(result.labels)}
    if task.data.twins:
        row |= {"direction": _direction(result), "twin_gap": twin_gap(result)}
    if "corrupted" in cell.task and any(isinstance(part, Interpolation) for part in model.modules()):
        split, reader = ("test", photos_corrupted.junk_map) if task.upper else ("val", mini.junk_map)
        row |= weight_score(model, test, reader(folder_of(task), split)[:len(test)])
    return row


def _direction(result: Result) -> float:
    return direction_accuracy(result, reversal_pairs(result.scores.shape[1]))


def best_rate(cell: Cell, folder: Path) -> float:
    """The one of the task's rates with the best end on the validation split; of equals the lower. Raises FileNotFoundError before
    all of them are measured."""
    swept = [json.loads(other.path(folder).read_text()) for other in sweep(cell)]
    return max(swept, key=lambda row: (row["val"][-1], -row["rate"]))["rate"]


def sweep(cell: Cell) -> list[Cell]:
    """The cells that have to be there before a seed's."""
    rates = TASKS[cell.task].rates[1:2] if cell.fast else TASKS[cell.task].rates
    return [replace(cell, stage="rate", value=rate) for rate in rates]


def machine() -> str:
    """What this ran on, in words that name nobody: "x86_64, 2 cores" or the GPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("method", nargs="?", default="", help="none: draw the clips and compute the features of frozen blocks")
    parser.add_argument("stage", nargs="?", choices=("rate", "seed"), default="rate")
    parser.add_argument("value", nargs="?", type=float, default=0.0)
    parser.add_argument("--to", type=Path, default=Path())
    parser.add_argument("--fast", action="store_true", help="two steps on a few clips: that it runs")
    args = parser.parse_args()
    known = methods(TASKS[args.task])
    if args.method and args.method not in known:
        parser.error(f"method {args.method!r} on {args.task}: allowed are {', '.join(known)}")
    torch.set_num_threads(1)  # cells run side by side: two on one thread each are faster than one on two
    cell = Cell(args.task, args.method or "adapters", args.stage, args.value, args.fast)
    if not args.method:
        sets(cell, 0)
        return
    row, path = run(cell, args.to), cell.path(args.to)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, row)


if __name__ == "__main__":
    main()
