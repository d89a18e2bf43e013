"""Training a detector and testing it: the library's one loop, with binary cross-entropy on boxes and mean AP.

What ZeroI2V says of AVA: the metric is mean AP over the 60 evaluated actions at IoU 0.5, "following the setting of VideoMAE";
8 frames; no pre-training on actions; 26.4, and 18.3 for CLIP's own features at the same cost (its Table 7). All else is [ours]:
see i2vlib.recipes.ava_protocol for the settings, Detector for the head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from i2vlib.config import ConfigError
from i2vlib.data.loading import bad_clips, name_bad_files
from i2vlib.data.survival import load
from i2vlib.detection.annotations import Keyframe
from i2vlib.detection.clips import VISIBLE, BoxDataset
from i2vlib.detection.mean_ap import average_precisions, mean_ap
from i2vlib.detection.model import Detector, scores_of
from i2vlib.protocol import TrainConfig
from i2vlib.tower.modes import at_rest
from i2vlib.tower.wrappers import unwrapped
from i2vlib.training.features import check_clips
from i2vlib.training.train import Run, run_through
from i2vlib.training.unreadable import UnreadableError, check_found, too_many


@dataclass(frozen=True, eq=False)
class BoxResult:
    """Scored boxes of a set, n in all, and what the annotations say of its K keyframes."""

    truth: list[Keyframe]
    images: Tensor  # (n,) int64, which of the K keyframes
    boxes: Tensor  # (n,4) shares of the frame
    scores: Tensor  # (n,C) float32, probabilities
    evaluated: list[int]  # numbers of the actions that count, from 1; none: all
    bad_files: dict[str, str] = field(default_factory=dict)  # path: reason; their keyframes have no scored box

    @property
    def precisions(self) -> Tensor:
        """(C,) float64: the average precision of each action, nan for one that the truth does not show."""
        return average_precisions(self.truth, self.images, self.boxes, self.scores)

    @property
    def mean_ap(self) -> float:
        """Mean AP over the evaluated actions that the truth shows, 0 to 1."""
        return mean_ap(self.precisions, self.evaluated)


def evaluate_boxes(model: Detector, dataset: BoxDataset, *, batch_size: int = 16, workers: int = 0, progress: bool = True,
                   accelerator: Accelerator | None = None, named=(), max_unreadable: float = 0.5) -> BoxResult:
    """Score the boxes of every keyframe: a sigmoid an action, from the views that show most of the box.

    A keyframe whose clip cannot be read has no scored box, and its annotated ones count as missed. The other parameters and
    errors are those of i2vlib.training.evaluate.evaluate. Raises ConfigError for another number of actions than the model's.
    """
    check_clips(model, dataset)
    check_actions(model, dataset)
    check_found(dataset, max_unreadable, "set")
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = range(rank, len(dataset), world)
    batches = [list(mine[i : i + batch_size]) for i in range(0, len(mine), batch_size)]
    bar = tqdm(total=len(mine), desc="test", unit="keyframe", disable=not progress or rank > 0, leave=False)
    with at_rest(model), bar, torch.inference_mode(), closing(load(dataset, batches, workers, named or None)) as loaded:
        rows, bad = _score(model, dataset, loaded, bar)
    if world > 1:
        rows, bad = gather_object(rows), gather_object(bad)
    bad_files = dict(sorted(bad))
    if rank == 0:
        name_bad_files({path: reason for path, reason in bad_files.items() if path not in named})
    reason = too_many(dataset, sorted(bad), len(dataset), max_unreadable, True)
    if reason:
        raise UnreadableError(reason)
    return _result(dataset, sorted(rows, key=lambda row: row[0]), bad_files)


def _score(model: Detector, dataset: BoxDataset, batches: Iterator[dict], bar: tqdm) -> tuple[list[tuple[int, Tensor]], list]:
    """(place in the set, probabilities of its boxes) of each keyframe, and (path, reason) of the others."""
    device, rows, bad = next(model.parameters()).device, [], []
    for batch in batches:
        bad += bad_clips(dataset, batch)
        video, boxes = (batch[name].flatten(0, 1).to(device) for name in ("video", "boxes"))
        logits = model(video, boxes).unflatten(0, batch["share"].shape[:2]).cpu()  # (B,V,M,C)
        for index, weight, found in zip(batch["index"].tolist(), batch["weight"], scores_of(logits, batch["share"]), strict=True):
            if weight > 0:
                rows.append((index, found[:len(dataset.keyframes[index].boxes)]))
        bar.update(len(video) // batch["share"].shape[1])
    return rows, bad


def _result(dataset: BoxDataset, rows: list[tuple[int, Tensor]], bad_files: dict[str, str]) -> BoxResult:
    """Keyframes by the place that they have in the truth: with proposals not all of it has boxes to be scored."""
    place = {(key.video, key.second): i for i, key in enumerate(dataset.truth)}
    keys = [dataset.keyframes[index] for index, _ in rows]
    images = [place[key.video, key.second] for key in keys for _ in key.boxes]
    boxes = torch.tensor([box for key in keys for box in key.boxes], dtype=torch.float64)
    return BoxResult(dataset.truth, torch.tensor(images), boxes, torch.cat([found for _, found in rows]), dataset.evaluated,
                     bad_files)


def train_detector(model: Detector, train_set: BoxDataset, config: TrainConfig, out: str | Path, *,
                   val_set: BoxDataset | None = None, resume: bool = True, progress: bool = True) -> dict:
    """i2vlib.training.train.train for a detector: what it writes, how it resumes, what it raises.

    loss = mean over a clip's boxes and the actions of the binary cross-entropy of sigmoid(logit), then over the clips of a step.
    A box counts where the crop shows a quarter of it or more. The best model is that of the highest mean AP on val_set. Raises
    ConfigError for mixup and cutmix, which boxes do not follow, for a training set of proposals, for another number of actions
    than the model's.
    """
    for name in ("mixup", "cutmix"):
        if getattr(config, name):
            raise ConfigError(f"TrainConfig.{name} = {getattr(config, name)}: boxes do not follow it: allowed is 0")
    if train_set.keyframes is not train_set.truth:
        raise ConfigError("the training set has a detector's proposals, of which no action is known: allowed is one without")
    for dataset in (train_set, val_set):
        if dataset is not None:
            check_actions(model, dataset)
    return run_through(DetectionRun, model, train_set, config, Path(out), val_set, resume, progress)


def box_losses(logits: Tensor, actions: Tensor, share: Tensor) -> Tensor:
    """(B,M,C) logits and 0 or 1, share (B,M) of each box that is seen -> (B,): the mean over a clip's boxes, 0 for none."""
    counts = (share >= VISIBLE).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), actions, reduction="none").mean(-1)
    return (losses * counts).sum(1) / counts.sum(1).clamp(min=1)


