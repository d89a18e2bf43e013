"""The tables of both papers: a question each, the paper's numbers by method, and the tasks on which it is asked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from i2vlib.presets import PRESETS


@dataclass(frozen=True)
class Table:
    """One table of a paper. rows: its top-1 in % by the method's name here, None where it has no number for it.

    tasks: of i2vlib.course.tasks, none if it cannot be asked there. presets: the names of its rows at full size, {} for the
    method, or for its name there, which `names` has. reference: the row that others are compared with. note: what is to be said.
    """

    question: str
    paper: str
    rows: Mapping[str, float | None]
    tasks: tuple[str, ...] = ()
    presets: str = "{}-b16-8f-ssv2"
    reference: str = "stdha"
    note: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    def preset(self, method: str) -> str:
        """The preset of a row at full size; "" where there is none."""
        kind, _, variant = method.partition("-")  # InTI's rows have UniFormerV2's modules, "+", where it compares
        names = (self.names[method],) if method in self.names else (f"{kind}+-{variant}", f"{method}+", method)
        return next((full for name in names if (full := self.presets.format(name)) in PRESETS), "")


MOTION = ("mini-motion", "photos-one")
JUNK = ("mini-corrupted", "photos-corrupted")
SSV2, K400 = "SSv2, ViT-B/16, 8 frames", "K400, ViT-B/16, 8 frames"
PLUS = ("In the paper all rows but naive have UniFormerV2's modules over time, here none has. Without them the paper's InTI has "
        "84.1 (InTI 1).")
NEEDS_DATA = "Not reproduced here: it needs the data and GPUs."


def _ablations() -> dict[str, Table]:
    """ZeroI2V's Tables 2 and 3."""
    operators = {"adapters": None, "class-token-shift": 61.4, "channel-shift-qkv": 64.5, "channel-shift-kv": 64.6, "hr-qkv": 64.8,
                 "patch-shift": None, "stdha": 66.0}
    heads = {"stdha-heads-1": 64.8, "stdha": 66.0, "stdha-heads-4": 65.6, "stdha-heads-6": 65.6}
    fields = {"stdha-field-2": 64.7, "stdha": 66.0, "stdha-field-4": 65.5, "stdha-field-5": 65.7}
    widths = {"stdha-ratio-0.0625": 64.2, "stdha-ratio-0.125": 65.0, "stdha": 66.0, "stdha-ratio-0.5": 65.8}
    trained = {"probe-stdha": 20.0, "full-stdha": 63.2, "heads": 59.6, "st-adapter-4": 66.2, "st-adapter-2-half": 65.8,
               "lora-qv": 64.2, "lora-qkvo": 65.0, "lora-qv-mlp": 64.3, "lora-qv-mlp-6th": 65.6, "lora-6": 65.0,
               "lora-6-6th": 65.5, "gelu-4-8th": 65.6, "gelu-2": 64.6, "gelu-3": 66.1, "gelu-4": 66.1, "linear-4-8th": 65.0,
               "linear-2": 64.4, "linear-3": 65.2, "stdha": 66.0, "linear-6": 66.3, "linear-6-6th": 66.2}
    return {
        "ZeroI2V 2(a)": Table("Which operator over time?", SSV2, operators, (*MOTION, "photos-two-pan"),
                              note="The text does not say which of the two channel shifts is the one of KV: 64.5 and 64.6."),
        "ZeroI2V 2(b)": Table("How many temporal heads?", SSV2, heads, MOTION[:1],
                              note="Of 12 heads; of 8 here. stdha has two of them, a field of 3 "
                                   "frames and adapters of a quarter of the width, here and below."),
        "ZeroI2V 2(c)": Table("How many frames does a layer see?", SSV2, fields, ("mini-blink",)),
        "ZeroI2V 2(d)": Table("How wide is an adapter?", SSV2, widths, MOTION[:1]),
        "ZeroI2V 3": Table("What is trained?", SSV2, trained, MOTION[:1],
                           note="All rows with STDHA; stdha has four linear adapters a block. A number counts a block's "
                                "adapters; -8th, -6th and -half are widths of the bottleneck that are not a quarter."),
    }


