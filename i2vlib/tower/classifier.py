"""A video classifier: backbone, mean over frames, linear head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from i2vlib.adaptation.linear import ADAPTERS, merged_state
from i2vlib.config import AdaptationConfig, ModelConfig
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.weights import load_image_weights, resolve_activation


class VideoClassifier(nn.Module):
    """(B,T,3,H,W) -> logits (B, classes): ln_post of each frame's class token, mean over frames, dropout, linear.

    Without a head (classes = 0) it returns what is in front of the dropout, (B,D). See VideoViT.clip_feature for a global branch.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.backbone = VideoViT(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(config.tower.width, config.classes) if config.classes else None
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward(self, video: Tensor) -> Tensor:
        x = self.backbone.clip_feature(video)  # (B, D)
        return x if self.head is None else self.head(self.dropout(x))

    def frame_features(self, video: Tensor) -> Tensor:
        """(B,T,3,H,W) -> (B,T',D): ln_post of each frame's class token; T' < T after compression."""
        return self.backbone(video)


def build_model(config: ModelConfig, weights: str | Path | None = None, *, resize_positions: bool = False) -> VideoClassifier:
    """The model of `config`, ready to train: only what the adaptation trains requires gradients.

    weights: "mini" (the shipped miniature tower), an open_clip tag such as "openai", or a file; None leaves random weights.
    resize_positions: interpolate position embeddings that were trained at another image size.
    Returns a VideoClassifier whose .config says which activation the weights need. Raises ConfigError, or WeightsError from
    i2vlib.tower.weights.
    """
    config = resolve_activation(config, weights)
    model = VideoClassifier(config)
    if weights is not None:
        load_image_weights(model.backbone, weights, resize_positions=resize_positions)
    return freeze(model)


def freeze(model: VideoClassifier) -> VideoClassifier:
    """Let gradients reach only what the adaptation trains; returns the model.

    frozen: the head. linear, gelu: adapters, temporal embedding, ln_post, head. full: everything that has a use (`proj` leads
    to the space shared with text and has none here). What compression and modules over time add trains with each of them
    (in training mode UniFormerV2's local modules also keep running statistics, whatever trains).
    """
    kind = model.config.adaptation.kind
    trained = {"head", "compression", "temporal"} | ({"adapters", "temporal_embedding", "ln_post"} if kind in ADAPTERS else set())
    for name, parameter in model.named_parameters():
        parts = set(name.split("."))
        parameter.requires_grad_(name != "backbone.proj" if kind == "full" else bool(parts & trained))
    return model


def merge(model: VideoClassifier) -> VideoClassifier:
    """A new, plain model with the adapters folded into the tower's weights (ZeroI2V eq. 11): equal outputs, no adapter left.

    What compression and modules over time add comes along unchanged. The arithmetic is float64, cast once to the weights' dtype.
    The model given stays as it is. The new one is in the same train/eval mode and its tower is frozen. Raises ValueError for
    GELU adapters.
    """
    blocks = {f"backbone.transformer.resblocks.{i}": b for i, b in enumerate(model.backbone.transformer.resblocks)}
    state = merged_state(blocks, model.state_dict())
    plain = VideoClassifier(replace(model.config, adaptation=AdaptationConfig()))
    plain.load_state_dict({k: v.clone() for k, v in state.items()}, strict=True, assign=True)  # each tensor keeps its dtype
    return freeze(plain.to(model.backbone.conv1.weight.device)).train(model.training)
