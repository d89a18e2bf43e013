"""A detection task out of the embedded clips, in AVA's own files: two clips of `motion` side by side, a box around each object.

A box has two actions: which way its object moves, 1 to 6, and its colour, 7 to 10. Only the box says which of the two objects
is meant.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from i2vlib.data.drawing import ATTRIBUTES, PALETTE
from i2vlib.data.lists import read_list
from i2vlib.data.mini import TASKS, mini_data
from i2vlib.data.video import read_clip, write_clip
from i2vlib.protocol import ClipConfig

FRAMES, SECOND = TASKS["motion"].frames, TASKS["motion"].frames // 2  # at one frame a second the keyframe is the middle one
ACTIONS = (*TASKS["motion"].class_names, *(f"is {colour}" for colour in ATTRIBUTES["colour"]))
# three squares of 48 pixels show all of a frame that is 128 wide
CLIP = ClipConfig(FRAMES, "dense", 1, size=48, short_side=48, test_short_side=48, flip=0.0, test_crops=3)
FILES = {"classes": len(ACTIONS), "start": 0.0, "fps": 1.0}  # what a BoxDataset is told of them


def object_box(frame: Tensor) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of the coloured object in uint8 (H,W,3), shares of width and height: the pixels around which the largest and
    the smallest channel differ by over a fifth of the range, as in i2vlib.data.mini.object_place. Raises ValueError for none."""
    pixels = frame.float() / 255
    colourful = avg_pool2d((pixels.amax(2) - pixels.amin(2))[None], 3, 1, 1)[0] > 0.2
    if not colourful.any():
        raise ValueError("no pixel of the frame is coloured")
    rows, columns = (torch.nonzero(colourful.any(dim))[:, 0] for dim in (1, 0))
    H, W = colourful.shape
    return columns[0].item() / W, rows[0].item() / H, (columns[-1].item() + 1) / W, (rows[-1].item() + 1) / H


def object_colour(frame: Tensor) -> int:
    """Which colour of the palette the object's pixels, uint8 (H,W,3), are nearest to in direction: textures darken it."""
    pixels = frame.float().flatten(0, 1) / 255
    vivid = pixels[pixels.amax(1) - pixels.amin(1) > 0.3].mean(0)
    return int(torch.nn.functional.cosine_similarity(vivid - vivid.mean(), PALETTE - PALETTE.mean(1, keepdim=True)).argmax())


def mini_detection(folder: str | Path, train: int = 256, val: int = 64) -> Path:
    """Write {train,val}.csv, actions.pbtxt and videos/ into `folder`: so many frames, each of two clips of the embedded task."""
    folder, source = Path(folder), mini_data("motion")
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    items = "".join(f'item {{\n  name: "{name}"\n  id: {i}\n}}\n' for i, name in enumerate(ACTIONS, 1))
    (folder / "actions.pbtxt").write_text(items)
    for split, pairs in (("train", train), ("val", val)):
        # neighbours in the list are twins, reversed in time: the second object comes from the middle of the list on
        entries = read_list(source / f"{split}.txt")
        half = len(entries) // 2
        with open(folder / f"{split}.csv", "w", newline="") as file:
            lines = csv.writer(file)
            for i in range(pairs):
                sides = [entries[i % half], entries[half + (i + 7 * (i // half)) % half]]
                clips = [read_clip(source / entry.path, range(FRAMES)) for entry in sides]
                write_clip(folder / "videos" / f"{split}{i:05d}.mp4", torch.cat(clips, 2))
                for person, (entry, clip) in enumerate(zip(sides, clips, strict=True)):
                    x1, y1, x2, y2 = object_box(clip[SECOND])
                    box = [f"{v:.4f}" for v in ((x1 + person) / 2, y1, (x2 + person) / 2, y2)]
                    for action in (1 + entry.label, 7 + object_colour(clip[SECOND])):
                        lines.writerow([f"{split}{i:05d}", f"{SECOND:04d}", *box, action, person])
    return folder
