"""Testing: a model's scores on every clip of a set, averaged over views, and the numbers read off them.

Letters: n clips that could be read, V views of a clip, C classes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from i2vlib.data.loading import bad_clips, check_labels, clip_names, name_bad_files
from i2vlib.data.survival import load
from i2vlib.tower.modes import at_rest
from i2vlib.training.features import check_clips
from i2vlib.training.unreadable import UnreadableError, check_found, too_many


@dataclass(frozen=True, eq=False)
class Result:
    """What a model scored on a set. Rows are in the order of the set; clips that could not be read are left out."""

    scores: Tensor  # (n, C) float32, softmax averaged over the views
    labels: Tensor  # (n,) int64
    indices: Tensor  # (n,) int64, each row's place in the set
    bad_files: dict[str, str] = field(default_factory=dict)  # path: reason

    @property
    def top1(self) -> float:
        """Share of clips whose highest score is the label's. Of equal scores the class listed first wins."""
        return self._top(1)

    @property
    def top5(self) -> float:
        """Share of clips whose label is among the 5 highest scores; of all C where there are fewer classes."""
        return self._top(5)

    @property
    def confusion(self) -> Tensor:
        """(C, C) int64 counts: row the label, column the class predicted."""
        classes = self.scores.shape[1]
        cells = self.labels * classes + self.scores.argmax(1)
        return cells.bincount(minlength=classes**2).reshape(classes, classes)

    @property
    def per_class(self) -> Tensor:
        """(C,) float64 top-1 of each class; nan for a class without clips."""
        confusion = self.confusion.double()
        return confusion.diagonal() / confusion.sum(1)

    def _top(self, k: int) -> float:
        best = self.scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        return (best == self.labels[:, None]).any(1).double().mean().item()


def evaluate(
    model: nn.Module,
    dataset,
    *,
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = True,
    accelerator: Accelerator | None = None,
    named: Container[str] = (),
    max_unreadable: float = 0.5,
) -> Result:
    """Score every clip of `dataset`: softmax of the logits, averaged over the clip's views.

    dataset[i] is a dict with `video` (V, T, 3, S, S) float32 (of a FeatureSet (V, T, N, D)), `label`, `index`, `weight` (0 for
    a clip that could not be read) and `error`. batch_size counts clips; their views go through the model together. With an
    `accelerator` its processes share the clips and each gets the whole result; without one, every process scores all of them,
    in float32. Each unreadable file is printed once, except those in `named`; where that is a mapping, path -> reason, those
    whose reading ended a process are not opened again. The model's mode (training or not) is left as it was. Raises ConfigError
    for clips with another mean or std than the tower's; ValueError for an empty set, a model without a head, a label the model
    does not have and scores that are not finite; UnreadableError, a ValueError, when more than the share max_unreadable of the
    clips, or all, cannot be read; LoadingError when a process that reads cannot start, or no clip of a set that is not of files
    shows what an item looks like.
    """
    check_clips(model, dataset)
    check_labels(dataset, model.config.classes)
    check_found(dataset, max_unreadable, "set")
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = range(rank, len(dataset), world)
    batches = [list(mine[i : i + batch_size]) for i in range(0, len(mine), batch_size)]
    known = named if isinstance(named, Mapping) else None
    bar = tqdm(total=len(mine), desc="test", unit="clip", disable=not progress or rank > 0, leave=False)
    with at_rest(model), bar, torch.inference_mode(), closing(load(dataset, batches, workers, known)) as loaded:
        rows, bad = _score(model, dataset, loaded, bar)
    if world > 1:
        rows, bad = _gather(accelerator, rows), gather_object(bad)
    bad_files = dict(sorted(bad))
    if rank == 0:
        name_bad_files({path: reason for path, reason in bad_files.items() if path not in named})
    reason = too_many(dataset, sorted(bad), len(rows[0]) + len(bad), max_unreadable, True)
    if reason:
        raise UnreadableError(f"{reason}. No result is better than one on the rest, unless a larger max_unreadable allows it")
    _refuse_not_finite(dataset, rows[0], rows[2])
    return _result(*rows, bad_files)


