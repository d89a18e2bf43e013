"""What training and testing share: batches of clips in a fixed order, and the names of clips that could not be read.

The order of a run is one endless list, pass after pass over the set, each pass shuffled by (seed, pass). It has no
history, so a run can start at any step without reading what came before.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from i2vlib.config import ConfigError
from i2vlib.protocol import TrainConfig


def clip_path(dataset, index: int) -> str:
    """Where the file of a clip lies, or "clip <index>" for a set without `entries`.

    An index past the end goes on from the start, as in a set that is passed through again.
    """
    entries = getattr(dataset, "entries", None)
    if not entries:
        return f"clip {index}"
    return str(Path(getattr(dataset, "root", ""), entries[index % len(entries)].path))


def clip_names(dataset, indices: Sequence[int], most: int = 8) -> str:
    """Paths of the clips as one line for a message, at most `most` of them."""
    names = [clip_path(dataset, i) for i in indices[:most]]
    return ", ".join(names) + (f" and {len(indices) - most} more" if len(indices) > most else "")


def bad_clips(dataset, batch: dict) -> list[tuple[str, str]]:
    """(path, reason) of each clip of a batch that could not be read: those of weight 0."""
    found = []
    for i in torch.nonzero(batch["weight"] == 0)[:, 0].tolist():
        path, error = clip_path(dataset, batch["index"][i].item()), batch["error"][i]
        found.append((path, error.partition(f"{path}: ")[2] or error))
    return found


def name_bad_files(files: dict[str, str]) -> None:
    """Print a line a file, above a progress bar where there is one."""
    for path, reason in files.items():
        tqdm.write(f"left out {path}: {reason}")


def check_labels(dataset, classes: int) -> None:
    """Raise ValueError for a set without clips, a model without a head, or a listed label that the model lacks."""
    if classes < 1:
        raise ValueError(f"ModelConfig.classes = {classes}: allowed is 1 or more: there is no head to score with")
    if not len(dataset):
        raise ValueError("the data set is empty: allowed is 1 clip or more")
    for i, entry in enumerate(getattr(dataset, "entries", None) or ()):
        if not 0 <= entry.label < classes:
            raise ValueError(f"{entry.path} (clip {i}) has label {entry.label}: the model has {classes} classes, "
                             f"allowed is 0 to {classes - 1}")


def check_batch(batch: dict, classes: int, step: int) -> None:
    """Raise ValueError for a label that the model lacks: also a set without a list may have some."""
    labels = batch["label"]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels {sorted(set(labels.tolist()))} in step {step}: the model has {classes} classes, "
                         f"allowed is 0 to {classes - 1}")


def total_steps(clips: int, config: TrainConfig) -> int:
    """Optimiser steps of a run over a set of so many clips."""
    return config.steps or math.ceil(config.epochs * clips / config.batch_size)


def mix(*parts: int) -> int:
    """A seed out of several numbers; unlike a sum, neighbours share nothing."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


@functools.lru_cache(maxsize=4)
def shuffled(clips: int, seed: int, epoch: int) -> Tensor:
    """(clips,) the order of pass `epoch` over the set."""
    return torch.randperm(clips, generator=torch.Generator().manual_seed(mix(seed, epoch)))


class Batches:
    """The micro-batches of one process from step `start` on (0 unless it is set): lists of places in the repeated set.

    Place p means clip p % clips in pass p // clips. Skipping to `start` reads no clip. With repeats = R the R copies of a
    clip stand in one micro-batch, not side by side: to the data set, copy c of pass e is in pass e·R + c.
    """

    def __init__(self, clips: int, config: TrainConfig, rank: int = 0, world: int = 1):
        self.clips, self.config, self.rank, self.world, self.start = clips, config, rank, world, 0
        self.size, rest = divmod(config.batch_size, config.accumulate * world)
        if rest:
            raise ConfigError(f"TrainConfig.batch_size = {config.batch_size}: allowed is a multiple of accumulate "
                              f"{config.accumulate} x {world} processes")
        if (config.mixup or config.cutmix) and self.size == 1:
            raise ConfigError(f"TrainConfig.{'mixup' if config.mixup else 'cutmix'} = {config.mixup or config.cutmix}: a "
                              "micro-batch of 1 clip has none to be mixed with: allowed is 0, or a larger batch_size / "
                              f"(accumulate {config.accumulate} x {world} processes)")

    def __len__(self) -> int:
        return (total_steps(self.clips, self.config) - self.start) * self.config.accumulate

    def __getitem__(self, i: int) -> list[int]:
        if i >= len(self):
            raise IndexError(i)
        step, micro = divmod(i, self.config.accumulate)
        first = (self.start + step) * self.config.batch_size + (micro * self.world + self.rank) * self.size
        return [self._place(p, copy) for copy in range(self.config.repeats) for p in range(first, first + self.size)]

    def _place(self, position: int, copy: int) -> int:
        epoch, k = divmod(position, self.clips)
        index = int(shuffled(self.clips, self.config.seed, epoch)[k])
        return (epoch * self.config.repeats + copy) * self.clips + index


class Repeated:
    """A set passed through again and again. The pass travels with the index, so that decoding processes know it too."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.entries, self.root = getattr(dataset, "entries", None), getattr(dataset, "root", "")
        self.memory, self.whole = getattr(dataset, "memory", None), getattr(dataset, "whole", None)

    def __len__(self) -> int:
        """Clips of one pass."""
        return len(self.dataset)

    def __getitem__(self, place: int) -> dict:
        epoch, index = divmod(place, len(self.dataset))
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        return self.dataset[index]


