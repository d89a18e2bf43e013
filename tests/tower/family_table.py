"""The families of plain ViTs as a table: equality with timm's own forward, merged, back into timm's model, or why refused.

    python tests/tower/family_table.py [--full] [part of a family's name ...]

Real shapes at 224 pixels, random weights, nothing at its start. A figure is the largest difference over all tokens behind the
last norm. --full: the L models too, which take minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import timm
import torch
from plain_families import FAMILIES, REFUSED, our_features, stirred, timm_features
from safetensors.torch import save_file
from torch import Tensor, nn

import i2vlib as i2v
from i2vlib.config import FOUR_ADAPTERS, AdaptationConfig, ModelConfig
from i2vlib.tower.weights import load_image_weights


def model_of(name: str, path: Path, theirs: nn.Module, dtype: torch.dtype) -> i2v.VideoClassifier:
    """Our model with the adapters that merge, in eval mode, loaded from a file with the weights of timm's."""
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
    tower = replace(i2v.tower_config(name), image_size=theirs.patch_embed.img_size[0], output_dim=0)
    places = FOUR_ADAPTERS if theirs.blocks[0].attn.qkv.bias is not None else ("attn_out", "mlp_in", "mlp_out")
    adapted = ModelConfig(tower, adaptation=AdaptationConfig("linear", places, 0.05, dropout=0.0), frames=1)
    model = i2v.build_model(adapted).to(dtype).eval()
    load_image_weights(model.backbone, path)
    return model


@torch.no_grad()
def figures(name: str, path: Path, size: int = 224) -> list[str]:
    """Equality in float32 and float64, merged against unmerged, the merged one in timm's model against ours (both float64)."""
    made = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
    theirs, images = stirred(made).double(), torch.randn(1, 3, size, size, dtype=torch.float64)
    single = theirs.float()
    model = model_of(name, path, single, torch.float32)
    found = [far(our_features(model.backbone, images.float()), timm_features(single, images.float()))]
    theirs = stirred(theirs.double())
    model = model_of(name, path, theirs, torch.float64)
    found.append(far(our_features(model.backbone, images), timm_features(theirs, images)))
    for parameter in model.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter) * parameter.requires_grad)
    plain = i2v.merge(model)
    found.append(far(model(images[:, None]), plain(images[:, None])))
    theirs.load_state_dict(i2v.timm_state(plain, name), strict=True)
    return found + [far(timm_features(theirs, images), our_features(plain.backbone, images))]


def far(one: Tensor, other: Tensor) -> str:
    return f"{(one - other).abs().max().item():.1e}"


def reason(name: str) -> str:
    try:
        return f"not refused: {i2v.tower_config(name)}"
    except i2v.WeightsError as error:
        return str(error).partition("it has ")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", metavar="family")
    parser.add_argument("--full", action="store_true", help="the L models too")
    args = parser.parse_args()
    wanted = [f.lower() for f in args.families] or [""]
    print("| family | float32 | float64 | merged | back into timm | refused because |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for family, name in FAMILIES.items():
            if any(word in family.lower() for word in wanted) and (args.full or "large" not in name):
                print(f"| {family} | {' | '.join(figures(name, Path(folder, 'w.safetensors')))} | |", flush=True)
    for family, (name, _) in REFUSED.items():
        if any(word in family.lower() for word in wanted):
            print(f"| {family} | | | | | {reason(name)} |")


if __name__ == "__main__":
    main()
