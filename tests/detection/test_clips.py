"""Boxes go where their pixels go; clips are centred on the keyframe; what boxes cannot follow is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from i2vlib.config import ConfigError
from i2vlib.data.lists import ListError
from i2vlib.data.survival import load
from i2vlib.data.video import write_clip
from i2vlib.detection.annotations import Keyframe
from i2vlib.detection.clips import BoxDataset, BoxTransform, centred_indices
from i2vlib.protocol import ClipConfig

CLIP = ClipConfig(4, "dense", 2, size=32, short_side=40, test_short_side=32, flip=0.5, test_crops=3,
                  mean=(0.0,) * 3, std=(1.0,) * 3)
SIZES = [(48, 96), (96, 48), (64, 64), (40, 121)]  # height, width


def drawn(size: tuple[int, int], box: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Two dark frames with a bright box, corners in pixels, and that box as shares."""
    (H, W), (x1, y1, x2, y2) = size, box
    frames = torch.zeros(2, H, W, 3, dtype=torch.uint8)
    frames[:, y1:y2, x1:x2] = 255
    return frames, torch.tensor([[x1 / W, y1 / H, x2 / W, y2 / H]])


def bright(picture: Tensor) -> list[float]:
    """x1, y1, x2, y2 in pixels of what is bright in (3,S,S), edges where brightness is one half."""
    lit = picture.mean(0) > 0.5
    rows, columns = (torch.nonzero(lit.any(dim))[:, 0] for dim in (1, 0))
    return [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]


@pytest.mark.parametrize("size", SIZES)
def test_a_drawn_box_and_its_pixels_move_together_in_training(size):
    H, W = size
    frames, boxes = drawn(size, (W // 3, H // 4, 2 * W // 3, 3 * H // 4))
    transform, flipped, seen = BoxTransform(CLIP, train=True), set(), []
    for seed in range(24):
        torch.manual_seed(seed)
        video, found = transform(frames, boxes)
        assert video.shape == (1, 2, 3, 32, 32) and found.shape == (1, 1, 5)
        if found[0, 0, 4] < 0.02:
            continue
        assert (torch.tensor(bright(video[0, 0])) - found[0, 0, :4] * 32).abs().max() <= 1.0
        seen.append(found[0, 0, 4].item())
        flipped.add(tuple((found[0, 0, :4] * 32).round().tolist()))
    assert len(flipped) > 8, "crops and flips differ from seed to seed"
    assert max(seen) <= 1 + 1e-5


def test_a_flip_mirrors_the_box():
    frames, boxes = drawn((32, 32), (2, 5, 12, 20))
    clip = replace(CLIP, random_crop=False, flip=1.0)
    video, found = BoxTransform(clip, train=True)(frames, boxes)
    assert (found[0, 0] * 32).tolist() == pytest.approx([20, 5, 30, 20, 32]) and bright(video[0, 0]) == [20, 5, 30, 20]


def test_three_views_and_the_share_of_a_box_that_each_shows():
    """A frame of 64 x 32: views at 0, 16 and 32. The box from 24 to 44 lies in them with 8, 20 and 12 of its 20 columns."""
    frames, boxes = drawn((32, 64), (24, 8, 44, 16))
    video, found = BoxTransform(CLIP, train=False)(frames, boxes)
    assert video.shape == (3, 2, 3, 32, 32)
    assert found[:, 0, 4].tolist() == pytest.approx([0.4, 1.0, 0.6])
    assert (found[:, 0, :4] * 32).tolist() == [[24, 8, 32, 16], [8, 8, 28, 16], [0, 8, 12, 16]]
    assert [bright(view[0]) for view in video] == [[24, 8, 32, 16], [8, 8, 28, 16], [0, 8, 12, 16]]
    tall, boxes = drawn((64, 32), (8, 50, 16, 60))
    found = BoxTransform(CLIP, train=False)(tall, boxes)[1]
    assert found[:, 0, 4].tolist() == pytest.approx([0, 0, 1]) and (found[2, 0, :4] * 32).tolist() == [8, 18, 16, 28]


@pytest.mark.parametrize("total, middle, frames, stride, due", [
    (100, 50, 8, 4, [34, 38, 42, 46, 50, 54, 58, 62]), (100, 50, 3, 10, [40, 50, 60]), (100, 1, 4, 2, [0, 0, 1, 3]),
    (10, 9, 4, 2, [5, 7, 9, 9]), (5, 2, 1, 16, [2])])
def test_frames_around_the_middle_by_hand(total, middle, frames, stride, due):
    assert centred_indices(total, middle, frames, stride) == due


@pytest.fixture(scope="module")
def ava(tmp_path_factory) -> Path:
    """A video and a folder of 40 images, grey = frame number, 4 frames a second from second 900 on."""
    root = tmp_path_factory.mktemp("ava")
    grey = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 32, 64, 3).contiguous()
    write_clip(root / "film.mp4", grey)
    (root / "frames").mkdir()
    for i, frame in enumerate(grey.numpy(), 1):
        Image.fromarray(np.ascontiguousarray(frame)).save(root / "frames" / f"img_{i:05d}.jpg", quality=100)
    (root / "a.csv").write_text("film,0905,0.1,0.1,0.4,0.8,3,0\nfilm,0905,0.1,0.1,0.4,0.8,1,0\nfilm,0905,0.5,0.1,0.9,0.8,4,1\n"
                                "frames,0902,0.2,0.1,0.6,0.9,2,0\ngone,0902,0.2,0.1,0.6,0.9,2,0\nfilm,0912,0.2,0.1,0.6,0.9,2,0\n")
    (root / "p.csv").write_text("film,905,0.1,0.1,0.5,0.8,,0.95\nfilm,904,0.1,0.1,0.5,0.8,,0.95\n"
                                "elsewhere,904,0.1,0.1,0.5,0.8,,0.95\n")
    return root


def a_set(root: Path, train: bool = False, clip: ClipConfig = CLIP, **options) -> BoxDataset:
    return BoxDataset(root / "a.csv", root, clip, train, classes=4, fps=4.0, **options)


def test_items_hold_the_frames_around_the_second_and_the_boxes_in_order(ava):
    dataset = a_set(ava)
    assert (len(dataset), dataset.most) == (4, 2)
    for index, middle in ((0, 20), (1, 8)):
        item = dataset[index]
        assert item["error"] == "" and item["weight"] == 1.0
        assert (item["video"][1, :, 0, 16, 16] * 255).round().tolist() == [middle - 4, middle - 2, middle, middle + 2]
    first = dataset[0]
    assert first["actions"].tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]
    assert (first["boxes"][0, 0] * 32).tolist() == pytest.approx([6.4, 3.2, 25.6, 25.6]), "the view at 0 of 64 columns"
    second = dataset[1]
    assert second["share"][:, 1].tolist() == [0, 0, 0] and not second["actions"][1].any(), "a row without a box"
    assert [dataset[i]["weight"] for i in (2, 3)] == [0.0, 0.0]
    assert "gone.mp4: there is no such file" in dataset[2]["error"]
    assert "the keyframe is frame 48: allowed is 0 to 39; are start and fps those of the files?" in dataset[3]["error"]


