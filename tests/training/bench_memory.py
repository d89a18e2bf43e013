"""What training keeps for its backward pass and how long a step takes, form by form, as shares of the straightforward one.

    python tests/training/bench_memory.py [--rounds 9] [--threads 2]

Random weights, float32, one clip of 8 frames, STDHA with a temporal embedding, four linear adapters a block and their dropout.
Bytes are counted at the tensors that autograd saves, weights left out. Steps are timed in turn; a ratio is the median over rounds
of the ratio within a round. "Straightforward" is the equations as they read: each function keeps what PyTorch keeps for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from i2vlib.config import FOUR_ADAPTERS, AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.course.timings import straightforward
from i2vlib.measure import interleave, kept_for_backward, median_ratio
from i2vlib.presets import TOWERS, tower_at
from i2vlib.temporal.heads import stdha_offsets
from i2vlib.tower.classifier import build_model
from i2vlib.tower.modes import recomputing

TOWER = {"ViT-B/16, 224 pixels": replace(TOWERS["ViT-B-16"], quick_gelu=True),
         "ViT-S/14, 112 pixels": tower_at("saliency-vit-s14", 112)}


def forms(tower: TowerConfig) -> dict[str, tuple[nn.Module, Tensor, Callable]]:
    """For each form its model, its input and what is around a step."""
    temporal = TemporalConfig(stdha_offsets(tower.heads, 3), True)
    config = ModelConfig(tower, temporal, AdaptationConfig("linear", FOUR_ADAPTERS), 8, 400)
    whole, upper = build_model(config).train(), build_model(replace(config, upper=4)).train()
    clip = torch.randn(1, 8, 3, tower.image_size, tower.image_size)
    features = torch.randn(1, 8, tower.tokens, tower.width)
    return {"straightforward": (whole, clip, straightforward), "default": (whole, clip, nullcontext),
            "recompute=True": (whole, clip, recomputing), "upper=4, kept features": (upper, features, nullcontext)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, tower in TOWER.items():
        torch.manual_seed(0)
        rows, kept = forms(tower), {}
        for form, (model, given, around) in rows.items():
            with around(model):
                kept[form] = kept_for_backward(model, given)

        def step(form: str, rows=rows) -> None:
            model, given, around = rows[form]
            with around(model):
                model.zero_grad()
                model(given).square().sum().backward()

        times = interleave({form: lambda form=form: step(form) for form in rows}, args.rounds)
        print(f"{name}, {args.threads} thread(s), {args.rounds} rounds")
        for form in rows:
            print(f"  {form:24s} {kept[form] / 2**20:8.0f} MiB, {kept[form] / kept['straightforward']:.2f} of the bytes, "
                  f"{median_ratio(times, form, 'straightforward'):.2f} of the seconds", flush=True)


if __name__ == "__main__":
    main()
