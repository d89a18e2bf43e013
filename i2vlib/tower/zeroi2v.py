"""The authors' ZeroI2V checkpoints, in and out. Their key names, what they hold and what they leave unsaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from i2vlib.config import AdaptationConfig, ModelConfig, SwinConfig, TemporalConfig, TowerConfig
from i2vlib.tower.archives import WeightsError, flat_tensors, read_tensors
from i2vlib.tower.classifier import LIMIT_GIB, VideoClassifier, build_fitting, freeze
from i2vlib.tower.names import check_sound, remedy, some, tower_prefix
from i2vlib.tower.wrappers import unwrapped

# our place -> their module; "down" and "up" are D_fc1 and D_fc2
PLACE_NAMES = {"qkv": "T_Adapter_in", "q": "T_Adapter_in_q", "k": "T_Adapter_in_k", "v": "T_Adapter_in_v",
               "attn_out": "S_Adapter", "mlp_in": "MLP_Adapter", "mlp_out": "MLP_Adapter_out"}
PARTS = {"down": "D_fc1", "up": "D_fc2"}
HEADS = {768: 12, 1024: 16}  # of CLIP's ViT-B and ViT-L, which the released checkpoints start from


def load_zeroi2v(checkpoint: Mapping[str, Tensor] | str | Path, *, heads: int, offsets: Sequence[int], scale: float,
                 quick_gelu: bool = True, limit_gib: float = LIMIT_GIB) -> VideoClassifier:
    """An authors' checkpoint as our model, in eval mode; widths, places, frames and classes are read off its shapes.

    checkpoint: a state dict or a file, three, four or six adapters or merged, with or without `backbone.`/`cls_head.`, bare or
    as mmengine saves an epoch; no code runs from it. What it does not say must be given: heads (12 for ViT-B, 16 for ViT-L),
    offsets (one int a head, 0 = spatial) and s (0.5 for K400/UCF101/HMDB51, 1 for SSv2): a merge that guesses s loses much of
    the accuracy. limit_gib: the most memory that a file may ask for. Raises WeightsError, ConfigError.
    """
    source = "state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
    found = flat_tensors(checkpoint, source) if isinstance(checkpoint, Mapping) else read_tensors(checkpoint)
    prefix = tower_prefix(found, source, "a ZeroI2V checkpoint")
    root = prefix.removesuffix("backbone.")
    parts = (prefix, f"{root}cls_head.", f"{root}head.")  # mmengine keeps other things beside these
    state = {_our_name(k[len(root):]): v for k, v in found.items() if k.startswith(parts)}
    if any(".adapters." in k or k.startswith(f"{root}head.") for k in found):
        raise WeightsError(f"{source}: not a ZeroI2V checkpoint of the authors but, by its names, of save_checkpoint: load it "
                           "with i2v.load_checkpoint")
    config = _read_config(state, source, heads, tuple(offsets), scale, quick_gelu)
    model = build_fitting(config, state, source, limit_gib)
    check_sound(state, model.state_dict(), source)
    model.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)  # each tensor keeps its dtype
    return freeze(model).eval()


def zeroi2v_state(model: VideoClassifier) -> dict[str, Tensor]:
    """Our model's weights under the names of the released checkpoints (`backbone.`, `cls_head.fc_cls.`), without `proj`."""
    model = unwrapped(model)
    if (kind := model.config.adaptation.kind) not in ("frozen", "full", "linear"):
        raise WeightsError(f"adaptation {kind!r} has no place in the released format, whose adapters are linear")
    temporal = model.config.temporal
    if model.config.compression.kind != "none" or temporal.modules or isinstance(model.config.tower, SwinConfig):
        raise WeightsError("the released format holds ZeroI2V on plain ViTs alone: compression, modules over time and a Swin "
                           "have no place in it")
    if temporal.shift != "none" or temporal.queries:
        raise WeightsError("the released format is read with offsets of k and v: a shift or queries that move would be lost")
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if "adapters" in parts:
            at = parts.index("adapters")
            parts[at:at + 3] = [PLACE_NAMES[parts[at + 1]], PARTS[parts[at + 2]]]
        name = ".".join(parts)
        if name != "backbone.proj":
            state[f"cls_head.fc_cls.{parts[-1]}" if parts[0] == "head" else name] = value
    return state


def _our_name(name: str) -> str:
    if name.startswith("cls_head."):
        return name.replace("cls_head.fc_cls.", "head.")
    parts = name.removeprefix("backbone.").split(".")
    places = {theirs: ours for ours, theirs in PLACE_NAMES.items()}
    for i, part in enumerate(parts):
        if part in places:
            parts[i:i + 2] = ["adapters", places[part], {v: k for k, v in PARTS.items()}.get(parts[i + 1], parts[i + 1])]
            break
    return ".".join(["backbone", *parts])


def _read_config(state: Mapping[str, Tensor], source: str, heads: int, offsets: tuple[int, ...], scale: float,
                 quick_gelu: bool) -> ModelConfig:
    """The configuration that a checkpoint's shapes imply."""
    blocks = "backbone.transformer.resblocks"
    try:
        width, _, patch, _ = state["backbone.conv1.weight"].shape
        grid = round((len(state["backbone.positional_embedding"]) - 1) ** 0.5)
        hidden = len(state[f"{blocks}.0.mlp.c_fc.weight"])
        layers = 1 + max(int(k.split(".")[3]) for k in state if k.startswith(blocks))
        ratio = hidden / width
    except KeyError as error:
        raise WeightsError(f"{source}: not a ZeroI2V checkpoint, no tensor {error}; {some(state)}{remedy(state)}") from None
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"{source}: not a ZeroI2V checkpoint: its shapes are not those of a tower ({error})") from None
    if heads != HEADS.get(width, heads):
        raise WeightsError(f"{source}: heads = {heads}: CLIP's tower of width {width} has {HEADS[width]}, and its weights give "
                           "nonsense with any other number")
    places = tuple(p for p in PLACE_NAMES if f"{blocks}.0.adapters.{p}.down.weight" in state)
    bottleneck = len(state[f"{blocks}.0.adapters.{places[0]}.down.weight"]) / width if places else 0.25
    temporal = state.get("backbone.temporal_embedding")
    if temporal is None or temporal.ndim != 3:
        raise WeightsError(f"{source}: no temporal_embedding (1,T,D), which every released ZeroI2V checkpoint has"
                           f"{'' if places else remedy({'visual': 0})}")
    head, proj = state.get("head.weight"), state.get("backbone.proj")
    return ModelConfig(
        tower=TowerConfig(patch * grid, patch, width, layers, heads, ratio,
                          proj.shape[1] if proj is not None and proj.ndim == 2 else 0, quick_gelu),
        temporal=TemporalConfig(offsets, embedding=True),
        adaptation=AdaptationConfig("linear", places, bottleneck, scale) if places else AdaptationConfig(),
        frames=temporal.shape[1], classes=0 if head is None else len(head))
