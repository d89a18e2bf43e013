"""Named configurations: rows of the papers' tables and their miniature twins.

A run is a model out of PRESETS and a protocol out of PROTOCOLS; a name says method, tower, frames and data set. What the
papers leave open and we chose is marked [ours].
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from i2vlib.adaptation.strategies import strategies
from i2vlib.config import (
    AIM_PLACES,
    FOUR_ADAPTERS,
    SIX_ADAPTERS,
    AdaptationConfig,
    CompressionConfig,
    ModelConfig,
    TemporalConfig,
)
from i2vlib.other_towers import other_protocols, other_rows
from i2vlib.protocol import ClipConfig, Protocol, TrainConfig
from i2vlib.recipes import ava_models, ava_protocol, few_shot_models, few_shot_protocols, small_peers
from i2vlib.temporal.heads import stdha_offsets
from i2vlib.towers import TOWERS, tower_at  # noqa: F401, the towers by name belong to the rows

CLASSES = {"k400": 400, "ssv2": 174, "ucf101": 101, "hmdb51": 51, "diving48": 48, "ava": 80,
           "vidtab-4shot": 11, "vidtab-16shot": 11,  # of Dark Scene; the list decides, as it does everywhere
           "mini-motion-4shot": 6, "mini-motion-16shot": 6,
           "mini-motion": 6, "mini-blink": 4, "mini-appearance": 32, "mini-corrupted": 32}
SSV2_FLIPS = ((86, 87), (93, 94), (166, 167))  # "left to right" against "right to left": a flip exchanges the labels

B = {3: stdha_offsets(12, 3), 4: stdha_offsets(12, 4), 5: stdha_offsets(12, 5), 6: stdha_offsets(12, 6)}
L = {3: stdha_offsets(16, 3, 2), 4: stdha_offsets(16, 4, 2), 5: (-1, -1, 1, 1, -2, 2) + (0,) * 10,
     6: (-1, -1, 1, 1, -2, 2, -3) + (0,) * 9}


def _zeroi2v(tower: str, offsets: tuple[int, ...], frames: int, data: str, scale: float, places=FOUR_ADAPTERS) -> ModelConfig:
    dropout = 0.0 if (tower, frames, data) == ("ViT-B-16", 16, "ssv2") else 0.1
    return ModelConfig(TOWERS[tower], TemporalConfig(offsets, embedding=True),
                       AdaptationConfig("linear", places, scale=scale, dropout=dropout), frames, CLASSES[data], head_std=0.01)


def _rows() -> dict[str, ModelConfig]:
    """ZeroI2V: (tower, receptive field, frames) for each data set, and the naive adaptations beside it.

    Released settings: B/16 with 8 frames, B/16 16 frames on SSv2 and 32 on UCF101/HMDB51, L/14 with 8 and 32 frames. For the rest
    the paper's appendix gives the receptive field; how many heads each offset gets there is [ours].
    """
    rows = {}
    k400 = [("b16", B[3], 8), ("b16", B[4], 16), ("b16", B[6], 32), ("l14", L[3], 8), ("l14", L[4], 16), ("l14", L[4], 32)]
    ssv2 = [("b16", B[3], 8), ("b16", B[5], 16), ("b16", B[6], 32), ("l14", L[3], 8), ("l14", L[5], 16), ("l14", L[6], 32)]
    small = [("b16", B[3], 8), ("b16", B[5], 32), ("l14", L[3], 8), ("l14", L[5], 32)]  # l14: [ours], as B/16
    for data, settings, scale in (("k400", k400, 0.5), ("ssv2", ssv2, 1.0), ("ucf101", small, 0.5), ("hmdb51", small, 0.5),
                                  ("diving48", small, 1.0)):  # s and offsets of diving48: [ours], as motion needs them
        for tower, offsets, frames in settings:
            places = SIX_ADAPTERS if (tower, frames, data) == ("b16", 8, "ssv2") else FOUR_ADAPTERS
            full_name = {"b16": "ViT-B-16", "l14": "ViT-L-14"}[tower]
            rows[f"zeroi2v-{tower}-{frames}f-{data}"] = _zeroi2v(full_name, offsets, frames, data, scale, places)
        for kind, name in (("frozen", "probe"), ("full", "full")):
            rows[f"{name}-b16-8f-{data}"] = ModelConfig(TOWERS["ViT-B-16"], adaptation=AdaptationConfig(kind),
                                                        frames=8, classes=CLASSES[data], head_std=0.01)
    # Table 2(a): what moves 1/6 of the channels, with four adapters; n8: the same shift of 1/4
    table = _zeroi2v("ViT-B-16", B[3], 8, "ssv2", 1.0)
    rows["stdha-b16-8f-ssv2"] = table
    for name, temporal in _rivals(table.temporal, folds=12).items():
        rows[f"{name}-b16-8f-ssv2"] = replace(table, temporal=temporal)
    rows |= {f"{name}-b16-8f-ssv2": replace(table, adaptation=adaptation) for name, adaptation in strategies().items()}
    rows |= {f"stdha-{name}-b16-8f-ssv2": replace(table, temporal=replace(table.temporal, offsets=offsets)) for name, offsets in (
        ("heads-1", stdha_offsets(12, 2)), ("heads-4", stdha_offsets(12, 3, 2)), ("heads-6", stdha_offsets(12, 3, 3)),
        *((f"field-{field}", stdha_offsets(12, field)) for field in (2, 4, 5)))}  # Tables 2(b) and 2(c)
    rows |= {f"stdha-ratio-{ratio:g}-b16-8f-ssv2": replace(table, adaptation=replace(table.adaptation, ratio=ratio))
             for ratio in (1 / 16, 1 / 8, 1 / 2)}  # Table 2(d)
    rows["channel-shift-kv-n8-b16-8f-ssv2"] = replace(table, temporal=TemporalConfig((), True, shift="channel_kv", folds=8))
    return rows


def _rivals(stdha: TemporalConfig, folds: int) -> dict[str, TemporalConfig]:
    """What STDHA is compared with at no cost. In the paper's Table 2(a) each of two folds is 1/12 of the channels, as one of
    STDHA's two heads of twelve is."""
    kinds = {"class-token-shift": "class_token", "class-token-kv-shift": "class_token_kv", "channel-shift-kv": "channel_kv",
             "channel-shift-qkv": "channel_qkv"}
    rows = {name: replace(stdha, offsets=(), shift=shift, folds=folds) for name, shift in kinds.items()}
    return rows | {"hr-qkv": replace(stdha, queries=True), "patch-shift": replace(stdha, offsets=(), shift="patch")}


