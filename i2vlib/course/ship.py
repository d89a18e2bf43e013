"""The two small checkpoints that come with the package, made and loaded: ZeroI2V on `motion`, InTI on `corrupted`.

    python -m i2vlib.course.ship [--only motion] [--seed 0]     -> i2vlib/assets/{motion,corrupted}.safetensors

Each is one run of i2vlib.course.experiments with its own number of steps, one to two minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from i2vlib.course.experiments import mini_model, mini_sets, train_mini
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.mini import TASKS, mini_data
from i2vlib.protocol import ClipConfig
from i2vlib.tower.checkpoints import checkpoint_info, load_checkpoint, save_checkpoint
from i2vlib.tower.classifier import VideoClassifier
from i2vlib.tower.weights import MINI_TOWER

ASSETS = MINI_TOWER.parent
SHIPPED = {"motion": "zeroi2v-mini-motion", "corrupted": "inti-mini-corrupted"}  # task -> preset


def ship(task: str, folder: str | Path = ASSETS, seed: int = 0, steps: int = 0) -> Path:
    """Train the preset of `task` on the shipped tower and save it as folder/<task>.safetensors, which is returned.

    steps: 0 for the protocol's. The file holds the model's config, the clip settings and the class names. Raises ValueError
    for a task that has no shipped checkpoint.
    """
    if task not in SHIPPED:
        raise ValueError(f"task {task!r}: allowed are {', '.join(SHIPPED)}")
    preset = SHIPPED[task]
    model, (train_set, _) = mini_model(preset, "mini", seed), mini_sets(task, seed)
    train_mini(model, train_set, preset, seed, steps)
    path = Path(folder) / f"{task}.safetensors"
    save_checkpoint(model.cpu(), path, clip=train_set.clip, class_names=TASKS[task].class_names)
    return path


def shipped(task: str) -> tuple[VideoClassifier, Tensor, Tensor, tuple[str, ...]]:
    """The shipped checkpoint of `task` in eval mode, with all test clips (n,T,3,S,S), their labels (n,) and the class names.

    Clips are cut and classes named as the file says. The clips are rendered on first use. Raises ValueError for a task that has
    no shipped checkpoint.
    """
    if task not in SHIPPED:
        raise ValueError(f"task {task!r}: allowed are {', '.join(SHIPPED)}")
    path, folder = ASSETS / f"{task}.safetensors", mini_data(task)
    info = checkpoint_info(path)
    items = list(VideoDataset(folder / "val.txt", folder, ClipConfig.from_dict(info["clip"]), train=False))
    clips, labels = torch.cat([x["video"] for x in items]), torch.tensor([int(x["label"]) for x in items])
    return load_checkpoint(path).eval(), clips, labels, tuple(info["class_names"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=SHIPPED, help="only this task's")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as in the experiments
    for task in [given.only] if given.only else SHIPPED:
        path = ship(task, seed=given.seed)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
