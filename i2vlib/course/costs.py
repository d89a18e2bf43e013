"""The cost columns of both papers, cell by cell, and what is counted here beside them.

    python -m i2vlib.course.costs           every cell as text

A cell is one printed number of one row: GFLOPs (multiply-adds of linear layers, convolutions and attention products, as 1 each),
parameters in millions (the tower without CLIP's projection into the space of texts), those that a method adds or trains. Cells
that do not come out say why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from i2vlib.config import AdaptationConfig, CompressionConfig, ModelConfig, TemporalConfig
from i2vlib.measure import inference, multiply_adds
from i2vlib.presets import PRESETS, SITES, strategies
from i2vlib.show.names import finished
from i2vlib.tower.classifier import VideoClassifier

COLUMNS = ("GFLOPs", "extra GFLOPs", "M in all", "M new", "M tuned")
GROUPS = ("image tower, ZeroI2V", "ZeroI2V: what is tuned", "ST-Adapter", "AIM", "EVL", "UniFormerV2", "InTI", "InTI+",
          "other compressions")


@dataclass(frozen=True)
class Cell:
    """One printed number. views: clips a video, in GFLOPs; why: what is to be said where ours is beyond 1 % and rounding."""

    table: str
    group: str
    row: str
    column: str
    printed: float
    config: ModelConfig
    views: int = 1
    why: str = ""

    @property
    def ours(self) -> float:
        """The same number, counted: by formula for GFLOPs, from the model's shapes for parameters."""
        if self.column == "GFLOPs":
            return self.views * giga(self.config)
        if self.column == "extra GFLOPs":
            return self.views * (giga(self.config) - giga(bare(self.config)))
        sizes = parameters(inference(self.config) if self.column in ("M in all", "M new") else self.config)
        return sizes[("M in all", "M new", "M tuned").index(self.column)]

    @property
    def deviation(self) -> float:
        """Ours over the printed number, less 1."""
        return self.ours / self.printed - 1

    @property
    def agrees(self) -> bool:
        """Within 1 %, or what is printed when ours is rounded to as many digits."""
        unit = 1 if self.printed == int(self.printed) else 0.1
        return abs(self.deviation) <= 0.01 or abs(self.ours - self.printed) <= unit / 2


def bare(config: ModelConfig) -> ModelConfig:
    """The image tower alone, frame by frame."""
    return replace(config, temporal=TemporalConfig(), adaptation=AdaptationConfig(), compression=CompressionConfig(),
                   drop_path=0.0)


def giga(config: ModelConfig, everywhere: bool = True) -> float:
    """10⁹ multiply-adds of one clip at inference. everywhere: InTI's shared levels counted at every token, as its paper does."""
    return multiply_adds(inference(config), everywhere) / 1e9


@cache
def parameters(config: ModelConfig) -> tuple[float, float, float]:
    """Millions: in all but for the projection into the space of texts; new beside the tower and the head, without a temporal
    embedding; tuned, as ZeroI2V's tables count it: what is new, and everything with full fine-tuning."""
    with torch.device("meta"):
        model = VideoClassifier(replace(config, tower=replace(config.tower, quick_gelu=True)))
    sizes = {name: p.numel() / 1e6 for name, p in model.named_parameters() if name != "backbone.proj"}
    parts = {"adapters", "temporal", "temporal_stem", "compression"}
    new = sum(size for name, size in sizes.items() if parts & set(name.split(".")))
    whole = sum(sizes.values())
    return whole, new, whole if config.adaptation.kind == "full" else new


# ---- the printed columns ----

ST = {name: AdaptationConfig("st_adapter", places, ratio, 1.0, 0.0) for name, places, ratio in (
    ("b16-1", ("qkv",), 1 / 2), ("b16-2", ("qkv", "mlp_in"), 1 / 2), ("l14-1", ("qkv",), 3 / 8))}  # bottlenecks of 384
MAPS = "printed without EVL's tables of relative places, 4.5 M; for ViT-L they are counted"
GLOBAL = "a last layer of the global level of 2D to D in place of D to D adds D² at each site, 2.1 M: 375.2, -0.7 %"
POOLS = "the paper does not say what its \"set of stride 3D convolutions\" is; ours is one of kernel (2,1,1) a site"
UNIT = "in units of 2²⁰"


def cells() -> list[Cell]:
    """Every cell of a row that can be built."""
    return [*_zeroi2v(), *_peers(), *_tuned(), *_inti()]