def _peers() -> dict[str, ModelConfig]:
    """AIM as released: on SSv2 one more adapter and s = 1. EVL: four layers, on SSv2 the twelve that ViT-L/14's 175 M parameters
    are. ST-Adapter, 384 wide: before attention, on SSv2 before the MLP too. Their protocols are ZeroI2V's [ours]."""
    rows = {}
    for tower, frames, data in product(("b16", "l14"), (8, 16, 32), ("k400", "ssv2")):
        places, scale, layers = (AIM_PLACES, 1.0, 12) if data == "ssv2" else (AIM_PLACES[1:], 0.5, 4)
        shape = TOWERS[{"b16": "ViT-B-16", "l14": "ViT-L-14"}[tower]]
        plain = ModelConfig(shape, frames=frames, classes=CLASSES[data], head_std=0.01)
        rows[f"aim-{tower}-{frames}f-{data}"] = replace(
            plain, temporal=TemporalConfig((), True), adaptation=AdaptationConfig("aim", places, scale=scale, dropout=0.0),
            drop_path=0.2)
        rows[f"evl-{tower}-{frames}f-{data}"] = replace(plain, temporal=TemporalConfig(evl=layers, global_dropout=0.5))
        rows[f"st-adapter-{tower}-{frames}f-{data}"] = replace(plain, adaptation=AdaptationConfig(
            "st_adapter", ("qkv", "mlp_in") if data == "ssv2" else ("qkv",), 384 / shape.width, scale=1.0))
    return rows