class DetectionRun(Run):
    """A run whose clips have boxes."""

    def __init__(self, model: Detector, train_set: BoxDataset, *rest):
        super().__init__(model, train_set, *rest)
        boxes = repr((self.origin["set"], train_set.truth, train_set.start, train_set.fps))
        self.origin["set"] = hashlib.sha256(boxes.encode()).hexdigest()

    def _losses(self, batch: dict) -> Tensor:
        device = self.accelerator.device
        video, boxes, actions, share = (batch[name].to(device) for name in ("video", "boxes", "actions", "share"))
        losses = box_losses(self.net(video[:, 0], boxes[:, 0]), actions, share[:, 0])
        return torch.where((batch["weight"] > 0).to(device), losses, torch.zeros_like(losses))

    def _tested(self, **how) -> tuple[dict[str, float], dict[str, str]]:
        result = evaluate_boxes(self.model, self.val_set, **how)
        return {"mean_ap": result.mean_ap}, result.bad_files


def check_actions(model: Detector, dataset: BoxDataset) -> None:
    """Raise ConfigError where model and set count different numbers of actions."""
    config = unwrapped(model).config
    if dataset.classes != config.classes:
        raise ConfigError(f"ModelConfig.classes = {config.classes}: the set has {dataset.classes} actions, allowed is as many")
