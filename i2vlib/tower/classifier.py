"""A video classifier: backbone, mean over frames, linear head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from i2vlib.adaptation.block import LAYERS, merged_state
from i2vlib.config import AdaptationConfig, ModelConfig, SwinConfig
from i2vlib.tower import swin
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.names import Shaped, check_fit
from i2vlib.tower.swin import VideoSwin
from i2vlib.tower.weights import WeightsError, load_image_weights, resolve_activation
from i2vlib.tower.wrappers import keep_names_plain, plain_name, unwrapped

LIMIT_GIB = 32.0  # what a file may ask for unless its reader allows more; ViT-L takes 1.2


class VideoClassifier(nn.Module):
    """(B,T,3,H,W) -> logits (B, classes): ln_post of each frame's class token, mean over frames, dropout, linear.

    Without a head (classes = 0) it returns what is in front of the dropout, (B,D). See VideoViT.clip_feature for a global branch;
    a Swin has no class token, and gives the mean over patches of its last norm.
    state_dict() gives the same names whichever parts torch.compile or others have wrapped.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.backbone = (VideoSwin if isinstance(config.tower, SwinConfig) else VideoViT)(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(config.tower.features, config.classes) if config.classes else None
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=config.head_std)
            nn.init.zeros_(self.head.bias)
        for part in (self, self.backbone):
            keep_names_plain(part)

    def forward(self, video: Tensor) -> Tensor:
        x = self.backbone.clip_feature(video)  # (B, D)
        return x if self.head is None else self.head(self.dropout(x))

    def frame_features(self, video: Tensor) -> Tensor:
        """(B,T,3,H,W) -> (B,T',D): ln_post of each frame's class token; T' < T after compression."""
        return self.backbone(video)


def build_model(config: ModelConfig, weights: str | Path | None = None, *, resize_positions: bool = False) -> VideoClassifier:
    """The model of `config`, ready to train: only what the adaptation trains requires gradients.

    weights: "mini" (the shipped miniature tower), an open_clip tag such as "openai", a name in timm or on the hub, for which
    i2v.tower_config gives the tower, or a file (see weights.load_image_weights); None leaves random weights. resize_positions:
    interpolate position embeddings that were trained at another image size.
    Returns a VideoClassifier whose .config says which activation the weights need. Raises ConfigError, or WeightsError from
    i2vlib.tower.weights.
    """
    config = resolve_activation(config, weights)
    model = VideoClassifier(config)
    if weights is not None:
        load_image_weights(model.backbone, weights, resize_positions=resize_positions)
    return freeze(model)


def build_fitting(config: ModelConfig, state: Mapping[str, Shaped], source: str, limit_gib: float) -> VideoClassifier:
    """The model of `config`, once `state` is known to have its names and shapes: no memory is taken before.

    Raises WeightsError.
    """
    needed = f"a model of {config.tower.layers} blocks"
    try:
        if config.tower.layers > len(state):  # the blocks are not even counted one by one
            raise WeightsError(f"{source}: its configuration asks for {needed}, but it holds {len(state)} tensors")
        with torch.device("meta"):
            want = VideoClassifier(config).state_dict()
    except (RuntimeError, OverflowError, MemoryError, TypeError) as error:
        raise WeightsError(f"{source}: its configuration asks for a model that no memory holds ({error})") from error
    check_fit(state, want, source)
    gib = sum(value.numel() * 4 for value in want.values()) / 2**30
    if gib > limit_gib:
        raise WeightsError(f"{source}: {needed} and {gib:.1f} GiB: allowed is up to limit_gib = {limit_gib}, which may be raised")
    return VideoClassifier(config)


def freeze(model: VideoClassifier) -> VideoClassifier:
    """Let gradients reach only what the adaptation trains; returns the model.

    frozen: the head. heads and adapters of any kind: these, temporal embedding, the last norm, head. full: all that has a use
    (`proj` leads to the space shared with text and has none here) and that ModelConfig.upper does not leave out. What compression
    and modules over time add trains with each of them (in training mode UniFormerV2's local modules also keep running
    statistics, whatever trains).
    """
    kind = model.config.adaptation.kind
    adds = model.config.adaptation.adds
    trained = {"head", "compression", "temporal", "temporal_stem"} | ({"adapters", "temporal_embedding"} if adds else set())
    for name, parameter in model.named_parameters():
        plain = plain_name(name)
        added = bool(set(plain.split(".")) & trained) or adds and plain.startswith(("backbone.ln_post.", "backbone.norm."))
        parameter.requires_grad_(added or kind == "full" and not _left_out(plain, model.config))
    return model