def _miniature() -> dict[str, ModelConfig]:
    """The same strategies on the shipped tower and the embedded tasks."""
    rows = {}
    linear = AdaptationConfig("linear", FOUR_ADAPTERS, scale=1.0, dropout=0.0)  # 4,000 clips do not overfit a rank of 16
    near, far = stdha_offsets(8, 3), stdha_offsets(8, 5)
    for data, frames in (("mini-motion", 4), ("mini-blink", 8), ("mini-appearance", 4)):
        plain = ModelConfig(TOWERS["mini"], frames=frames, classes=CLASSES[data], head_dropout=0.0)
        rows[f"probe-{data}"] = plain
        rows[f"full-{data}"] = replace(plain, adaptation=AdaptationConfig("full"))
        rows[f"adapters-{data}"] = replace(plain, adaptation=linear)
        rows[f"zeroi2v-{data}"] = replace(plain, adaptation=linear, temporal=TemporalConfig(near, True))
        # its two ways to order, one at a time: relocated heads only, temporal embedding only
        rows[f"stdha-{data}"] = replace(plain, adaptation=linear, temporal=TemporalConfig(near))
        rows[f"embedding-{data}"] = replace(plain, adaptation=linear, temporal=TemporalConfig((), True))
        rows[f"aim-{data}"] = replace(plain, adaptation=replace(linear, kind="aim", places=AIM_PLACES[1:]),
                                      temporal=TemporalConfig((), True))
        rows[f"evl-{data}"] = replace(plain, temporal=TemporalConfig(evl=2))  # of four blocks
        for name, temporal in _rivals(TemporalConfig(near), folds=8).items():  # heads are 8 wide: two channels of them move, or
            rows[f"{name}-{data}"] = replace(plain, adaptation=linear, temporal=temporal)  # 1/4, as two of STDHA's eight heads
    rows["stdha-far-mini-blink"] = replace(rows["stdha-mini-blink"], temporal=TemporalConfig(far))
    return rows | _miniature_compressed(rows["zeroi2v-mini-motion"])


def _miniature_compressed(zeroi2v: ModelConfig) -> dict[str, ModelConfig]:
    """InTI and what it is compared with, 4 frames to 1 on the shipped tower; r: at equal multiply-adds.

    All weights are trained, also in stdha-naive, -mean and -inti (stdha-mini-motion above trains adapters). STDHA acts in the
    blocks that have more than one frame left.
    """
    rows, sites = {}, (1, 2)
    for data in ("mini-motion", "mini-corrupted"):
        naive = ModelConfig(TOWERS["mini"], adaptation=AdaptationConfig("full"), frames=4, classes=CLASSES[data],
                            head_dropout=0.0)
        rows[f"naive-{data}"] = naive
        for name, compression in _compressed(sites, merged=12, dropped=18, layers=4).items():
            rows[f"{name}-{data}"] = replace(naive, compression=compression)
    stdha = replace(rows["naive-mini-motion"], temporal=TemporalConfig(stdha_offsets(8, 3)))
    rows |= {f"stdha-{name}-mini-motion": replace(stdha, compression=rows[f"{name}-mini-motion"].compression)
             for name in ("naive", "mean", "inti")}
    # both papers at once: what trains merges away, but for InTI itself
    rows["zeroi2v-inti-mini-motion"] = replace(zeroi2v, compression=rows["inti-mini-motion"].compression)
    return rows


# The two sites of InTI's table: the middle pair is its default. The compressions beside it stand at the same ones.
SITES = {"b16": ((5, 7), (3, 5), (7, 9)), "l14": ((10, 14), (6, 10), (14, 18))}
CONTEXTS = {"token": ("token",), "token-cube": ("token", "cube"), "token-frame": ("token", "frame"),
            "token-global": ("token", "global"), "token-cube-frame": ("token", "cube", "frame"),
            "token-frame-global": ("token", "frame", "global")}  # the rows of its Table 5(a) but the last, which is the default


