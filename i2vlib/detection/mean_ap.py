"""Mean average precision of action boxes at IoU 0.5, by COCO's evaluation code (faster-coco-eval)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from i2vlib.detection.annotations import Box, Keyframe

IOU = 0.5
RECALLS = np.linspace(0, 1, 1001)  # AVA's script takes every recall there is, COCO 101 of them


def average_precisions(truth: Sequence[Keyframe], images: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
    """(C,) float64: the AP of each action over all keyframes; nan for one that no box of the truth does.

    truth: K keyframes. images (n,), boxes (n,4), scores (n,C): n boxes, the keyframe of each, and how probable each action is.
    AVA's protocol (AP of each action over frames at IoU 0.5, several actions a box) as COCO's: a keyframe is an image, a box of k
    actions is an object of k categories, a scored box a detection of each; categories go one after the other. What differs: of
    two detections on one object the second may match another object that it also overlaps by half, where AVA's script counts it
    as false; the area under the precision curve is taken at 1,001 recalls. Raises ValueError for scores that are not finite.
    """
    if not scores.isfinite().all():
        raise ValueError("scores are not finite: look at the model's weights and precision")
    found = []
    for column in range(scores.shape[1]):
        objects = [(image, box) for image, key in enumerate(truth)
                   for box, ids in zip(key.boxes, key.actions, strict=True) if column + 1 in ids]
        found.append(_average_precision(objects, images, boxes, scores[:, column], len(truth)) if objects else float("nan"))
    return torch.tensor(found, dtype=torch.float64)


def mean_ap(precisions: Tensor, evaluated: Sequence[int] = ()) -> float:
    """The mean over the actions evaluated (numbers from 1; none given: all), without those that the truth does not show.

    nan where it shows none of them.
    """
    chosen = precisions[torch.tensor([i - 1 for i in evaluated])] if evaluated else precisions
    return chosen.nanmean().item()


def _average_precision(objects: list[tuple[int, Box]], images: Tensor, boxes: Tensor, scores: Tensor, keyframes: int) -> float:
    """The AP of one action: its objects (keyframe, box) against the scored boxes."""
    from faster_coco_eval import COCO, COCOeval_faster  # of the course's tools, which a server does not need

    if not len(scores):
        return 0.0
    sides = boxes.double()
    rows = torch.cat([images.double()[:, None], sides[:, :2], sides[:, 2:] - sides[:, :2], scores.double()[:, None],
                      torch.ones(len(scores), 1)], 1)  # image, x, y, width, height, score, category
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
        coco = COCO()
        coco.dataset = {
            "info": {}, "images": [{"id": image} for image in range(keyframes)], "categories": [{"id": 1, "name": "action"}],
            "annotations": [{"id": number, "image_id": image, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
                             "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                            for number, (image, (x1, y1, x2, y2)) in enumerate(objects, 1)]}  # from 1: 0 means unmatched
        coco.createIndex()
        run = COCOeval_faster(coco, coco.loadRes(rows.numpy()), "bbox")
        run.params.iouThrs, run.params.recThrs = np.array([IOU]), RECALLS
        run.params.maxDets, run.params.areaRng, run.params.areaRngLbl = [10_000], [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    return float(np.mean(run.eval["precision"]))