def _row(table: str, group: str, row: str, config: ModelConfig | str, printed: dict[str, float], views: int = 1,
         **why: str) -> Iterator[Cell]:
    """The cells of a row. config: or a preset's name; printed, why: by a short name of the column."""
    config = PRESETS[config] if isinstance(config, str) else config
    names = {"flops": "GFLOPs", "extra": "extra GFLOPs", "all": "M in all", "new": "M new", "tuned": "M tuned"}
    for key, number in printed.items():
        yield Cell(table, group, row, names[key], number, config, views, why.get(key, ""))


def _st(tower: str, frames: int, data: str, places: int) -> ModelConfig:
    plain = PRESETS[f"probe-b16-8f-{data}"] if tower == "b16" else bare(PRESETS[f"zeroi2v-l14-8f-{data}"])
    return replace(plain, frames=frames, adaptation=ST[f"{tower}-{places}"])


def _zeroi2v() -> Iterator[Cell]:
    flops = {("b16", 8): 422, ("b16", 16): 844, ("b16", 32): 1688, ("l14", 8): 1946, ("l14", 16): 3892, ("l14", 32): 7783}
    for table, data in (("4", "k400"), ("5", "ssv2")):
        for (tower, frames), number in flops.items():
            yield from _row(f"ZeroI2V {table}", GROUPS[0], f"ZeroI2V {tower}, {frames} f",
                            f"zeroi2v-{tower}-{frames}f-{data}", {"flops": number, "all": 86 if tower == "b16" else 304}, 3)
    yield from _row("ZeroI2V 4", GROUPS[0], "ViT-B/16, 8 f", "full-b16-8f-k400", {"flops": 422, "all": 86}, 3)
    for tower, number, size in (("b16", 281, 86), ("l14", 1297, 304)):
        for row in ("naive", "zeroi2v"):
            yield from _row("InTI 2", GROUPS[0], f"{row} {tower}, 16 f", f"{row}-{tower}-16f-k400",
                            {"flops": number, "all": size})
    yield from _row("InTI SSv2", GROUPS[0], "ZeroI2V b16, 16 f", "zeroi2v-b16-16f-ssv2", {"flops": 281, "all": 86})


def _peers() -> Iterator[Cell]:
    st, apart = "ST-Adapter", "a difference of two printed totals, which agree to {} %"
    yield from _row("ZeroI2V 4, 5", st, "b16, 8 f", _st("b16", 8, "k400", 1), {"flops": 455, "extra": 33, "all": 93, "new": 7}, 3)
    yield from _row("ZeroI2V 5", st, "b16, 32 f", _st("b16", 32, "ssv2", 2),
                    {"flops": 1955, "extra": 267, "all": 100, "new": 14}, 3)
    yield from _row("ZeroI2V 4", st, "l14, 32 f", _st("l14", 32, "k400", 1), {"flops": 8248, "all": 322, "new": 19}, 3)
    yield from _row("ZeroI2V 4 (text)", st, "b16, 32 f", _st("b16", 32, "k400", 1), {"flops": 1821}, 3)
    yield from _row("InTI 2", st, "b16, 16 f", _st("b16", 16, "k400", 1), {"flops": 304, "all": 93})
    yield from _row("InTI SSv2", st, "b16, 16 f", _st("b16", 16, "ssv2", 1), {"flops": 318, "all": 93},
                    flops="93 M are one adapter a block, and that costs 22 on top of 281; two cost 44; printed are 37")
    yield from _row("ZeroI2V 4, 5", "AIM", "b16, 8 f", "aim-b16-8f-ssv2",
                    {"flops": 624, "extra": 202, "all": 100, "new": 14}, 3)
    for data, table, numbers in (("k400", "4", (11208, 3425, 341, 38)), ("ssv2", "5", (11508, 3725, 354, 50))):
        yield from _row(f"ZeroI2V {table}", "AIM", f"l14, 32 f, {data}", f"aim-l14-32f-{data}",
                        dict(zip(("flops", "extra", "all", "new"), numbers, strict=True)), 3,
                        extra=apart.format("0.3") if data == "ssv2" else "")
    for data, table, flops, size, tuned in (("k400", "InTI 2", 405, 97, 11), ("ssv2", "InTI SSv2", 416, 100, 14)):
        yield from _row(table, "AIM", f"b16, 16 f, {data}", f"aim-b16-16f-{data}", {"flops": flops, "all": size})
        yield from _row("ZeroI2V 10", "AIM", f"b16, 8 f, {data}", f"aim-b16-8f-{data}", {"tuned": tuned})
    yield from _row("ZeroI2V 4", "EVL", "b16, 8 f", "evl-b16-8f-k400", {"flops": 454, "extra": 32, "all": 115, "new": 29}, 3,
                    all=MAPS, new=MAPS)
    yield from _row("ZeroI2V 4", "EVL", "l14, 8 f", "evl-l14-8f-k400", {"flops": 2022, "extra": 76, "all": 362, "new": 58},
                    3, extra=apart.format("0.2"))
    twice = "the 1858 that are printed as extra are twice what the decoder of 175 M costs"
    yield from _row("ZeroI2V 5", "EVL", "l14, 32 f", "evl-l14-32f-ssv2",
                    {"flops": 9641, "extra": 1858, "all": 479, "new": 175}, 3, flops=twice, extra=twice)
    yield from _row("ZeroI2V 10", "EVL", "b16, 8 f, ssv2", "evl-b16-8f-ssv2", {"tuned": 98})
    yield from _row("InTI 2", "EVL", "b16, 16 f", "evl-b16-16f-k400", {"flops": 296, "all": 115}, all=MAPS,
                    flops="without the maps of neighbouring frames it is 296.0")
    yield from _row("InTI SSv2", "EVL", "b16, 16 f, ssv2", "evl-b16-16f-ssv2", {"flops": 341, "all": 115},
                    all="115 M are the four layers of K400; SSv2's twelve have 98 M more than the tower (ZeroI2V 10)",
                    flops="without the maps it is 326")
    for tower, flops, size in (("b16", 297, 115), ("l14", 1332, 354)):
        yield from _row("InTI 2", "UniFormerV2", f"{tower}, 16 f", f"uniformerv2-{tower}-16f-k400",
                        {"flops": flops, "all": size})
    yield from _row("InTI SSv2", "UniFormerV2", "b16, 16 f, ssv2", "uniformerv2-b16-16f-ssv2", {"flops": 371, "all": 163})


