"""What a model costs: parameters, multiply-adds by counter and by hand, latency as a ratio.

    python -m i2vlib.measure                 merged ZeroI2V against the plain tower against open_clip's, ViT-B/16, 8 frames;
                                             InTI (5,7) against naive adaptation, ViT-B/16, 16 frames
"""

from __future__ import annotations

import argparse
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

from i2vlib.adaptation.block import adapter_multiply_adds
from i2vlib.compression.tokens import sta_multiply_adds, tome_multiply_adds
from i2vlib.config import DROPPING, AdaptationConfig, ModelConfig, SwinConfig, TemporalConfig
from i2vlib.presets import PRESETS
from i2vlib.temporal.aim import over_time_multiply_adds
from i2vlib.temporal.evl import evl_multiply_adds
from i2vlib.temporal.uniformerv2 import global_multiply_adds, local_multiply_adds
from i2vlib.tower.classifier import VideoClassifier, build_model, merge
from i2vlib.tower.swin import swin_multiply_adds
from i2vlib.tower.wrappers import bare_copy


class Count(NamedTuple):
    parameters: int
    trainable: int
    multiply_adds: int  # for one clip


def count(model: nn.Module, frames: int, size: int) -> Count:
    """Parameters, those that train, and multiply-adds of one clip (1, frames, 3, size, size), by PyTorch's operator counter.

    Counted as 1 each: the multiply-adds of linear layers, convolutions and both attention products, the convention of the
    papers' GFLOPs columns. Nothing is computed: a copy of the model runs on the meta device, uncompiled. The model is left as it
    was.
    """
    parameters = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shadow = bare_copy(model).requires_grad_(False).eval().to("meta")  # the counter trips over views of what trains
    clip = torch.empty(1, frames, 3, size, size, device="meta", dtype=next(model.parameters()).dtype)
    # the fused attention kernels have no meta form that the counter knows; the plain form has the same products
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        shadow(clip)
    return Count(parameters, trainable, counter.get_total_flops() // 2)


def kept_for_backward(model: nn.Module, clip: torch.Tensor) -> int:
    """Bytes that a forward pass on `clip` leaves for the backward pass: every storage once, the model's weights not counted.

    Where tensors have shapes alone (FakeTensorMode), too.
    """
    weights = {p.untyped_storage()._cdata for p in model.parameters()}  # data_ptr is 0 where there is no memory
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps an address from being given out twice

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = model(clip)  # its graph holds what was kept
    return sum(storage.nbytes() for storage in kept.values()) if result.requires_grad else 0


def inference(config: ModelConfig) -> ModelConfig:
    """What is left when all that merges is merged."""
    return replace(config, adaptation=AdaptationConfig()) if config.adaptation.adds and config.adaptation.merges else config


def multiply_adds(config: ModelConfig, everywhere: bool = False) -> int:
    """The same number by hand: per frame the patch embedding; per block 4 projections, 2 attention products, MLP, adapters;
    and what stands at the sites and over time. Frames and tokens are those that are left at each block.

    everywhere: count InTI's frame and global levels as if they were computed anew for every token, as the paper's column does.
    """
    tower, compression, temporal = config.tower, config.compression, config.temporal
    if isinstance(tower, SwinConfig):
        return swin_multiply_adds(config)
    D, hidden = tower.width, int(tower.width * tower.mlp_ratio)
    total = config.frames_at(0) * tower.grid**2 * (9 if temporal.stem else 3) * tower.patch_size**2 * D + D * config.classes
    for block in range(1, tower.layers + 1):
        T, N = config.frames_at(block - 1), config.tokens_at(block - 1)
        left = config.tokens_at(block) if compression.kind == "tome" else N  # ToMe merges in front of the MLP
        total += T * (4 * N * D * D + 2 * N * N * D + 2 * left * D * hidden)
        total += adapter_multiply_adds(config, T, N, left) if block > config.lower else 0
        if compression.kind == "tome" and block > config.lower:
            total += T * tome_multiply_adds(N, compression.remove, D // tower.heads)
        if "time_out" in config.adaptation.places and block > config.lower:
            total += over_time_multiply_adds(T, N, D)
        if block > tower.layers - temporal.evl:
            total += evl_multiply_adds(T, N, tower.grid**2, D)
        if temporal.local and block > config.lower:
            total += 2 * local_multiply_adds(T, N - 1, D)
        if block in compression.after:
            total += site_multiply_adds(config, T, N, everywhere)
        if block > tower.layers - temporal.global_blocks:
            total += global_multiply_adds(config.frames_at(block), config.tokens_at(block), D, compression.kind not in DROPPING,
                                          tower.registers)
    return total


def site_multiply_adds(config: ModelConfig, frames: int, tokens: int, everywhere: bool = False) -> int:
    """Multiply-adds of one compression site for one clip of so many frames and tokens a frame that arrive there."""
    compression, C, pairs = config.compression, config.tower.width, frames // 2
    if compression.kind == "sta":
        return sta_multiply_adds(frames, tokens, C) if compression.remove else 0
    if compression.kind in ("mean", "linear"):
        return 0
    if compression.kind == "conv":
        return 2 * C * C * pairs * tokens
    cells = {"token": pairs * tokens, "cube": pairs * tokens, "frame": pairs, "global": 1}  # how often each level is computed
    if everywhere:
        cells = dict.fromkeys(cells, pairs * tokens)
    on = {level: cells[level] for level in compression.levels}
    total = sum(C * C * (1 if level == "global" else 2) * n for level, n in on.items())  # f, or the global level's last layer
    if "cube" in on:
        total += 27 * C * frames * config.tower.grid**2
    if "global" in on:
        lengths = [frames, max(1, frames // 2), max(1, max(1, frames // 2) // 2)]  # behind each pooling
        total += 3 * C * sum(lengths)
    parts = {"cat": list(on.values()), "add": [max(on.values())]}.get(compression.fusion) or [
        max(part) for part in ([n for level, n in on.items() if level == "token"],
                               [n for level, n in on.items() if level != "token"]) if part]
    total += C * C * sum(parts)
    return total + 2 * C * (pairs * tokens if compression.head == "attention" else max(parts))


def interleave(runs: dict[str, Callable[[], object]], repeats: int, device: str = "cpu",
               warmup: int = 2, clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """Seconds of each run, taken in turn so that a drift of the machine's speed meets all alike, behind some warm-up rounds.

    clock: time.process_time gives the processor's seconds, all threads together, which other programs hardly disturb.
    """
    def timed(run: Callable[[], object]) -> float:
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    times = {name: [] for name in runs}
    for i in tqdm(range(repeats + warmup), desc="timing in turn", leave=False):
        for name in sorted(runs, key=list(runs).index, reverse=bool(i % 2)):  # A B C, C B A, ...
            seconds = timed(runs[name])
            if i >= warmup:
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


INTI, NAIVE = "InTI (5,7)", "naive"


def inti_latency(repeats: int = 7, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    """Seconds a clip of INTI and NAIVE: ViT-B/16, 16 frames, with two InTI sites and without."""
    torch.manual_seed(0)
    models = {name: build_model(replace(PRESETS[f"{preset}-b16-16f-k400"], classes=0)).eval().to(device, dtype)
              for name, preset in ((INTI, "inti"), (NAIVE, "naive"))}
    clip = torch.randn(1, 16, 3, 224, 224).to(device, dtype)
    with torch.inference_mode():
        return interleave({name: lambda m=m: m(clip) for name, m in models.items()}, repeats, device)


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency ratios, measured in turn; medians of ratios within a round.")
    parser.add_argument("--preset", default="zeroi2v-b16-8f-k400",
                        choices=[n for n in PRESETS if n.startswith("zeroi2v") and "inti" not in n])
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
    times = inti_latency(args.repeats, args.device, dtype)
    counted = multiply_adds(PRESETS["inti-b16-16f-k400"]) / multiply_adds(PRESETS["naive-b16-16f-k400"])
    print(f"ViT-B/16, 16 frames: {INTI} / {NAIVE}: {median_ratio(times, INTI, NAIVE):.3f}; of multiply-adds: {counted:.3f}")


if __name__ == "__main__":
    main()
