"""The authors' ZeroI2V checkpoints, in and out. Their key names, what they hold and what they leave unsaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from i2vlib.config import AdaptationConfig, ModelConfig, TemporalConfig, TowerConfig
from i2vlib.tower.classifier import VideoClassifier, freeze
from i2vlib.tower.weights import WeightsError, check_fit, read_tensors

# our place -> their module; "down" and "up" are D_fc1 and D_fc2
PLACE_NAMES = {"qkv": "T_Adapter_in", "q": "T_Adapter_in_q", "k": "T_Adapter_in_k", "v": "T_Adapter_in_v",
               "attn_out": "S_Adapter", "mlp_in": "MLP_Adapter", "mlp_out": "MLP_Adapter_out"}
PARTS = {"down": "D_fc1", "up": "D_fc2"}


def load_zeroi2v(checkpoint: Mapping[str, Tensor] | str | Path, *, heads: int, offsets: Sequence[int], scale: float,
                 quick_gelu: bool = True) -> VideoClassifier:
    """An authors' checkpoint as our model, in eval mode; widths, places, frames and classes are read off its shapes.

    checkpoint: a state dict or a file, three, four or six adapters or merged, with or without `backbone.`/`cls_head.` and a
    `state_dict` wrapper. What it does not say must be given: heads, offsets (one int a head, 0 = spatial) and s (0.5 for
    K400/UCF101/HMDB51, 1 for SSv2): a merge that guesses s loses much of the accuracy. Raises WeightsError, ConfigError.
    """
    source = "state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
    state = dict(checkpoint) if isinstance(checkpoint, Mapping) else read_tensors(Path(checkpoint))
    state = state["state_dict"] if isinstance(state.get("state_dict"), Mapping) else state
    state = {_our_name(k): v for k, v in state.items()}
    config = _read_config(state, source, heads, tuple(offsets), scale, quick_gelu)
    model = VideoClassifier(config)
    check_fit(state, model.state_dict(), source)
    model.load_state_dict({k: v.clone() for k, v in state.items()}, assign=True)  # each tensor keeps its dtype
    return freeze(model).eval()


def zeroi2v_state(model: VideoClassifier) -> dict[str, Tensor]:
    """Our model's weights under the names of the released checkpoints (`backbone.`, `cls_head.fc_cls.`), without `proj`."""
    if model.config.adaptation.kind == "gelu":
        raise WeightsError("GELU adapters have no place in the released format, whose adapters are linear")
    if model.config.compression.kind != "none" or model.config.temporal.local or model.config.temporal.global_blocks:
        raise WeightsError("the released format holds ZeroI2V alone: compression and UniFormerV2's modules have no place in it")
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
    name = name.removeprefix("module.")
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
    except KeyError as error:
        raise WeightsError(f"{source}: not a ZeroI2V checkpoint, no tensor {error}") from None
    layers = 1 + max(int(k.split(".")[3]) for k in state if k.startswith(blocks))
    places = tuple(p for p in PLACE_NAMES if f"{blocks}.0.adapters.{p}.down.weight" in state)
    ratio = len(state[f"{blocks}.0.adapters.{places[0]}.down.weight"]) / width if places else 0.25
    temporal = state.get("backbone.temporal_embedding")
    if temporal is None:
        raise WeightsError(f"{source}: no temporal_embedding, which every released ZeroI2V checkpoint has")
    head = state.get("head.weight")
    return ModelConfig(
        tower=TowerConfig(patch * grid, patch, width, layers, heads, hidden / width,
                          state["backbone.proj"].shape[1] if "backbone.proj" in state else 0, quick_gelu),
        temporal=TemporalConfig(offsets, embedding=True),
        adaptation=AdaptationConfig("linear", places, ratio, scale) if places else AdaptationConfig(),
        frames=temporal.shape[1], classes=0 if head is None else len(head))
