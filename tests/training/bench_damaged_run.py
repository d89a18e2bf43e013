"""Training and testing on a list of damaged and whole files, workers 0 and 2, each twice: to the end, and alike?

    python tests/training/bench_damaged_run.py --count 1000

Each file is met once in training and once in testing by the smallest tower. Prints, for each run, the files used and named and
the digest of weights and scores.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import torch

from i2vlib.data.datasets import VideoDataset
from i2vlib.protocol import ClipConfig, TrainConfig
from i2vlib.tower.classifier import build_model
from i2vlib.training.evaluate import evaluate
from i2vlib.training.train import train

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "data")]
from _train_victim import MODEL  # noqa: E402
from bench_damage import make_damaged, make_good  # noqa: E402

CLIP = ClipConfig(2, size=16, short_side=16, test_short_side=16, random_crop=False, flip=0.0)


def run(folder: Path, out: Path, workers: int) -> tuple[int, int, int, str]:
    """(clips, clips used in testing, files named, digest of weights, scores and named files)."""
    torch.manual_seed(0)
    model = build_model(MODEL)
    sets = [VideoDataset(folder / "list.txt", folder, CLIP, train=train) for train in (True, False)]
    summary = train(model, sets[0], TrainConfig(epochs=1, batch_size=8, workers=workers, seed=0), out, progress=True)
    result = evaluate(model, sets[1], batch_size=8, workers=workers)
    named = sorted({**summary["bad_files"], **result.bad_files})
    digest = hashlib.md5("".join(named).encode())
    for value in [*model.state_dict().values(), result.scores]:
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    assert len(result.indices) + len(result.bad_files) == len(sets[1]), "a file is neither used nor named"
    return len(sets[1]), len(result.indices), len(named), digest.hexdigest()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        good = make_good(folder)
        names = [p.name for p in [*good.values(), *make_damaged(good, folder, chosen.count, chosen.seed)]]
        (folder / "list.txt").write_text("".join(f'"{name}" {i % MODEL.classes}\n' for i, name in enumerate(names)))
        for workers in (0, 2):
            for turn in (1, 2):
                print(f"workers {workers}, run {turn}:", *run(folder, folder / f"out {workers} {turn}", workers), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
