"""Names in other people's files: where among them an image tower lies, whether it fits a model, what to do where it does not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from i2vlib.tower.archives import WeightsError

ANCHORS = ("class_embedding", "conv1.weight", "positional_embedding")  # of these a text tower has one at most, and so a ResNet
BESIDE = ("text", "logit_")  # what lies beside a tower that has no prefix: the text tower, CLIP's temperature

# transformers' names -> open_clip's. Its q, k, v lie apart and its projection is stored the other way round
TRANSFORMERS = {
    "vision_model": "visual", "embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding": "conv1",
    "embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre", "pre_layernorm": "ln_pre",
    "post_layernorm": "ln_post", "encoder.layers": "transformer.resblocks", "self_attn": "attn", "layer_norm1": "ln_1",
    "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


class Shaped(Protocol):
    shape: torch.Size


def tower_part(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of the one image tower in `state` under open_clip's own names, whatever prefix it lies under.

    Names of transformers' CLIPModel and CLIPVisionModel are translated. Raises WeightsError where there is no tower, or two.
    """
    state = from_transformers(state)
    prefix = tower_prefix(state, source)
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix) and not k[len(prefix):].startswith(BESIDE)}


def tower_prefix(state: Mapping[str, Tensor], source: str, kind: str = "weights of a CLIP image tower") -> str:
    """What stands in front of an image tower's names in `state`: "visual.", "state_dict.backbone.", "". Raises WeightsError."""
    ends = Counter(name[:len(name) - len(anchor)] for anchor in ANCHORS for name in state if f".{name}".endswith(f".{anchor}"))
    found = [prefix for prefix, count in ends.items() if count >= 2]
    if not found:
        missing = ", ".join(anchor for anchor in ANCHORS if anchor not in state)
        raise WeightsError(f"{source}: not {kind}, no tensor {missing}, under whatever prefix; {some(state)}{remedy(state)}")
    if len(found) > 1:
        raise WeightsError(
            f"{source}: holds {len(found)} image towers, under {' and '.join(map(repr, found))}, and does not say which one "
            "is meant: keep one, such as torch.save({k: v for k, v in read_tensors(path).items() if k.startswith("
            f"{found[-1]!r})}}, 'one.pt') with read_tensors from i2vlib.tower.archives")
    return found[0]


def some(names: Mapping[str, object]) -> str:
    """Some of the names of a file, for a message."""
    if not names:
        return "it holds no tensor"
    listed = list(names)
    return f"it holds {len(listed)} tensors: {', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''}"


def remedy(names: Mapping[str, object]) -> str:
    """Which function loads a file with these names, where another one does."""
    parts = {part for name in names for part in name.split(".")}
    if "cls_head" in parts or any(part.startswith(("T_Adapter", "S_Adapter", "MLP_Adapter")) for part in parts):
        return ". It is a ZeroI2V checkpoint of the authors: i2v.load_zeroi2v(path, heads=..., offsets=..., scale=...) loads it"
    if parts & {"adapters", "compression", "temporal", "temporal_embedding"} or {"head.weight", "backbone.proj"} & set(names):
        return ". It is a video model: i2v.load_checkpoint loads what save_checkpoint wrote, i2v.load_zeroi2v the authors' files"
    if parts & {"visual", "resblocks"}:
        return ". It holds image weights: i2v.build_model(config, weights=path) loads them"
    return ""


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with transformers' names under open_clip's; any other as it is."""
    if not any(name.endswith("embeddings.patch_embedding.weight") for name in state):
        return dict(state)
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        for theirs, ours in TRANSFORMERS.items():
            name = f".{name}.".replace(f".{theirs}.", f".{ours}.")[1:-1]
        if name.endswith("visual_projection.weight") and value.ndim == 2:
            name, value = name.replace("visual_projection.weight", "visual.proj"), value.T
        if not name.endswith("embeddings.position_ids"):  # 0, 1, 2, ...
            found[name] = value
    for name in [name for name in found if re.search(r"\.q_proj\.(weight|bias)$", name)]:
        three = [name.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
        if all(other in found for other in three):
            found[re.sub(r"\.q_proj\.", ".in_proj_", name)] = torch.cat([found.pop(other) for other in three])
    return found


def check_fit(state: Mapping[str, Shaped], want: Mapping[str, Shaped], source: str, hint: str = "") -> None:
    """Raise WeightsError unless `state` has the names and shapes of `want`, listing what differs, then `hint`."""
    missing, extra = [k for k in want if k not in state], [k for k in state if k not in want]
    shapes = [f"{k} is {tuple(state[k].shape)}, the model's is {tuple(want[k].shape)}"
              for k in want if k in state and tuple(state[k].shape) != tuple(want[k].shape)]
    if not missing and not extra and not shapes:
        return
    lines = [line for kind in ([f"missing {k}" for k in missing], [f"unexpected {k}" for k in extra], shapes)
             for line in kind[:8] + [f"... and {len(kind) - 8} more like it"] * (len(kind) > 8)]
    if shapes and shapes[0].startswith("positional_embedding is") and len(shapes) == 1 and not missing and not extra:
        lines[-1] += " (another image size: resize_positions=True interpolates)"
    if missing == ["proj"] or extra == ["proj"]:
        lines.append("TowerConfig.output_dim says how many columns proj has, 0 for a tower without it: no class score needs it")
    raise WeightsError(f"{source}: {len(missing) + len(extra) + len(shapes)} tensors do not fit the model:\n  "
                       + "\n  ".join(lines) + hint)


def check_sound(state: Mapping[str, Tensor], want: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError where tensors that fit are no weights: numbers of another kind than the model's, or not finite."""
    for name, value in state.items():
        if value.dtype.is_floating_point != want[name].dtype.is_floating_point or value.dtype.is_complex:
            raise WeightsError(f"{source}: {name} is {value.dtype}: allowed are floating-point weights")
    check_finite(state, source)


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError naming the tensors that hold nan or an infinity."""
    bad = [name for name, value in state.items() if value.dtype.is_floating_point and not _finite(value)]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise WeightsError(f"{source}: weights that are not finite, in {', '.join(bad[:5])}{more}")


def _finite(value: Tensor) -> bool:
    value = value.detach()
    return bool((value.float() if value.dtype.itemsize == 1 else value).isfinite().all())  # float8 does not know isfinite
