"""Mean AP against AVA's protocol written out as loops, and on cases counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from i2vlib.detection.annotations import Keyframe
from i2vlib.detection.mean_ap import average_precisions, mean_ap

A, B = (0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9)


def keyframe(*boxes, actions=None) -> Keyframe:
    return Keyframe("v", 0.0, boxes, actions or tuple((1,) for _ in boxes))


def precision(truth, images, boxes, scores) -> float:
    found = average_precisions(truth, torch.tensor(images), torch.tensor(boxes), torch.tensor(scores)[:, None])
    return found.item()


def test_by_hand():
    truth = [keyframe(A, B)]
    assert precision(truth, [0, 0], [A, B], [0.9, 0.8]) == pytest.approx(1.0)
    assert precision(truth, [0], [A], [0.9]) == pytest.approx(0.5, abs=1e-3)  # recall 1/2 at precision 1
    # a false box first: precision 1/2 at recall 1/2, then 2/3 at 1: the envelope is 2/3 throughout
    assert precision(truth, [0, 0, 0], [(0.0, 0.6, 0.2, 0.9), A, B], [0.9, 0.8, 0.7]) == pytest.approx(2 / 3, abs=1e-3)
    # the second box on one object is false: 1 at recall 1/2, 2/3 at recall 1
    assert precision(truth, [0, 0, 0], [A, A, B], [0.9, 0.8, 0.7]) == pytest.approx((1 + 2 / 3) / 2, abs=1e-3)
    assert precision(truth, [0], [(0.0, 0.6, 0.2, 0.9)], [0.9]) == 0.0
    assert precision([keyframe(A), keyframe(B)], [1, 0], [A, B], [0.9, 0.8]) == 0.0, "right boxes in the wrong keyframes"


@pytest.mark.parametrize("share, hit", [(0.52, True), (0.48, False)])
def test_half_an_overlap_is_enough(share, hit):
    x1, y1, x2, y2 = A
    assert precision([keyframe(A)], [0], [(x1, y1, x1 + share * (x2 - x1), y2)], [0.9]) == pytest.approx(float(hit))


def test_an_action_is_scored_apart_from_the_others():
    truth = [keyframe(A, B, actions=((1, 3), (3,)))]
    scores = torch.tensor([[0.9, 0.1, 0.9], [0.95, 0.2, 0.8]])
    found = average_precisions(truth, torch.tensor([0, 0]), torch.tensor([A, B]), scores)
    assert found[0].item() == pytest.approx(0.5, abs=1e-3) and found[1].isnan() and found[2].item() == pytest.approx(1.0)
    assert mean_ap(found) == pytest.approx(0.75, abs=1e-3), "an action that nobody does has no part in the mean"
    assert mean_ap(found, [2, 3]) == pytest.approx(1.0) and math.isnan(mean_ap(found, [2]))


def test_a_box_where_nobody_is_is_false():
    assert precision([keyframe(A), keyframe()], [1, 0], [A, A], [0.9, 0.8]) == pytest.approx(0.5, abs=1e-3)


def test_without_a_scored_box_and_with_a_score_that_is_none():
    empty = torch.zeros(0)
    assert average_precisions([keyframe(A)], empty.long(), torch.zeros(0, 4), torch.zeros(0, 1)).item() == 0.0
    with pytest.raises(ValueError, match="scores are not finite"):
        precision([keyframe(A)], [0], [A], [math.nan])


def by_loops(truth: list[Keyframe], images: Tensor, boxes: Tensor, scores: Tensor, action: int) -> float:
    """AVA's script in words: by falling score, each box takes the object it overlaps most; taken before, or by less than half,
    it is false; the area under precision, made to fall, over recall."""
    objects = [[box for box, ids in zip(key.boxes, key.actions, strict=True) if action in ids] for key in truth]
    taken, right = [[False] * len(some) for some in objects], []
    for row in scores.argsort(descending=True).tolist():
        image, (x1, y1, x2, y2) = images[row].item(), boxes[row].tolist()
        overlaps = []
        for a, b, c, d in objects[image]:
            both = max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b))
            overlaps.append(both / ((x2 - x1) * (y2 - y1) + (c - a) * (d - b) - both))
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        hit = best is not None and overlaps[best] >= 0.5 and not taken[image][best]
        if hit:
            taken[image][best] = True
        right.append(hit)
    hits = torch.tensor(right).double().cumsum(0)
    recall, falling = hits / sum(map(len, objects)), (hits / torch.arange(1, len(right) + 1)).flip(0).cummax(0).values.flip(0)
    return (torch.diff(recall, prepend=torch.zeros(1).double()) * falling).sum().item()


@pytest.mark.parametrize("seed", range(3))
def test_it_is_avas_on_random_boxes(seed):
    g = torch.Generator().manual_seed(seed)

    def some(n: int) -> Tensor:
        corner, side = (torch.rand(n, 2, generator=g) * k for k in (0.6, 0.2))
        return torch.cat([corner, corner + side + 0.1], 1)

    truth, images, boxes = [], [], []
    for i in range(30):
        people = some(3)
        actions = tuple(tuple(a for a in range(1, 5) if torch.rand((), generator=g) < 0.4) for _ in people)
        truth.append(Keyframe("v", i, tuple(map(tuple, people.tolist())), actions))
        images += [i] * 4  # each person about where they are, and one box somewhere
        boxes += [people + 0.03 * torch.randn(3, 4, generator=g), some(1)]
    images, boxes, scores = torch.tensor(images), torch.cat(boxes), torch.rand(120, 4, generator=g)
    found = average_precisions(truth, images, boxes, scores)
    due = [by_loops(truth, images, boxes, scores[:, action - 1], action) for action in range(1, 5)]
    assert found.tolist() == pytest.approx(due, abs=2e-3) and min(due) > 0.02 and max(due) < 0.9