def direction_accuracy(result: Result, pairs: Sequence[tuple[int, int]]) -> float:
    """Share of clips scored higher for their own class than for its partner, the class that reversed time makes of it.

    Only the two scores of a clip's pair are compared; clips of classes in no pair are left out. Equal scores count
    half, so that a model that does not tell a pair apart gets one half whatever the order of the classes and however
    many clips each has. Raises ValueError where a class is unknown or in two pairs, or no clip belongs to a pair.
    """
    classes = result.scores.shape[1]
    partner = torch.full((classes,), -1)
    for a, b in pairs:
        for one, other in ((a, b), (b, a)):
            if not 0 <= one < classes or one == other or partner[one] >= 0:
                raise ValueError(f"pairs: class {one} in {(a, b)}: allowed are 0 to {classes - 1}, each in one pair")
            partner[one] = other
    other = partner[result.labels]
    if not (other >= 0).any():
        raise ValueError("pairs: no clip of the result has a class in them")
    rows = torch.nonzero(other >= 0)[:, 0]
    own, theirs = result.scores[rows, result.labels[rows]], result.scores[rows, other[rows]]
    return ((own > theirs).double() + 0.5 * (own == theirs).double()).mean().item()


def _score(model: nn.Module, dataset, batches: Iterator[dict], bar: tqdm) -> tuple[list[Tensor], list]:
    """Scores (n, C), labels (n,), indices (n,) on the CPU and (path, reason) of bad clips, of this process' batches."""
    classes, bad = model.config.classes, []
    parts = [(torch.zeros(0, classes), torch.zeros(0).long(), torch.zeros(0).long())]  # a process may have no clip
    for batch in batches:
        bad += bad_clips(dataset, batch)
        good = batch["weight"] > 0
        video, label = batch["video"][good], batch["label"][good]  # (B, V, T, 3, S, S), (B,)
        if len(label):
            logits = model(video.flatten(0, 1).to(_device(model), non_blocking=True))  # (B·V, C)
            scores = logits.float().softmax(-1).unflatten(0, video.shape[:2]).mean(1)  # (B, C)
            parts.append((scores.cpu(), label, batch["index"][good]))
        bar.update(len(good))
    return [torch.cat(column) for column in zip(*parts, strict=True)], bad


def _gather(accelerator: Accelerator, rows: list[Tensor]) -> list[Tensor]:
    """The rows of all processes. Processes may have unequal numbers: pad to the largest, send, drop the padding."""
    device = accelerator.device
    most = int(accelerator.gather(torch.tensor([len(rows[0])], device=device)).max())
    padded = [torch.cat([x, x.new_full((most - len(x), *x.shape[1:]), -1)]).to(device) for x in rows]
    gathered = [accelerator.gather(x).cpu() for x in padded]
    real = gathered[2] >= 0
    return [x[real] for x in gathered]


def _refuse_not_finite(dataset, scores: Tensor, indices: Tensor) -> None:
    """Raise ValueError naming the clips: nan is no score, but argmax would make it a prediction of class 0."""
    rows = ~scores.isfinite().all(1)
    if rows.any():
        clips = clip_names(dataset, indices[rows].sort().values.tolist())
        raise ValueError(f"scores are not finite for {int(rows.sum())} of {len(rows)} clips: {clips}. For all clips, look "
                         "at the model's weights and precision; for a few, at these clips")


def _result(scores: Tensor, labels: Tensor, indices: Tensor, bad_files: dict[str, str]) -> Result:
    classes = scores.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels go from {labels.min()} to {labels.max()}: allowed is 0 to {classes - 1}, "
                         f"the model has {classes} classes")
    order = indices.argsort()
    return Result(scores[order], labels[order], indices[order], bad_files)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