def test_training_items_depend_on_seed_pass_and_index_alone(ava):
    one, other = a_set(ava, train=True), a_set(ava, train=True, cache=True)
    for epoch in (0, 1):
        for dataset in (one, other):
            dataset.set_epoch(epoch)
        torch.rand(3)
        assert torch.equal(one[0]["boxes"], other[0]["boxes"]) and torch.equal(one[0]["video"], other[0]["video"])
    crops = {tuple(one[0]["boxes"].flatten().tolist()) for e in range(8) if one.set_epoch(e) is None}
    assert len(crops) > 3


def test_batches_come_through_the_processes_that_read(ava):
    batch, = load(a_set(ava), [[0, 1, 2]], 1)
    assert batch["boxes"].shape == (3, 3, 2, 4) and batch["weight"].tolist() == [1, 1, 0]


def test_proposals_stand_in_for_the_annotated_boxes(ava):
    dataset = a_set(ava, proposals=ava / "p.csv")
    assert [(k.video, k.second, len(k.boxes)) for k in dataset.keyframes] == [("film", 905.0, 1), ("film", 904.0, 1)]
    assert len(dataset.truth) == 5 and not dataset[0]["actions"].any()
    assert dataset.truth[4] == Keyframe("film", 904.0, (), ()), "nobody is there, so that the box found is false"
    (ava / "excluded.csv").write_text("film,0904\n")
    assert len(a_set(ava, proposals=ava / "p.csv", excluded=ava / "excluded.csv").keyframes) == 1
    (ava / "other.csv").write_text("film,1000,0.1,0.1,0.5,0.8,,0.95\n")
    with pytest.raises(ListError, match="none of the proposals is at a second that the annotations have"):
        a_set(ava, proposals=ava / "other.csv")


def test_names_and_evaluated_actions_come_from_the_list(ava):
    (ava / "actions.pbtxt").write_text('item { name: "sit" id: 1 }\nitem { name: "run" id: 3 }\n')
    dataset = a_set(ava, labels=ava / "actions.pbtxt")
    assert dataset.evaluated == [1, 3] and dataset.class_names == ["sit", "action 2", "run", "action 4"]
    (ava / "actions.pbtxt").write_text('item { name: "sit" id: 5 }\n')
    with pytest.raises(ListError, match="action 5: allowed is 1 to 4"):
        a_set(ava, labels=ava / "actions.pbtxt")


@pytest.mark.parametrize("changed, said", [
    ({"rand_augment": (4, 7)}, r"rand_augment = \(4, 7\) with boxes, which do not follow it: allowed is \(0, 0\)"),
    ({"erasing": 0.25}, "erasing = 0.25 with boxes"), ({"colour_jitter": 0.5}, "colour_jitter = 0.5"),
    ({"test_clips": 2}, "test_clips = 2"), ({"sampling": "uniform"}, "sampling = 'uniform' with boxes: allowed is dense"),
    ({"short_side": 16}, "short_side = 16: a square of 32 does not fit")])
def test_settings_that_boxes_cannot_follow_are_refused(ava, changed, said):
    with pytest.raises(ConfigError, match=f"ClipConfig.{said}"):
        a_set(ava, clip=replace(CLIP, **changed))


def test_a_missing_root_is_named(ava):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder; it holds the videos"):
        BoxDataset(ava / "a.csv", ava / "nowhere", CLIP, train=False)