def _tuned() -> Iterator[Cell]:
    """ZeroI2V's Table 3 and 2(d), and its own row of Table 10."""
    printed = {"full-stdha": 86, "heads": 4.6, "st-adapter-4": 14, "st-adapter-2-half": 14, "lora-qv": 7, "lora-qkvo": 14,
               "lora-qv-mlp": 25, "lora-qv-mlp-6th": 17, "lora-6": 32, "lora-6-6th": 21, "gelu-4-8th": 7, "gelu-2": 7,
               "gelu-3": 10, "gelu-4": 14, "linear-4-8th": 7, "linear-2": 7, "linear-3": 10, "linear-6": 20, "linear-6-6th": 14}
    why = {"heads": "4.72 M; the weights alone are 4608·1024 numbers", "gelu-3": f"10.65 M; {UNIT} 10.2",
           "linear-3": f"10.65 M; {UNIT} 10.2", "linear-6": f"21.30 M; {UNIT} 20.3"}
    for name in strategies():
        if name in printed:
            yield from _row("ZeroI2V 3", GROUPS[1], name, f"{name}-b16-8f-ssv2", {"tuned": printed[name]},
                            tuned=why.get(name, ""))
    for ratio, number in ((1 / 16, 3), (1 / 8, 7), (1 / 2, 28)):
        yield from _row("ZeroI2V 2(d)", GROUPS[1], f"ratio {ratio:g}", f"stdha-ratio-{ratio:g}-b16-8f-ssv2",
                        {"tuned": number}, tuned=f"3.58 M; {UNIT} 3.4" if number == 3 else "")
    yield from _row("ZeroI2V 2(d), 3", GROUPS[1], "linear-4, ratio 0.25", "stdha-b16-8f-ssv2", {"tuned": 14})
    yield from _row("ZeroI2V 10", GROUPS[1], "b16, 8 f, k400", "zeroi2v-b16-8f-k400", {"tuned": 14})
    yield from _row("ZeroI2V 10", GROUPS[1], "b16, 8 f, ssv2", "zeroi2v-b16-8f-ssv2", {"tuned": 14},
                    tuned="14 are four adapters a block; the appendix says six, and Table 5 has another top-1 (67.7, not 67.3)")