def _compressed(sites: tuple[int, ...], merged: int, dropped: int, layers: int) -> dict[str, CompressionConfig]:
    """Every compression of InTI's tables and its ablations, by name. merged and dropped: r of ToMe and STA."""
    inti = CompressionConfig("inti", sites)
    rows = {"mean": CompressionConfig("mean", sites), "linearpool": CompressionConfig("linear", sites),
            "convpool": CompressionConfig("conv", sites), "convpool-random": CompressionConfig("conv", sites, start="random"),
            "tome": CompressionConfig("tome", remove=merged),
            "sta": CompressionConfig("sta", (1, layers // 3 + 1, 2 * layers // 3 + 1), remove=dropped), "inti": inti}
    rows |= {f"inti-{name}": replace(inti, levels=levels) for name, levels in CONTEXTS.items()}
    rows |= {f"inti-{fusion}": replace(inti, fusion=fusion) for fusion in ("add", "cat")}
    return rows | {f"inti-{head}": replace(inti, head=head) for head in ("sigmoid", "attention")}


def _inti_rows(zeroi2v: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
    """InTI's rows: 16 frames, all weights trained. "+" is UniFormerV2's modules over time, as in InTI+.

    K400: global modules behind the last 4 blocks. SSv2: local ones too, global ones behind 8 (B) or 16 (L), and the stem: 32
    frames are read, and 16 are in the tower, as in the paper's 371 and 234 GFLOPs. The other data sets as K400 [ours]. Comparison
    and ablation rows are those of its Tables 2 and 5, all with UniFormerV2's modules; r of ToMe and STA is the one whose count
    comes nearest to the paper's. The paper's ConvPooling has 127 M parameters and 184 GFLOPs where ours has 116.9 and 177: it
    does not say what its "set of stride 3D convolutions" is.
    """
    rows = {}
    for tower, full_name, data in [(t, n, d) for d in ("k400", "ssv2", "ucf101", "hmdb51", "diving48")
                                   for t, n in (("b16", "ViT-B-16"), ("l14", "ViT-L-14"))]:
        behind = {"b16": 8, "l14": 16}[tower] if data == "ssv2" else 4
        naive = ModelConfig(TOWERS[full_name], adaptation=AdaptationConfig("full"), frames=16, classes=CLASSES[data],
                            drop_path={"b16": 0.2, "l14": 0.4}[tower] if data == "ssv2" else 0.0)
        over_time = TemporalConfig(local=data == "ssv2", global_blocks=behind, global_dropout=0.5, stem=data == "ssv2")
        plus = replace(naive, temporal=over_time, frames=32 if over_time.stem else 16)
        rows[f"naive-{tower}-16f-{data}"], rows[f"uniformerv2-{tower}-16f-{data}"] = naive, plus
        for i, sites in enumerate(SITES[tower]):
            at = "" if i == 0 else f"-{sites[0]}-{sites[1]}"
            for name, row in (("inti", naive), ("inti+", plus)):
                rows[f"{name}{at}-{tower}-16f-{data}"] = replace(row, compression=CompressionConfig("inti", sites))
    base, plus = "b16-16f-k400", rows["uniformerv2-b16-16f-k400"]
    compressed = _compressed(SITES["b16"][0], merged=11, dropped=38, layers=12)
    rows |= {f"{name.replace('inti-', 'inti+-')}{'' if 'inti' in name else '+'}-{base}": replace(plus, compression=row)
             for name, row in compressed.items() if name != "inti"}
    rows |= {f"{name}+-b16-16f-ssv2": replace(rows["uniformerv2-b16-16f-ssv2"], compression=compressed[name])
             for name in ("linearpool", "convpool")}
    for data in ("k400", "ssv2"):  # both papers at once: a point that neither has
        rows[f"zeroi2v-inti-b16-16f-{data}"] = replace(
            zeroi2v[f"zeroi2v-b16-16f-{data}"], compression=CompressionConfig("inti", SITES["b16"][0]))
    return rows


_ZEROI2V = _rows()
PRESETS: dict[str, ModelConfig] = _ZEROI2V | _peers() | _inti_rows(_ZEROI2V) | _miniature()
PRESETS |= small_peers(PRESETS) | few_shot_models(PRESETS) | ava_models(PRESETS)
PRESETS |= other_rows(PRESETS)


def _protocols() -> dict[str, Protocol]:
    rows = {}
    paper = TrainConfig(epochs=40, batch_size=64, lr=3e-4, warmup=2.5 / 40, cosine="times", decay_biases=True)
    strong = {"rand_augment": (4, 7)}
    for frames, stride in ((8, 16), (16, 8), (32, 4)):  # each spans 128 frames, as released
        clip = ClipConfig(frames, "dense", stride, test_clips=3, **strong)
        rows[f"k400-{frames}f"] = Protocol(clip, paper)
        clip = ClipConfig(frames, "uniform", flip_pairs=SSV2_FLIPS, augment_last=True, erasing=0.25, test_crops=3, **strong)
        rows[f"ssv2-{frames}f"] = Protocol(clip, replace(paper, epochs=50, warmup=2.5 / 50, label_smoothing=0.1))
        for data, epochs in (("ucf101", 40), ("hmdb51", 40), ("diving48", 50)):
            clip = ClipConfig(frames, "uniform", test_crops=3, **strong)
            rows[f"{data}-{frames}f"] = Protocol(clip, replace(paper, epochs=epochs, warmup=2.5 / epochs))
    rows["ucf101-8f"] = replace(rows["ucf101-8f"], train=replace(rows["ucf101-8f"].train, batch_size=128))
    rows["hmdb51-32f"] = replace(rows["hmdb51-32f"], clip=replace(rows["hmdb51-32f"].clip, test_clips=2))
    # ViT-L as released: a tenth of the learning rate in the backbone; on K400, for 32 frames, random erasing
    for name, row in list(rows.items()):
        data, frames = name.split("-")
        clip = replace(row.clip, erasing=0.25, erasing_fill="noise") if (data, frames) == ("k400", "32f") else row.clip
        rows[f"{data}-l14-{frames}"] = Protocol(clip, replace(row.train, backbone_lr=0.1))
    rows |= other_protocols(rows)
    rows |= _inti_protocols()
    for data, frames, steps in (("mini-motion", 4, 200), ("mini-blink", 8, 200), ("mini-appearance", 4, 200),
                                ("mini-corrupted", 4, 200)):
        clip = ClipConfig(frames, size=48, short_side=48, test_short_side=48, random_crop=False, flip=0.0)
        train = TrainConfig(steps=steps, batch_size=32, lr=5e-3, warmup=0.1, clip_norm=1.0, workers=0, save_every=100)
        rows[data] = Protocol(clip, train)
    return rows | few_shot_protocols(rows["mini-motion"]) | {"ava": ava_protocol()}


def _inti_protocols() -> dict[str, Protocol]:
    """Full fine-tuning on 16 frames, as InTI trains on K400 and SSv2.

    Its appendix takes ViFi-CLIP's settings for K400 and UniFormerV2's for SSv2: the schedules are those of their code. [ours]:
    the other data sets (as K400, tested on 1 clip); the betas on SSv2, AdamW's own; a random resized crop for K400's multi-scale
    crop, as for all the rest here: its crops may be smaller, down to 8% of the picture. A batch counts clips: of SSv2's 64 each
    is augmented twice, so that 128 crops make a step, and epochs are as long as without.
    """
    clip = ClipConfig(16, "uniform", colour_jitter=0.8, grey=0.2, test_clips=4, test_crops=3)
    train = TrainConfig(epochs=30, batch_size=512, lr=2.2e-5, betas=(0.9, 0.98), weight_decay=0.001, warmup=5 / 30,
                        warmup_start=0.0, cosine="whole", lr_end=0.01, label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    rows = {"k400-inti": Protocol(clip, train)}
    for data in ("ucf101", "hmdb51", "diving48"):
        rows[f"{data}-inti"] = Protocol(replace(clip, test_clips=1), train)
    clip = ClipConfig(16, "uniform", flip=0.0, rand_augment=(4, 7), augmenter="timm", test_crops=3)
    least = 1e-6 / 4e-5  # the line begins and the cosine ends at 1e-6
    train = TrainConfig(epochs=22, batch_size=64, repeats=2, lr=4e-5, weight_decay=0.05, warmup=5 / 22, warmup_start=least,
                        lr_end=least, clip_norm=20.0)
    return rows | {"ssv2-inti": Protocol(clip, train), "ssv2-inti-stem": Protocol(replace(clip, frames=32), train)}


PROTOCOLS: dict[str, Protocol] = _protocols()


def protocol_for(preset: str) -> str:
    """The protocol that a preset implies: zeroi2v-b16-8f-k400 -> k400-8f, zeroi2v-l14-8f-k400 -> k400-l14-8f.

    Where all weights of a tower are trained on 16 frames it is InTI's, for all towers: inti-l14-16f-k400 -> k400-inti; with
    UniFormerV2's stem, which makes 16 of 32: inti+-b16-16f-ssv2 -> ssv2-inti-stem. Swin trained whole has Video Swin's.
    Raises KeyError for an unknown preset.
    """
    if preset not in PRESETS:
        raise KeyError(f"preset {preset!r}: allowed are {', '.join(PRESETS)}")
    data = next(name for name in CLASSES if preset.endswith(name))
    if data.startswith(("mini-", "vidtab-", "ava")):
        return data
    row, tower = PRESETS[preset], next((f"-{name}" for name in ("l14", "in21k", "swin") if name in preset.split("-")), "")
    if row.adaptation.kind == "full" and row.frames_at(0) == 16:
        return f"{data}-swin-full" if tower == "-swin" else f"{data}-inti{'-stem' if row.temporal.stem else ''}"
    return f"{data}{tower}-{row.frames}f"
