"""The tasks of the papers' tables: clips that are drawn or photographed, the tower that is adapted to them, and a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from i2vlib.config import TowerConfig
from i2vlib.data import mini, photos, photos_corrupted
from i2vlib.data.rendered import RenderedTask
from i2vlib.presets import TOWERS
from i2vlib.protocol import ClipConfig

REAL = "saliency-vit-s14"  # what i2vlib.fetch brings without a hub


@dataclass(frozen=True)
class Task:
    """Clips, a tower and a budget, which is the same for every method. A rate is the adapters'."""

    data: RenderedTask
    tower: str
    rates: tuple[float, ...]
    steps: int
    batch: int
    head: float = 1.0  # the head's rate as a share of the adapters'
    full: float = 0.2  # the same of a tower whose weights all train
    upper: int = 0  # blocks that are adapted, on features of the others that are computed once; 0: all
    clips: int = 0  # to train on; 0: all that there are

    @property
    def shape(self) -> TowerConfig:
        return TOWERS[self.tower]

    @property
    def layers(self) -> int:
        return self.upper or self.shape.layers


def _tasks() -> dict[str, Task]:
    rows = {f"mini-{name}": Task(data, "mini", (1.5e-3, 5e-3, 1.5e-2), 200, 32) for name, data in mini.TASKS.items()}
    for name in ("motion", "appearance"):
        rows[f"mini-{name}-few"] = replace(rows[f"mini-{name}"], clips=384)
    # the head runs ahead of a real tower's adapters at their own rate, and settles on what one frame tells
    real = {"tower": REAL, "rates": (3e-4, 1e-3, 3e-3), "steps": 300, "batch": 16, "full": 0.1, "upper": 4}
    rows |= {name: Task(photos.TASKS[name], head=0.1, **real) for name in ("photos-one", "photos-two-pan")}
    return rows | {photos_corrupted.TASK.name: Task(photos_corrupted.TASK, **real)}


TASKS: dict[str, Task] = _tasks()


def clip_config(task: Task) -> ClipConfig:
    tower = task.shape
    return ClipConfig(task.data.frames, size=tower.image_size, short_side=tower.image_size, test_short_side=tower.image_size,
                      random_crop=False, flip=0.0, mean=tower.mean, std=tower.std)


def folder_of(task: Task) -> Path:
    """The task's clips, rendered on first use."""
    if task.data is photos_corrupted.TASK:
        return photos_corrupted.corrupted_photos()
    return mini.mini_data(task.data.name) if task.data.name in mini.TASKS else photos.photo_data(task.data.name)
