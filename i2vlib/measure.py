"""What a model costs: parameters, multiply-adds by counter and by hand, latency as a ratio.

    python -m i2vlib.measure                 merged ZeroI2V against the plain tower against open_clip's, ViT-B/16, 8 frames
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from i2vlib.classifier import VideoClassifier, build_model, merge
from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig
from i2vlib.presets import PRESETS


class Count(NamedTuple):
    parameters: int
    trainable: int
    multiply_adds: int  # for one clip


def count(model: nn.Module, frames: int, size: int) -> Count:
    """Parameters, those that train, and multiply-adds of one clip (1, frames, 3, size, size), by PyTorch's operator counter.

    Counted as 1 each: the multiply-adds of linear layers, convolutions and both attention products, the convention of the
    papers' GFLOPs columns. Nothing is computed: a copy of the model runs on the meta device. The model is left as it was.
    """
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shadow = copy.deepcopy(model).eval().to("meta")
    clip = torch.empty(1, frames, 3, size, size, device="meta", dtype=next(model.parameters()).dtype)
    # the fused attention kernels have no meta form that the counter knows; the plain form has the same products
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        shadow(clip)
    return Count(parameters, trainable, counter.get_total_flops() // 2)


def multiply_adds(config: ModelConfig) -> int:
    """The same number by hand: per frame the patch embedding; per block 4 projections, 2 attention products, MLP, adapters."""
    tower, adaptation = config.tower, config.adaptation
    N, D, hidden = tower.tokens, tower.width, int(tower.width * tower.mlp_ratio)
    embedding = tower.grid**2 * 3 * tower.patch_size**2 * D
    projections, attention, mlp = 4 * N * D * D, 2 * N * N * D, 2 * N * D * hidden
    adapters = len(adaptation.places) * 2 * N * D * int(D * adaptation.ratio)
    return config.frames * (embedding + tower.layers * (projections + attention + mlp + adapters)) + D * config.classes


def interleave(runs: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each run, taken in turn so that a drift of the machine's speed meets all alike. Two warm-up rounds."""
    def timed(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    times = {name: [] for name in runs}
    for i in tqdm(range(repeats + 2), desc="timing in turn", leave=False):
        for name in sorted(runs, key=list(runs).index, reverse=bool(i % 2)):  # A B C, C B A, ...
            seconds = timed(runs[name])
            if i >= 2:
                times[name].append(seconds)
    return times


def median_ratio(times: dict[str, list[float]], a: str, b: str) -> float:
    """Median over rounds of the ratio a/b, each ratio taken within one round."""
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))


def open_clip_tower(config: ModelConfig) -> VisionTransformer:
    """An unmodified open_clip visual tower of the same shape, random weights, eval mode."""
    tower = config.tower
    activation = open_clip.transformer.QuickGELU if tower.quick_gelu else nn.GELU
    return VisionTransformer(tower.image_size, tower.patch_size, tower.width, tower.layers, tower.heads, tower.mlp_ratio,
                             output_dim=tower.output_dim, act_layer=activation).eval()


def latency(name: str = "zeroi2v-b16-8f-k400", repeats: int = 7, device: str = "cpu",
            dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    """Seconds a clip of: the merged model, the plain tower, open_clip's tower at equal weights, the unmerged model.

    The plain tower and open_clip's end in the frames' class features; all take the same (1,T,3,H,W) clip.
    """
    torch.manual_seed(0)
    config = replace(PRESETS[name], classes=0)
    adapted = build_model(config).eval()
    for block in adapted.backbone.transformer.resblocks:
        for adapter in block.adapters.values():
            nn.init.normal_(adapter.up.weight, std=0.01)  # away from the identity, as after training
    merged = merge(adapted)
    plain = VideoClassifier(replace(config, temporal=TemporalConfig(), adaptation=AdaptationConfig())).eval()
    plain.backbone.load_state_dict(merged.backbone.image_state())
    theirs = open_clip_tower(plain.config)
    theirs.load_state_dict(merged.backbone.image_state(), strict=True)
    clip = torch.randn(1, config.frames, 3, config.tower.image_size, config.tower.image_size).to(device, dtype)
    models = {"merged ZeroI2V": merged, "plain tower": plain, "unmerged ZeroI2V": adapted}
    runs = {label: lambda m=m: m(clip) for label, m in models.items()}
    runs["open_clip's tower"] = lambda: theirs(clip.flatten(0, 1)).mean(0)
    for model in (*models.values(), theirs):
        model.to(device, dtype)
    with torch.inference_mode():
        return interleave(runs, repeats, device)


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency ratios, measured in turn; medians of ratios within a round.")
    parser.add_argument("--preset", default="zeroi2v-b16-8f-k400", choices=[n for n in PRESETS if n.startswith("zeroi2v")])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default=None, choices=["float32", "bfloat16"])
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype or ("bfloat16" if args.device == "cuda" else "float32"))
    times = latency(args.preset, args.repeats, args.device, dtype)
    print(f"{args.preset}, {PRESETS[args.preset].frames} frames, {args.device} ({torch.get_num_threads()} threads), {dtype}, "
          f"{args.repeats} rounds")
    for label, seconds in times.items():
        print(f"  {label:20s} median {1000 * statistics.median(seconds):8.1f} ms")
    for a, b in (("merged ZeroI2V", "plain tower"), ("plain tower", "open_clip's tower"), ("unmerged ZeroI2V", "plain tower")):
        print(f"  {a} / {b}: {median_ratio(times, a, b):.3f}")


if __name__ == "__main__":
    main()
