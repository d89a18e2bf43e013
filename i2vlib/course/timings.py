"""What running and training take on this machine: models and forms of training side by side, as ratios.

    python -m i2vlib.course.timings [--tower ViT-B/16] [--rounds 7]     into notebooks/results/costs.json

Random weights: what is computed does not depend on their values. Bytes kept for backward are counted on shapes alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from i2vlib.config import AIM_PLACES, FOUR_ADAPTERS, AdaptationConfig, CompressionConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.layers import QuickGELU
from i2vlib.measure import interleave, kept_for_backward, multiply_adds
from i2vlib.presets import PRESETS, TOWERS, tower_at
from i2vlib.show.names import finished
from i2vlib.temporal.heads import stdha_offsets
from i2vlib.tower import attention, backbone
from i2vlib.tower.classifier import build_model, merge
from i2vlib.tower.modes import recomputing

KEPT = Path(__file__).resolve().parents[2] / "notebooks" / "results" / "costs.json"
SHAPES = {"ViT-S/14": replace(tower_at("dinov2-s14", 112), ln_pre=True, quick_gelu=True),  # of CLIP's kind, 64 patches
          "ViT-B/16": replace(TOWERS["ViT-B-16"], quick_gelu=True), "ViT-L/14": replace(TOWERS["ViT-L-14"], quick_gelu=True)}
WARMUP = {"cpu": 1, "cuda": 3}  # rounds
CLOCK = {"cpu": time.process_time, "cuda": time.perf_counter}  # a CPU's own seconds: other programs hardly disturb them
LINEAR = AdaptationConfig("linear", FOUR_ADAPTERS)


# ---- at inference ----

# latency over the image tower's, as printed: ZeroI2V's Tables 3 and 9 (ms); InTI's text, ViT-L with UniFormerV2's modules
PRINTED = {"merged": 1.0, "GELU adapters": 38.4 / 28.9, "ST-Adapter": 41.0 / 28.9, "EVL": 53.87 / 28.89,
           "UniFormerV2": 0.65 / 0.63, "InTI+": 0.65}


def rivals(tower: TowerConfig, frames: int = 8) -> dict[str, ModelConfig]:
    """The models that are timed beside the image tower, without a head. "merged" is linear adapters that are merged."""
    plain = ModelConfig(tower, frames=frames)
    stdha = replace(plain, temporal=TemporalConfig(stdha_offsets(tower.heads, 3), True))
    inti, uniformer = CompressionConfig("inti", (5, 7)), TemporalConfig(global_blocks=4)
    return {"image tower": plain, "merged": replace(stdha, adaptation=LINEAR),
            "linear adapters": replace(stdha, adaptation=LINEAR),
            "GELU adapters": replace(stdha, adaptation=AdaptationConfig("gelu", FOUR_ADAPTERS)),
            "ST-Adapter": replace(stdha, adaptation=AdaptationConfig("st_adapter", FOUR_ADAPTERS)),
            "AIM": replace(plain, adaptation=AdaptationConfig("aim", AIM_PLACES[1:])),
            "EVL": replace(plain, temporal=TemporalConfig(evl=4)), "UniFormerV2": replace(plain, temporal=uniformer),
            "InTI": replace(plain, compression=inti), "InTI+": replace(plain, temporal=uniformer, compression=inti)}


def latencies(tower: TowerConfig, frames: int, clips: int, rounds: int, device: str = "cpu",
              dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    """Seconds a batch of so many clips, of each of the rivals, taken in turn; on a CPU, of processor time."""
    torch.manual_seed(0)
    batch = torch.randn(clips, frames, 3, tower.image_size, tower.image_size).to(device, dtype)
    models = {name: build_model(config).eval() for name, config in rivals(tower, frames).items()}
    models["merged"] = merge(models["merged"])
    models = {name: model.to(device, dtype) for name, model in models.items()}
    with torch.inference_mode():
        return interleave({name: lambda m=m: m(batch) for name, m in models.items()}, rounds, device, WARMUP[device],
                          CLOCK[device])


def quartiles(times: Mapping[str, list[float]], base: str) -> dict[str, tuple[float, float, float]]:
    """Lower quartile, median and upper quartile of each run's seconds over the base's in the same round."""
    found = {}
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times[base], strict=True)]
        cuts = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        found[name] = tuple(cuts)
    return found


# ---- in training ----

@dataclass(frozen=True)
class Form:
    """A way to train: a model, what is around a step, and whether it starts from kept features of its lower blocks."""

    config: ModelConfig
    around: Callable = nullcontext

    @property
    def features(self) -> bool:
        return bool(self.config.upper)


@contextmanager
def straightforward(model: nn.Module) -> Iterator[None]:
    """Each module keeps what it is given, and QuickGELU is a product of its input and a sigmoid."""
    def through(x: Tensor, *modules: nn.Module) -> Tensor:
        return nn.Sequential(*modules)(x)

    with patch.object(attention, "through", through), patch.object(backbone, "through", through), \
            patch.object(QuickGELU, "forward", lambda self, x: x * torch.sigmoid(1.702 * x)):
        yield


def forms(tower: TowerConfig, frames: int = 8, classes: int = 400) -> dict[str, Form]:
    """ZeroI2V (STDHA, embedding, four linear adapters a block), trained in several ways; and what else there is."""
    plain = ModelConfig(tower, frames=frames, classes=classes)
    zeroi2v = replace(plain, temporal=TemporalConfig(stdha_offsets(tower.heads, 3), True), adaptation=LINEAR)
    inti = CompressionConfig("inti", (5, 7))
    full = replace(plain, adaptation=AdaptationConfig("full"))
    return {"straightforward": Form(zeroi2v, straightforward), "default": Form(zeroi2v),
            "blocks recomputed": Form(zeroi2v, recomputing),
            **{f"upper {n} blocks": Form(replace(zeroi2v, upper=n)) for n in (8, 4)},
            "with InTI": Form(replace(zeroi2v, compression=inti)), "EVL": Form(replace(plain, temporal=TemporalConfig(evl=4))),
            "full fine-tuning": Form(full), "full, with InTI": Form(replace(full, compression=inti))}


def table_10(tower: TowerConfig) -> dict[str, tuple[Form, float]]:
    """The rows of ZeroI2V's Table 10 that print a memory in GB, 8 frames, all written straightforwardly; the table does not give
    batch and precision. ZeroI2V's row on SSv2 is printed as the one on K400."""
    rows = {"EVL, K400": ("evl-b16-8f-k400", None, 2.2), "EVL, SSv2": ("evl-b16-8f-ssv2", None, 5.6),
            "ST-Adapter, K400": ("probe-b16-8f-k400", ("qkv",), 6.9),
            "ST-Adapter, SSv2": ("probe-b16-8f-ssv2", ("qkv", "mlp_in"), 7.6),
            "AIM, K400": ("aim-b16-8f-k400", None, 8.7), "AIM, SSv2": ("aim-b16-8f-ssv2", None, 9.0),
            "ZeroI2V": ("zeroi2v-b16-8f-k400", None, 7.6)}
    found = {}
    for row, (preset, places, printed) in rows.items():
        config = replace(PRESETS[preset], tower=tower, drop_path=0.0)
        if places:
            config = replace(config, adaptation=AdaptationConfig("st_adapter", places, 1 / 2, 1.0, 0.0))
        found[row] = Form(config, straightforward), printed
    return found