def _comparisons() -> dict[str, Table]:
    """ZeroI2V's Tables 4 to 8, of which the rows that there is a method for."""
    appearance = {"probe": None, "full": 81.0, "st-adapter": 82.0, "evl": 82.9, "aim": 83.9, "zeroi2v": 83.0}
    motion = {"probe": None, "full": None, "st-adapter": 67.1, "evl": 61.0, "aim": 66.4, "zeroi2v": 67.7}
    rows = {
        "ZeroI2V 4": Table("What else adapts an image tower, where one frame tells?", K400, appearance,
                           ("mini-appearance", "mini-appearance-few"), "{}-b16-8f-k400", "zeroi2v",
                           "The paper gives the numbers of ST-Adapter, EVL and AIM in its Table 10."),
        "ZeroI2V 5": Table("And where motion tells?", SSV2, motion, MOTION[:1], reference="zeroi2v",
                           note="The paper gives the numbers of ST-Adapter, EVL and AIM in its Table 10; of full fine-tuning it "
                                "has ViT-L/14's, 48.7."),
        "ZeroI2V 8": Table("And from few clips?", "VidTAB, mean of 8 tasks, ViT-L/14",
                           {"probe": 42.8, "st-adapter": 46.9, "zeroi2v": 46.5}, ("mini-appearance-few", "mini-motion-few"),
                           "{}-l14-8f-vidtab-16shot", "zeroi2v", "Here 12 clips of each of 32 objects, and 64 of each of 6 "
                           "directions (data/README.md has 4 and 16 of each). The text does not say of how many shots the "
                           "paper's numbers are. At full size: presets zeroi2v-l14-8f-vidtab-4shot and -16shot."),
    }
    for data, top1 in (("UCF101", 95.6), ("HMDB51", 73.7), ("Diving48", 89.7)):
        rows[f"ZeroI2V 6, {data}"] = Table(f"And on {data}?", f"{data}, ViT-B/16, 8 frames",
                                           {"probe": None, "full": None, "zeroi2v": top1}, (), f"{{}}-b16-8f-{data.lower()}",
                                           "zeroi2v", NEEDS_DATA)
    return rows


def _inti() -> dict[str, Table]:
    """InTI's tables but for those of cost; all rows but naive have UniFormerV2's modules in Tables 2 and 5."""
    k400, presets = "K400, ViT-B/16, 16 frames", "{}-b16-16f-k400"
    at = {"naive": "naive", "inti-early": "inti-3-5", "inti-middle": "inti", "inti-late": "inti-7-9"}
    sites = {"naive": 83.4, "inti-early": 83.6, "inti-middle": 84.1, "inti-late": 84.2}
    compressions = {"naive": 83.4, "mean": None, "linearpool": 83.9, "convpool": 82.7, "convpool-random": None, "tome": 84.2,
                    "sta": 84.1, "inti": 84.9}
    motion = {"st-adapter": 69.3, "evl": 61.7, "aim": 68.1, "uniformerv2": 69.5, "zeroi2v": 69.4, "naive": 43.6,
              "convpool+": 67.2, "linearpool+": 67.6, "inti+": 69.3}
    levels = {"inti-token": 84.3, "inti-token-cube": 84.4, "inti-token-frame": 84.6, "inti-token-global": 84.5,
              "inti-token-cube-frame": 84.7, "inti-token-frame-global": 84.8, "inti": 84.9}
    fusions = {"inti-add": 84.5, "inti-cat": 84.7, "inti-sigmoid": 84.5, "inti-attention": 84.6, "inti": 84.9}
    return {
        "InTI 1": Table("Where do the two sites stand?", k400, sites, JUNK[:1], presets, "inti-middle",
                        "Behind blocks 3 and 5, 5 and 7, 7 and 9 of 12; here 1 and 2, 1 and 3, 2 and 3 of 4.", at),
        "InTI 2": Table("Which compression?", k400, compressions, (*JUNK, "mini-motion"), presets, "inti", PLUS),
        "InTI SSv2": Table("And where motion tells?", "SSv2, ViT-B/16, 16 frames", motion, MOTION[:1], "{}-b16-16f-ssv2", "inti+",
                           "The plus stands for UniFormerV2's modules over time. The paper has ToMe (68.1) and STA (68.4) too. "
                           "Their tokens no longer lie on one grid in all frames, which the local modules need, and it does "
                           "not say what it does then."),
        "InTI 5(a)": Table("What do the weights see?", k400, levels, JUNK[:1], presets, "inti", PLUS),
        "InTI 5(b)": Table("How are levels fused, and weights made?", k400, fusions, JUNK[:1], presets, "inti",
                           f"inti keeps the token's level beside the sum of the others (Sep), and has a softmax. {PLUS}"),
    }


TABLES: dict[str, Table] = _ablations() | _comparisons() | _inti()
ELSEWHERE = {
    "ZeroI2V 7": "detection on AVA: not reproduced here, it needs the data and GPUs; its presets are zeroi2v-b16-8f-ava "
                 "and probe-b16-8f-ava, which i2vlib.detection trains",
    "ZeroI2V 9 and 10, InTI 3": "latency, throughput, memory and time of training: notebook 09, as ratios on one machine",
    "ZeroI2V 13": "ImageNet-21K's ViT-B/16: not reproduced here, it needs the data, GPUs and weights from a hub; its preset is "
                  "in21k-zeroi2v-b16-8f-ssv2",
    "ZeroI2V 14": "Swin-B: not reproduced here, for the same reason; its presets are stdha-swin-b-32f-ssv2 and "
                  "full-stdha-swin-b-32f-ssv2",
    "InTI on UCF101 and HMDB51": "the text of the paper that we have does not hold its numbers",
}
