"""Clips around the keyframes of an annotation file, with the boxes where the model sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from i2vlib.config import ConfigError
from i2vlib.data.classes import ListError
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.list_formats import is_video
from i2vlib.data.lists import Entry
from i2vlib.data.transforms import normalised
from i2vlib.detection.annotations import Box, Keyframe, read_actions, read_boxes, read_proposals
from i2vlib.protocol import ClipConfig

VISIBLE = 0.25  # share of a box that a training crop must show for the box to count
PLAIN = {"rand_augment": (0, 0), "erasing": 0.0, "colour_jitter": 0.0, "grey": 0.0, "flip_pairs": (), "test_clips": 1}


def centred_indices(total: int, middle: int, frames: int, stride: int) -> list[int]:
    """`frames` numbers, `stride` apart, that at place frames // 2 being `middle`; beyond an end of the video the end repeats.

    Raises ValueError for a middle that the video does not have.
    """
    if not 0 <= middle < total:
        raise ValueError(f"the keyframe is frame {middle}: allowed is 0 to {total - 1}; are start and fps those of the files?")
    return [min(max(middle + (i - frames // 2) * stride, 0), total - 1) for i in range(frames)]


class BoxDataset(VideoDataset):
    """A clip around each keyframe: training and test items for a Detector.

    An item: video float32 (V,T,3,size,size); boxes (V,M,4), x1, y1, x2, y2 as shares of each view, cut at its edge; share (V,M),
    how much of a box a view shows, 0 for the rows behind a keyframe's last box; actions (M,classes) 0 or 1; index, weight, error
    as in VideoDataset. M is the most boxes of a keyframe. In training V = 1, in testing clip.test_crops.

    annotations, excluded: AVA's files. proposals: a person detector's boxes, those of least_score or more are scored in place of
    the annotated ones; at a second where nobody is annotated and that is not excluded they are false. labels: AVA's .pbtxt of the
    evaluated actions; without it all are. The frame of second s is number (s - start)·fps of root/<video>.mp4 (or another ending)
    or of the folder root/<video>/ with img_00001.jpg on. As a rule they are films cut from second 900 on, at 30 frames a second.
    Folders are read in milliseconds, a long film is not.

    clip.sampling is "dense", centred on the keyframe. In training the frame is scaled to short_side, of which a random square is
    seen, flipped or not; without random_crop the centre at test_short_side. What else moves or hides pixels is refused.
    Raises ListError, FileNotFoundError for a missing root, ConfigError for clip settings that boxes cannot follow.
    """

    def __init__(self, annotations: str | Path, root: str | Path, clip: ClipConfig, train: bool, seed: int = 0,
                 cache: bool = False, *, excluded: str | Path | None = None, proposals: str | Path | None = None,
                 least_score: float = 0.8, labels: str | Path | None = None, classes: int = 80, start: float = 900.0,
                 fps: float = 30.0) -> None:
        _check(clip)
        self.root, self.clip, self.train, self.seed = Path(root), clip, train, seed
        if not self.root.is_dir():
            raise FileNotFoundError(f"{root}: there is no such folder; it holds the videos that {annotations} names")
        self.classes, self.start, self.fps = classes, start, fps
        names = read_actions(labels) if labels else {}
        if max(names, default=1) > classes:
            raise ListError(f"{labels}: action {max(names)}: allowed is 1 to {classes}")
        self.evaluated = sorted(names)
        self.class_names = [names.get(i, f"action {i}") for i in range(1, classes + 1)] if names else []
        self.truth = read_boxes(annotations, excluded=excluded, classes=classes)
        self.keyframes = self.truth
        if proposals:
            self.keyframes = self._proposed(read_proposals(proposals, least_score, excluded=excluded))
        self.most = max(len(key.boxes) for key in self.keyframes)
        there = _videos(self.root)
        files = {video: there.get(video, f"{video}.mp4") for video in dict.fromkeys(key.video for key in self.keyframes)}
        entries = {video: Entry(name, 0, _images(self.root / name)) for video, name in files.items()}
        self.entries = [entries[key.video] for key in self.keyframes]
        self.memory = {} if cache else None
        self._epoch = 0
        self._transform = BoxTransform(clip, train)

    def _proposed(self, proposals: list[Keyframe]) -> list[Keyframe]:
        """The detector's keyframes in the annotated videos. Where nobody is annotated the truth is that nobody is there."""
        known, videos = {(key.video, key.second) for key in self.truth}, {key.video for key in self.truth}
        found = [key for key in proposals if key.video in videos]
        if not any((key.video, key.second) in known for key in found):
            raise ListError("none of the proposals is at a second that the annotations have: are they of the same videos?")
        self.truth += [Keyframe(key.video, key.second, (), ()) for key in found if (key.video, key.second) not in known]
        return found

    def __getitem__(self, index: int) -> dict:
        key, size = self.keyframes[index], self.clip.size
        views = 1 if self.train else self.clip.test_crops
        boxes, share = torch.zeros(views, self.most, 4), torch.zeros(views, self.most)
        actions = torch.zeros(self.most, self.classes)
        try:
            video, rest = self._clip(index, key.boxes)
            boxes[:, :len(key.boxes)], share[:, :len(key.boxes)] = rest[..., :4], rest[..., 4]
            for row, ids in enumerate(key.actions):
                actions[row, [i - 1 for i in ids]] = 1.0
            weight, error = 1.0, ""
        except Exception as reason:  # whatever a decoder raises
            video, weight = torch.zeros(views, self.clip.frames, 3, size, size), 0.0
            error = str(self._named(index, reason))
        return {"video": video, "boxes": boxes, "share": share, "actions": actions, "label": 0, "index": index, "weight": weight,
                "error": error}

    def _clip(self, index: int, boxes: Sequence[Box]) -> tuple[Tensor, Tensor]:
        middle = round((self.keyframes[index].second - self.start) * self.fps)
        frames = self._frames(index, lambda total: [centred_indices(total, middle, self.clip.frames, self.clip.stride)])[0]
        with self._draws(index):
            return self._transform(frames, torch.tensor(boxes))


