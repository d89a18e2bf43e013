"""The real tower's shapes, timed: against timm's own forward of the same model, and training with and without kept features.

    python tests/training/bench_features.py [--rounds 15] [--threads 2]

Random weights. Everything is timed in turn; a ratio is the median over rounds of the ratio within a round. Forward: one clip of
8 frames. A training step: batch 8, 4 frames of 112 pixels, the last 4 of 12 blocks (or adapters in them) and the head, AdamW;
clips are decoded in each step, and kept features are read from disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from i2vlib.config import FOUR_ADAPTERS, AdaptationConfig, ModelConfig, TemporalConfig
from i2vlib.course import real
from i2vlib.data.datasets import VideoDataset
from i2vlib.data.drawing import generator
from i2vlib.data.photos import TASKS
from i2vlib.data.video import write_clip
from i2vlib.measure import interleave, median_ratio
from i2vlib.presets import tower_at
from i2vlib.tower.classifier import build_model, merge
from i2vlib.training.features import keep_features

TIMM = "vit_small_patch14_dinov2"
STDHA = TemporalConfig((-1, 1, 0, 0, 0, 0))
BATCH, CLIPS, CLASSES = 8, 32, 6


def timm_tower(size: int) -> nn.Module:
    return timm.create_model(TIMM, img_size=size, num_classes=0)


def forwards(size: int, frames: int = 8) -> dict[str, Callable]:
    """One clip through the merged STDHA model, the plain tower and timm's, features out."""
    tower = tower_at(real.NAME, size)
    stdha = merge(build_model(ModelConfig(tower, STDHA, AdaptationConfig("linear", FOUR_ADAPTERS), frames))).eval()
    plain, theirs = build_model(ModelConfig(tower, frames=frames)).eval(), timm_tower(size).eval()
    clip = torch.randn(1, frames, 3, size, size)
    return {"merged STDHA": lambda: stdha(clip), "plain tower": lambda: plain(clip), "timm": lambda: theirs(clip[0]).mean(0)}


class TimmClassifier(nn.Module):
    """timm's tower on frames, their mean, a head; the last blocks train."""

    def __init__(self):
        super().__init__()
        self.tower, self.head = timm_tower(real.CLIP.size).requires_grad_(False), nn.Linear(real.TOWER.width, CLASSES)
        for part in (*self.tower.blocks[-real.UPPER:], self.tower.norm):
            part.requires_grad_(True)

    def forward(self, video: Tensor) -> Tensor:
        return self.head(self.tower(video.flatten(0, 1)).unflatten(0, video.shape[:2]).mean(1))


def steps(folder: Path) -> dict[str, Callable]:
    """A step from kept features, from the video, and of timm's model from the video."""
    frames, labels, _ = TASKS["photos-one"].draw("train", 0, CLIPS, generator("bench"))
    for i, clip in enumerate(frames):
        write_clip(folder / f"{i}.mp4", clip)
    (folder / "list.txt").write_text("".join(f"{i}.mp4 {label}\n" for i, label in enumerate(labels.tolist())))
    videos = VideoDataset(folder / "list.txt", folder, real.CLIP, train=False)
    config = ModelConfig(real.TOWER, STDHA, AdaptationConfig("full"), real.CLIP.frames, CLASSES, 0.0, upper=real.UPPER)
    adapted = replace(config, adaptation=AdaptationConfig("linear", FOUR_ADAPTERS))
    model, adapters, theirs = build_model(config), build_model(adapted), TimmClassifier()
    adapters.backbone.load_state_dict(adapters.backbone.state_dict() | model.backbone.image_state())  # the same lower blocks
    kept = keep_features(model, videos, folder / "features", progress=False)
    return {"kept features": step(model, kept), "video": step(model, videos), "timm, video": step(theirs, videos),
            "adapters, kept features": step(adapters, kept), "adapters, video": step(adapters, videos)}


def step(model: nn.Module, dataset) -> Callable:
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    starts = cycle(range(0, CLIPS, BATCH))
    model.train()

    def run() -> None:
        first = next(starts)
        items = [dataset[i] for i in range(first, first + BATCH)]
        video, labels = torch.stack([item["video"][0] for item in items]), torch.tensor([item["label"] for item in items])
        optimiser.zero_grad()
        cross_entropy(model(video), labels).backward()
        optimiser.step()

    return run


def report(title: str, runs: dict[str, Callable], rounds: int, pairs: list[tuple[str, str]]) -> None:
    times = interleave(runs, rounds)
    print(title)
    for name, seconds in times.items():
        print(f"  {name:24s} median {1000 * statistics.median(seconds):8.1f} ms")
    for a, b in pairs:
        print(f"  {a} / {b}: {median_ratio(times, a, b):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"ViT-S/14, float32, CPU, {args.threads} thread(s), {args.rounds} rounds")
    for size in (112, 224):
        with torch.inference_mode():
            report(f"forward, 8 frames of {size} pixels", forwards(size), args.rounds,
                   [("merged STDHA", "timm"), ("plain tower", "timm"), ("merged STDHA", "plain tower")])
    with tempfile.TemporaryDirectory() as folder:
        report("training step", steps(Path(folder)), args.rounds,
               [("kept features", "video"), ("kept features", "timm, video"), ("video", "timm, video"),
                ("adapters, kept features", "adapters, video"), ("adapters, video", "timm, video")])


if __name__ == "__main__":
    main()