def _left_out(name: str, config: ModelConfig) -> bool:
    """Whether fine-tuning leaves a parameter as it is: without a use, or below the first block that is adapted."""
    parts = name.split(".")
    if "resblocks" in parts:
        return int(parts[parts.index("resblocks") + 1]) < config.lower
    embeds = parts[1:2] and parts[1] in ("conv1", "class_embedding", "positional_embedding", "registers", "ln_pre")
    return name == "backbone.proj" or bool(config.lower and embeds)


def merge(model: VideoClassifier) -> VideoClassifier:
    """A new, plain model with the adapters folded into the tower's weights (ZeroI2V eq. 11): equal outputs, no adapter left.

    What compression and modules over time add comes along unchanged, and so do offsets, shifts and the temporal embedding, which
    open_clip's tower knows nothing of: see open_clip_state. The arithmetic is float64, cast once to the weights' dtype. The
    model given, which may be compiled, stays as it is. The new one is in the same train/eval mode and its tower is frozen.
    Raises ValueError for GELU adapters, AIM's and ST-Adapters.
    """
    model = unwrapped(model)
    if isinstance(model.backbone, VideoSwin):
        rows, layers = {f"layers.{i}.blocks": stage.blocks for i, stage in enumerate(model.backbone.layers)}, swin.LAYERS
    else:
        rows, layers = {"transformer.resblocks": model.backbone.transformer.resblocks}, LAYERS
    blocks = {f"backbone.{name}.{i}": block for name, row in rows.items() for i, block in enumerate(row)}
    state = merged_state(blocks, model.state_dict(), layers)
    plain = VideoClassifier(replace(model.config, adaptation=AdaptationConfig()))
    plain.load_state_dict({k: v.clone() for k, v in state.items()}, strict=True, assign=True)  # each tensor keeps its dtype
    return freeze(plain.to(next(model.parameters()).device)).train(model.training)


def plain_blocks(model: VideoClassifier) -> nn.ModuleList:
    """The blocks of a plain ViT, in order. Raises ValueError for a Swin, whose blocks see windows of grids of several sizes."""
    if isinstance(model.backbone, VideoSwin):
        raise ValueError("a Swin attends within windows, on a smaller grid from stage to stage, and has no class token: allowed "
                         "here is a plain ViT")
    return model.backbone.transformer.resblocks


def open_clip_state(model: VideoClassifier) -> dict[str, Tensor]:
    """The weights for open_clip's unmodified visual tower, if that tower then computes what this model does.

    It loads strict and gives equal features, frame by frame, where nothing but weights tells the model from an image tower:
    merged, no offset other than 0, no shift, no temporal embedding, no compression, no modules over time. The head travels
    apart, and the activation must be the same: a tower with quick_gelu needs open_clip's force_quick_gelu. Raises ValueError for
    any other model, naming what would be lost; backbone.image_state() gives the bare weights all the same, and the README shows
    what to add to open_clip's tower for offsets and the temporal embedding.
    """
    model = unwrapped(model)
    tower = model.config.tower
    if isinstance(tower, SwinConfig):
        raise ValueError("open_clip's own tower is a plain ViT: a Swin's weights go into timm's model, by i2vlib.timm_state")
    other = {"registers": tower.registers, "that this tower has no ln_pre (timm_state gives timm's form)": not tower.ln_pre,
             f"norm_eps {tower.norm_eps:g}": tower.norm_eps != 1e-5}
    lost = beyond_images(model.config) + [name for name, there in other.items() if there]
    if lost:
        raise ValueError(f"open_clip's tower would leave out {', '.join(lost)}, and compute something else: README, \"Serving "
                         "with open_clip\", shows what to add to it")
    return model.backbone.image_state()


def beyond_images(config: ModelConfig) -> list[str]:
    """What a model has that no image tower computes, in words; nothing where it is one, frame by frame."""
    temporal = config.temporal
    added = {"adapters (merge first)": config.adaptation.adds, "relocated heads": any(temporal.offsets),
             f"the shift {temporal.shift!r}": temporal.shift != "none", "the temporal embedding": temporal.embedding,
             "patches of several frames": temporal.stem, "UniFormerV2's modules": temporal.local or temporal.global_blocks,
             "EVL's decoder": temporal.evl,
             f"compression {config.compression.kind!r}": config.compression.kind != "none"}
    return [name for name, there in added.items() if there]