class BoxTransform:
    """Frames uint8 (T,H,W,3) and boxes (n,4), shares of the frame -> video (V,T,3,size,size) and (V,n,5): the boxes as shares of
    each view, and the share of each box that the view shows. torchvision moves pixels and boxes together."""

    def __init__(self, clip: ClipConfig, train: bool) -> None:
        self.clip, self.train = clip, train
        self.square = v2.RandomCrop(clip.size) if clip.random_crop else v2.CenterCrop(clip.size)

    def __call__(self, frames: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        H, W = frames.shape[1:3]
        moving = self.train and self.clip.random_crop
        video = tv_tensors.Video(frames.permute(0, 3, 1, 2))
        found = tv_tensors.BoundingBoxes(boxes * torch.tensor([W, H, W, H]), format="XYXY", canvas_size=(H, W))
        video, found = v2.Resize(self.clip.short_side if moving else self.clip.test_short_side, antialias=True)(video, found)
        views = [self._training(video, found)] if self.train else [self._crop(video, found, *at) for at in self._corners(video)]
        whole = _area(found)
        rows = []
        for _, seen in views:
            seen = F.clamp_bounding_boxes(seen)
            rows.append(torch.cat([seen.as_subclass(Tensor) / self.clip.size, (_area(seen) / whole)[:, None]], 1))
        return torch.stack([normalised(picture.as_subclass(Tensor), self.clip) for picture, _ in views]), torch.stack(rows)

    def _training(self, video: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        video, boxes = self.square(video, boxes)
        return v2.RandomHorizontalFlip(self.clip.flip)(video, boxes)

    def _corners(self, video: Tensor) -> list[tuple[int, int]]:
        """Upper left of each view: the centre, or start, centre and end along the longer side."""
        H, W = (side - self.clip.size for side in video.shape[-2:])
        if self.clip.test_crops == 1:
            return [(H // 2, W // 2)]
        return [(H // 2, x) for x in (0, W // 2, W)] if W >= H else [(y, W // 2) for y in (0, H // 2, H)]

    def _crop(self, video: Tensor, boxes: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
        size = self.clip.size
        return F.crop(video, top, left, size, size), F.crop(boxes, top, left, size, size)


def _area(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.as_subclass(Tensor).unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def _videos(root: Path) -> dict[str, str]:
    """Name without its ending -> name of what lies in a folder: frame folders and video files."""
    with os.scandir(root) as found:
        return {entry.name if entry.is_dir() else os.path.splitext(entry.name)[0]: entry.name
                for entry in sorted(found, key=lambda e: e.name) if entry.is_dir() or is_video(entry.name)}


def _images(folder: Path) -> int | None:
    """The number of images of a frame folder, None for what is none."""
    return sum(name.endswith(".jpg") for name in os.listdir(folder)) if folder.is_dir() else None


def _check(clip: ClipConfig) -> None:
    for name, plain in PLAIN.items():
        if getattr(clip, name) != plain:
            raise ConfigError(f"ClipConfig.{name} = {getattr(clip, name)!r} with boxes, which do not follow it: allowed is "
                              f"{plain!r}")
    if clip.sampling != "dense":
        raise ConfigError(f"ClipConfig.sampling = {clip.sampling!r} with boxes: allowed is dense, centred on the keyframe")
    if clip.random_crop and clip.short_side < clip.size:
        raise ConfigError(f"ClipConfig.short_side = {clip.short_side}: a square of {clip.size} does not fit: allowed is as much "
                          "or more")
