"""What a detector learns of the miniature detection task: mean AP of four strategies, three seeds, one rate for all.

    python tests/detection/bench_detection.py             # 100 steps of 16 frames each; 15 minutes on 2 busy cores
    python tests/detection/bench_detection.py --steps 500 --frames 2048 --seeds 1
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace

import torch

import i2vlib as i2v
from i2vlib.detection.mean_ap import mean_ap
from i2vlib.detection.mini import ACTIONS, CLIP, FILES, mini_detection
from i2vlib.presets import PRESETS

STRATEGIES = ("probe", "adapters", "stdha", "zeroi2v")
PARTS = {"all": range(1, 11), "direction": range(1, 7), "colour": range(7, 11)}


def main(steps: int, frames: int, seeds: int) -> None:
    recipe = i2v.TrainConfig(steps=steps, batch_size=16, lr=0.05, backbone_lr=0.1, warmup=0.1, clip_norm=1.0, workers=0)
    with tempfile.TemporaryDirectory() as folder:
        place = mini_detection(folder, train=frames, val=192)
        train, val = (i2v.BoxDataset(place / f"{split}.csv", place / "videos", CLIP, split == "train", cache=True,
                                     labels=place / "actions.pbtxt", **FILES) for split in ("train", "val"))
        print("| seed | strategy | " + " | ".join(PARTS) + " |\n|---|---|" + "---|" * len(PARTS))
        for seed in range(seeds):
            for name in STRATEGIES:
                torch.manual_seed(seed)
                model = i2v.build_detector(replace(PRESETS[f"{name}-mini-motion"], classes=len(ACTIONS)), "mini")
                i2v.train_detector(model, train, replace(recipe, seed=seed), place / f"{seed}-{name}", progress=False)
                found = i2v.evaluate_boxes(model, val, progress=False).precisions
                columns = [str(seed), name, *(f"{mean_ap(found, ids):.3f}" for ids in PARTS.values())]
                print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 100), ("frames", 512), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))
