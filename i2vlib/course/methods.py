"""The methods of the papers' tables, points of the cube on the tower of whatever task of i2vlib.course.tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from i2vlib.adaptation.strategies import strategies
from i2vlib.config import AIM_PLACES, FOUR_ADAPTERS, AdaptationConfig, CompressionConfig, ModelConfig, TemporalConfig
from i2vlib.course.tasks import Task
from i2vlib.measure import multiply_adds
from i2vlib.presets import CONTEXTS
from i2vlib.temporal.heads import stdha_offsets


class Method(NamedTuple):
    """What makes a strategy, but for the tower."""

    adaptation: AdaptationConfig
    temporal: TemporalConfig = TemporalConfig()
    compression: CompressionConfig = CompressionConfig()


LINEAR = AdaptationConfig("linear", FOUR_ADAPTERS, scale=1.0, dropout=0.0)
FULL, FROZEN = AdaptationConfig("full"), AdaptationConfig("frozen")
SHIFTS = {"class-token-shift": "class_token", "class-token-kv-shift": "class_token_kv", "channel-shift-kv": "channel_kv",
          "channel-shift-qkv": "channel_qkv"}


def methods(task: Task) -> dict[str, Method]:
    """Every method on the tower of a task, by name. "full-..." trains all weights, what is not said linear adapters."""
    heads, frames = task.shape.heads, task.data.frames
    near = TemporalConfig(stdha_offsets(heads, 3))
    rows = {"probe": Method(FROZEN), "full": Method(FULL), "adapters": Method(LINEAR),
            "embedding": Method(LINEAR, TemporalConfig((), True)), "stdha": Method(LINEAR, near),
            "zeroi2v": Method(LINEAR, replace(near, embedding=True)),
            "hr-qkv": Method(LINEAR, replace(near, queries=True)),
            "patch-shift": Method(LINEAR, TemporalConfig(shift="patch"))}
    # two of the tower's heads move, or as many of its channels
    rows |= {name: Method(LINEAR, TemporalConfig(shift=shift, folds=heads)) for name, shift in SHIFTS.items()}
    rows["stdha-heads-1"] = Method(LINEAR, TemporalConfig(stdha_offsets(heads, 2)))
    rows |= {f"stdha-heads-{2 * each}": Method(LINEAR, TemporalConfig(stdha_offsets(heads, 3, each))) for each in (2, 3)}
    rows |= {f"stdha-field-{field}": Method(LINEAR, TemporalConfig(stdha_offsets(heads, field)))
             for field in range(2, 1 + min(frames, heads, 6)) if field != 3}
    rows |= {f"stdha-ratio-{1 / parts:g}": Method(replace(LINEAR, ratio=1 / parts), near) for parts in (16, 8, 2)}
    rows |= {name: Method(replace(adaptation, dropout=0.0), near) for name, adaptation in strategies().items()}
    rows |= {"st-adapter": Method(replace(LINEAR, kind="st_adapter", places=("qkv", "mlp_in"), ratio=0.5)),
             "aim": Method(replace(LINEAR, kind="aim", places=AIM_PLACES[1:]), TemporalConfig((), True)),
             "evl": Method(FROZEN, TemporalConfig(evl=max(1, task.layers // 2)))}
    return rows | _compressed(task)


def _compressed(task: Task) -> dict[str, Method]:
    """InTI's tables: 4 frames to 1 at two sites, or fewer tokens at the multiply-adds that are then left; all weights train, on a
    real tower adapters."""
    last, tower = task.shape.layers, task.shape
    first = last - task.layers + 1
    sites = (first, first + 1)
    inti = CompressionConfig("inti", sites)
    rows = {"naive": CompressionConfig(), "mean": CompressionConfig("mean", sites),
            "linearpool": CompressionConfig("linear", sites), "convpool": CompressionConfig("conv", sites),
            "convpool-random": CompressionConfig("conv", sites, start="random"), "inti": inti}
    rows |= {f"inti-{name}": replace(inti, levels=levels) for name, levels in CONTEXTS.items()}
    rows |= {f"inti-{fusion}": replace(inti, fusion=fusion) for fusion in ("add", "cat")}
    rows |= {f"inti-{head}": replace(inti, head=head) for head in ("sigmoid", "attention")}
    rows |= {"inti-early": inti, "inti-middle": replace(inti, after=(first, first + 2)),
             "inti-late": replace(inti, after=(first + 1, first + 2))}
    wanted = multiply_adds(ModelConfig(tower, frames=task.data.frames, compression=inti, upper=task.upper))
    for name, kind, after in (("tome", "tome", ()), ("sta", "sta", (first, first + 1, first + 2))):
        rows[name] = CompressionConfig(kind, after, remove=_removed(task, kind, after, wanted))
    adaptation = LINEAR if task.upper else FULL
    found = {name: Method(adaptation, compression=row) for name, row in rows.items()}
    # UniFormerV2's modules, as on SSv2 in every block and behind most of them; its stem would need twice the frames
    over_time = TemporalConfig(local=True, global_blocks=1 + task.layers // 2)
    found["uniformerv2"] = Method(adaptation, over_time)
    return found | {f"{name}+": Method(adaptation, over_time, rows[name]) for name in ("linearpool", "convpool", "inti")}


def _removed(task: Task, kind: str, after: tuple[int, ...], wanted: int) -> int:
    """r of ToMe or STA whose count of multiply-adds comes nearest to a number."""
    def gap(remove: int) -> int:
        row = CompressionConfig(kind, after, remove=remove)
        return abs(multiply_adds(ModelConfig(task.shape, frames=task.data.frames, compression=row, upper=task.upper)) - wanted)

    return min(range(1, (task.shape.tokens - 2) // max(1, len(after) or task.layers)), key=gap)