def given(config: ModelConfig, clips: int = 1) -> Tensor:
    """A batch as a form of training takes it: videos, or the tokens that its lower blocks would give."""
    tower, shape = config.tower, (clips, config.frames)
    return torch.randn(*shape, tower.tokens, tower.width) if config.upper else torch.randn(*shape, 3, *(tower.image_size,) * 2)


def kept(form: Form, clips: int = 1) -> int:
    """Bytes that a training step of so many clips keeps for backward, in float32 on a CPU. Nothing is computed: shapes only."""
    with torch.device("meta"):
        model = build_model(form.config).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        with form.around(model) if form.around is not nullcontext else nullcontext():
            return kept_for_backward(model, given(form.config, clips))


def standing(form: Form) -> tuple[int, int]:
    """Bytes of the weights, those of lower blocks whose features are kept left out, and of the gradients and AdamW's two moments
    of what trains; float32."""
    with torch.device("meta"):
        model = build_model(form.config)
    lower = sum(p.numel() for p in model.backbone.transformer.resblocks[:form.config.lower].parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 4 * (sum(p.numel() for p in model.parameters()) - lower), 12 * trained


def step_multiply_adds(form: Form) -> int:
    """Multiply-adds of a training step on one clip: forward; back to what is read, which are two things for attention's products;
    once more for each weight that trains; and what is computed again, in which norms count 0."""
    config, tower = form.config, form.config.tower
    still = replace(config, adaptation=AdaptationConfig(), drop_path=0.0)
    forward, added = multiply_adds(config), multiply_adds(config) - multiply_adds(still)
    pixels = config.frames * tower.grid**2 * 3 * tower.patch_size**2 * tower.width  # no gradient goes back to pixels
    if config.temporal.evl:  # the tower runs once, and nothing goes back into it: half of the maps is not trained, half a table
        once = multiply_adds(replace(config, temporal=TemporalConfig())) - tower.width * config.classes
        maps, conv = 4 * (config.frames - 1) * tower.grid**4, 3 * config.frames * tower.tokens
        return 3 * forward - 2 * once - config.temporal.evl * tower.width * (3 * maps // 2 + conv)
    if config.adaptation.kind == "full":
        return 3 * forward - pixels
    block = config.frames * (12 * tower.tokens * tower.width**2 + 2 * tower.tokens**2 * tower.width)
    forward -= pixels + config.lower * block if form.features else 0
    products = sum(2 * config.frames_at(b) * tower.tokens**2 * tower.width for b in range(config.lower, tower.layers))
    sites = multiply_adds(still) - multiply_adds(replace(still, compression=unweighted(still.compression)))
    passed = forward - (0 if form.features else pixels)
    head = tower.width * config.classes
    total = forward + passed + products + added + sites + head
    again = 0 if form.around is straightforward else added // 4  # of four adapters the first matrix of the two behind norms
    # a block again, but for the last matrix of its last adapter
    return total + again + (passed - head - added // 8 if form.around is recomputing else 0)


def unweighted(compression: CompressionConfig) -> CompressionConfig:
    """The same sites as plain means, which cost nothing."""
    return CompressionConfig("mean", compression.after) if compression.after else compression


def step_times(chosen: Mapping[str, Form], rounds: int, clips: int = 1, device: str = "cpu",
               dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    """Seconds of a forward and backward pass of each form, taken in turn; on a CPU, of processor time."""
    torch.manual_seed(0)
    ready = {name: (build_model(form.config).train().to(device, dtype), given(form.config, clips).to(device, dtype), form.around)
             for name, form in chosen.items()}

    def step(model: nn.Module, batch: Tensor, around: Callable) -> None:
        with around(model) if around is not nullcontext else nullcontext():
            model.zero_grad()
            model(batch).square().sum().backward()

    return interleave({name: lambda parts=parts: step(*parts) for name, parts in ready.items()}, rounds, device,
                      WARMUP[device], CLOCK[device])


# ---- what is kept of a longer run, and pictures ----

def read_kept(path: Path = KEPT) -> dict:
    """{"latency" | "step": {name: [quartile, median, quartile]}, "tower", "rounds", "machine"}; {} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def latency_figure(live: Mapping[str, tuple], counted: Mapping[str, float], kept_run: Mapping | None = None) -> Figure:
    """Latency over the image tower's: bars from quartile to quartile, the multiply-adds' ratio, the papers' number."""
    figure, axis = plt.subplots(figsize=(8, 3.9))
    names = [name for name in reversed(live) if name != "image tower"]
    axis.axvline(1, color="0.6", lw=0.8, zorder=0)
    runs = [("this run", live, "C0", 0.16)]
    runs += [(f"kept run: {kept_run['tower']}", kept_run["latency"], "C2", -0.16)] if kept_run else []
    for label, found, colour, up in runs:
        for i, name in enumerate(names):
            low, middle, high = found[name]
            axis.plot([low, high], [i + up] * 2, color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
            axis.plot(middle, i + up, "o", color=colour, ms=5, label=label if i == 0 else None)
    axis.plot([counted[name] for name in names], range(len(names)), "|", color="black", ms=20, mew=1.5, label="multiply-adds")
    said = [name for name in names if name in PRINTED]
    axis.plot([PRINTED[name] for name in said], [names.index(name) for name in said], "D", mfc="none", mec="C1", ms=7, mew=1.5,
              label="paper")
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="latency over the image tower's, same frames", xlim=(0, None),
             title="Merged, the video model takes the image tower's time; InTI takes less, adapters that stay take more")
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=4)
    return finished(figure)


LINES = {("straightforward", "default", "blocks recomputed"): "C0", ("default", "upper 8 blocks", "upper 4 blocks"): "C2"}
LABELS = {"with InTI": (6, 3, "left"), "upper 8 blocks": (-6, 5, "right"), "upper 4 blocks": (8, -4, "left"),
          "full, with InTI": (-6, 5, "right"), "full fine-tuning": (-8, 5, "right")}  # points, where a name stands


def trade_figure(bytes_kept: Mapping[str, float], counted: Mapping[str, float], live: Mapping[str, tuple],
                 kept_run: Mapping | None = None) -> Figure:
    """Bytes kept for backward against the time of a step, both over the straightforward form's; lines join forms of one kind,
    black strokes are the multiply-adds of a step."""
    runs = {"this run": live} | ({f"kept run: {kept_run['tower']}": kept_run["step"]} if kept_run else {})
    figure, axes = plt.subplots(1, len(runs), figsize=(9.2 if kept_run else 6, 4.2), sharex=True, sharey=True, squeeze=False)
    for axis, (title, found) in zip(axes[0], runs.items(), strict=True):
        for line, colour in LINES.items():
            axis.plot([found[n][1] for n in line], [bytes_kept[n] for n in line], "-", color=colour, lw=1, alpha=0.6, zorder=1)
        for name, (low, middle, high) in found.items():
            colour = next((c for line, c in LINES.items() if name in line), "C1")
            axis.plot([low, high], [bytes_kept[name]] * 2, color=colour, lw=4, alpha=0.3, solid_capstyle="butt")
            axis.plot(middle, bytes_kept[name], "o", color=colour, ms=5)
            axis.plot(counted[name], bytes_kept[name], "|", color="black", ms=11, mew=1.3)
            right, up, side = LABELS.get(name, (7, 5, "left"))
            axis.annotate(name, (middle, bytes_kept[name]), (right, up), textcoords="offset points", fontsize=8, ha=side)
        axis.set(title=title, xlabel="time of a step over the straightforward one's", ylim=(0, 1.08))
    axes[0][0].set(ylabel="bytes kept for backward,\nover the straightforward form's",
                   xlim=(0, 0.55 + max(high for found in runs.values() for _, _, high in found.values())))
    figure.suptitle("Recomputing blocks trades time for memory; fewer adapted blocks, or frames, save both", x=0.01, ha="left",
                    fontsize=11)
    return finished(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tower", default="ViT-B/16", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--out", type=Path, default=KEPT)
    args = parser.parse_args()
    tower, device = SHAPES[args.tower], "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} thread(s) of {platform.machine()}"
    latency = quartiles(latencies(tower, args.frames, 1, args.rounds, device, dtype), "image tower")
    step = quartiles(step_times(forms(tower, args.frames), args.rounds, 1, device, dtype), "straightforward")
    found = {"tower": args.tower, "frames": args.frames, "rounds": args.rounds, "machine": f"{machine}, {str(dtype)[6:]}",
             "latency": latency, "step": step}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