def _inti() -> Iterator[Cell]:
    flops = {"inti-b16": (182, 147, 217), "inti-l14": (811, 650, 973), "inti+-b16": (184, 150, 220), "inti+-l14": (817, 656, 978)}
    for name, numbers in flops.items():
        kind, tower = name.split("-")
        for sites, number in zip(SITES[tower], numbers, strict=True):
            at = "" if sites == SITES[tower][0] else f"-{sites[0]}-{sites[1]}"
            config = PRESETS[f"{kind}{at}-{tower}-16f-k400"]
            lies = f"shared levels computed once: {giga(config, everywhere=False):.1f}; the printed number lies between"
            yield from _row("InTI 1", kind.replace("inti", "InTI"), f"{tower} {sites}", config, {"flops": number},
                            flops=lies if name == "inti+-b16" and sites != (7, 9) else "")
    base = "{}-b16-16f-k400"
    yield from _row("InTI 2", "InTI+", "l14", "inti+-l14-16f-k400", {"all": 378}, all=GLOBAL)
    yield from _row("InTI SSv2", "InTI+", "b16, ssv2", "inti+-b16-16f-ssv2", {"flops": 234, "all": 174})
    for name, number in (("-token", 118), ("-token-cube", 121), ("-token-frame", 121), ("-token-global", 121),
                         ("-token-cube-frame", 124), ("-token-frame-global", 123), ("", 126), ("-add", 125), ("-cat", 128),
                         ("-sigmoid", 126), ("-attention", 126)):
        yield from _row("InTI 5", "InTI+", f"b16 {name.strip('-') or 'default'}", base.format(f"inti+{name}"), {"all": number})
    for name, number, size, why in (
            ("tome+", 192, 115, "r is a whole number: 11 gives 189.5, 10 gives 199.1"),
            ("sta+", 192, 115, ""), ("convpool+", 184, 127, POOLS),
            ("linearpool+", 179, 115, "pooling itself costs nothing: 174.3 are UniFormerV2's modules and 60 % of the blocks")):
        yield from _row("InTI 2", GROUPS[-1], name.strip("+"), base.format(name), {"flops": number, "all": size},
                        flops=why, all=why if name == "convpool+" else "")
    plus = PRESETS["uniformerv2-b16-16f-ssv2"]
    for kind, number, size, why in (("conv", 234, 175, POOLS), ("linear", 221, 163, "")):
        config = replace(plus, compression=CompressionConfig(kind, SITES["b16"][0]))
        yield from _row("InTI SSv2", GROUPS[-1], f"{kind}pool, ssv2", config, {"flops": number, "all": size}, flops=why, all=why)


# ---- shown ----

def deviations(found: list[Cell]) -> Figure:
    """How far each cell is from the printed number, %: discs parameters, squares GFLOPs, open where 1 % and rounding are passed.

    Beyond 9 % a mark stands at the edge, with its number.
    """
    figure, axis = plt.subplots(figsize=(8.4, 4.2))
    edge = 9.0
    axis.axvspan(-1, 1, color="0.9", zorder=0)
    for i, group in enumerate(reversed(GROUPS)):
        row, outside = sorted((c for c in found if c.group == group), key=lambda c: c.deviation), {-1: [], 1: []}
        for j, cell in enumerate(row):
            x, colour = 100 * cell.deviation, "C1" if "GFLOPs" in cell.column else "C0"
            if abs(x) > edge:
                outside[1 if x > 0 else -1].append(f"{x:+.0f}")
            axis.plot(max(-edge, min(edge, x)), i + 0.28 * ((j % 5) / 2 - 1), "s" if colour == "C1" else "o", ms=5, mec=colour,
                      mfc=colour if cell.agrees else "white", mew=1.2, alpha=0.85)
        for side, numbers in outside.items():
            if numbers:
                axis.annotate(f"{', '.join(numbers)} %", (side * edge, i), (8, 0), textcoords="offset points", va="center",
                              fontsize=8)
    names = [f"{group} ({sum(c.agrees for c in found if c.group == group)} of {sum(c.group == group for c in found)})"
             for group in reversed(GROUPS)]
    axis.set(yticks=range(len(names)), yticklabels=names, xlim=(-edge - 0.6, edge + 2.4), xticks=range(-8, 10, 2),
             xlabel="counted here over printed, less 1 (%); grey: within 1 %",
             title=f"{sum(c.agrees for c in found)} of {len(found)} printed costs come out; the open marks are explained below")
    marks = [Line2D([], [], ls="", marker=m, color=c, mfc=f, ms=5, label=label) for m, c, f, label in (
        ("o", "C0", "C0", "parameters"), ("s", "C1", "C1", "multiply-adds"), ("o", "0.3", "white", "beyond 1 % and rounding"))]
    axis.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=3)
    return finished(figure)


def exceptions(found: list[Cell]) -> str:
    """Markdown: the cells that do not come out, and why."""
    lines = ["| table | row | column | printed | here | | why |", "|---|---|---|---:|---:|---:|---|"]
    lines += [f"| {c.table} | {c.group}: {c.row} | {c.column} | {c.printed:g} | {c.ours:.1f} | {c.deviation:+.1%} | {c.why} |"
              for c in found if not c.agrees]
    return "\n".join(lines)


def main() -> None:
    for c in cells():
        print(f"{'ok' if c.agrees else '--'} {c.table:17s} {c.group:22s} {c.row:24s} {c.column:13s} {c.printed:8g} {c.ours:9.2f} "
              f"{c.deviation:+7.1%}  {c.why}")


if __name__ == "__main__":
    main()
