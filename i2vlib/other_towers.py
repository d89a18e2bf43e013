"""Rows of ZeroI2V's tables on other towers than CLIP's: ImageNet-21K's ViT-B/16 (Table 13) and Swin-B (Table 14).

Each is a row on CLIP's towers with another tower; i2vlib.presets puts them beside those. What the paper leaves open and we
chose is marked [ours].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig
from i2vlib.protocol import Protocol
from i2vlib.temporal.heads import stdha_offsets
from i2vlib.towers import TOWERS

# a quarter of each stage's heads; the receptive fields, 2, 3, 5 and 5 frames, stand in the appendix (6.1.1), and leave no choice
SWIN_OFFSETS = stdha_offsets(4, 2) + stdha_offsets(8, 3) + stdha_offsets(16, 5) + stdha_offsets(32, 5, 2)


def other_rows(rows: Mapping[str, ModelConfig]) -> dict[str, ModelConfig]:
    """in21k-...: "the same model and training settings". stdha-swin-...: four linear adapters; full-stdha-swin-...: all trains.

    Swin-B reads 32 frames of SSv2, of which patches of two frames make 16. It has no temporal embedding [ours: the paper does not
    say], so that merged it adds nothing at all to Swin. Drop path 0.4 is Video Swin's, whose "exactly the same training strategy"
    the row has in which all is trained. The miniatures have two stages, 2 frames in the tower out of 4, and no image weights.
    """
    found = {f"in21k-{name}": replace(rows[name], tower=TOWERS["IN21K-B-16"])
             for name in ("zeroi2v-b16-8f-k400", "zeroi2v-b16-8f-ssv2")}
    near = stdha_offsets(4, 2) + stdha_offsets(8, 3)
    for name, like, tower, offsets, drop in (("swin-b-32f-ssv2", "zeroi2v-b16-32f-ssv2", "Swin-B", SWIN_OFFSETS, 0.4),
                                             ("swin-mini-motion", "adapters-mini-motion", "mini-swin", near, 0.0)):
        stdha = replace(rows[like], tower=TOWERS[tower], temporal=TemporalConfig(offsets, stem=True))
        found |= {f"stdha-{name}": stdha,
                  f"full-stdha-{name}": replace(stdha, adaptation=AdaptationConfig("full"), drop_path=drop)}
    return found


def other_protocols(rows: Mapping[str, Protocol]) -> dict[str, Protocol]:
    """The protocols of the same data with the mean and std of these towers' pictures; ssv2-swin-full is Video Swin's for SSv2.

    That one's RandAugment is imgaug's, here pytorchvideo's [ours].
    """
    found = {}
    for data, frames, tower in (("k400", 8, "IN21K-B-16"), ("ssv2", 8, "IN21K-B-16"), ("ssv2", 32, "Swin-B")):
        row, pictures = rows[f"{data}-{frames}f"], TOWERS[tower]
        kind = tower.partition("-")[0].lower()
        found[f"{data}-{kind}-{frames}f"] = replace(row, clip=replace(row.clip, mean=pictures.mean, std=pictures.std))
    clip, train = found["ssv2-swin-32f"].clip, found["ssv2-swin-32f"].train
    return found | {"ssv2-swin-full": Protocol(replace(clip, flip=0.0, flip_pairs=()),
                                               replace(train, epochs=60, warmup=2.5 / 60, backbone_lr=0.1))}
