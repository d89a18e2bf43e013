"""A video model that is asked about boxes: the last tokens of all frames, averaged over time, and of them what a box holds."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor
from torchvision.ops import roi_align

from i2vlib.config import DROPPING, ConfigError, ModelConfig
from i2vlib.tower.classifier import VideoClassifier, build_model, freeze
from i2vlib.tower.swin import VideoSwin
from i2vlib.tower.wrappers import unwrapped

ROI = 7  # places along one side that a box is read at


def box_features(maps: Tensor, boxes: Tensor) -> Tensor:
    """What boxes hold: maps (B,D,g,g), boxes (B,M,4) as shares x1, y1, x2, y2 of the map -> (B,M,D).

    torchvision's RoIAlign, aligned, at 7x7 places of each box, then their maximum. In float32, whatever the maps are.
    """
    grid = maps.shape[-1]
    found = roi_align(maps.float(), list(boxes.float() * grid), ROI, aligned=True)  # (B·M,D,7,7)
    return found.amax((2, 3)).unflatten(0, boxes.shape[:2])


class Detector(VideoClassifier):
    """(B,T,3,S,S) and boxes on the middle frame (B,M,4), shares of the picture -> logits (B,M,classes), an action a column.

    map = mean over T' of the last norm of the patch tokens (ln_post, a Swin's norm); box -> RoIAlign -> maximum -> dropout ->
    linear. A sigmoid makes probabilities of them: a person does several things at once. The weights are a VideoClassifier's,
    under the same names, and so are the checkpoints: as_detector(i2v.load_checkpoint(path)). Raises ConfigError for a model
    without a head, one whose tokens have lost their places (ToMe, STA), and one whose head reads a global branch or a decoder.
    """

    def __init__(self, config: ModelConfig):
        temporal = config.temporal
        for fault, there in ((f"compression.kind = {config.compression.kind!r} leaves no grid of patches for boxes to lie on",
                              config.compression.kind in DROPPING),
                             ("temporal.global_blocks or evl: their one token a clip has no place that a box could hold",
                              temporal.global_blocks or temporal.evl),
                             ("classes = 0: allowed is the number of actions", not config.classes)):
            if there:
                raise ConfigError(f"ModelConfig.{fault}")
        super().__init__(config)

    def forward(self, video: Tensor, boxes: Tensor) -> Tensor:
        return self.head(self.dropout(box_features(self.maps(video), boxes)))

    def maps(self, video: Tensor) -> Tensor:
        """(B,T,3,S,S) -> (B,D,g,g): the last norm of each place's tokens, mean over the frames that are left."""
        tokens = self.backbone.tokens(video)  # (B,T',N,D)
        if isinstance(self.backbone, VideoSwin):
            places = self.backbone.norm(tokens)
        else:
            places = self.backbone.ln_post(tokens[:, :, 1:1 + self.config.tower.grid**2])  # no class token, no registers
        side = math.isqrt(places.shape[2])
        return places.mean(1).transpose(1, 2).unflatten(2, (side, side))


def build_detector(config: ModelConfig, weights: str | Path | None = None, **options) -> Detector:
    """As i2v.build_model: a detector of `config`, ready to train. Raises ConfigError and WeightsError."""
    return as_detector(build_model(config, weights, **options))


def as_detector(model: VideoClassifier) -> Detector:
    """A copy of a video model, merged or not, with its head on boxes: of as many classes as there are actions."""
    model = unwrapped(model)
    found = Detector(model.config)
    found.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    return freeze(found).train(model.training)


def scores_of(logits: Tensor, share: Tensor) -> Tensor:
    """Logits (B,V,M,C) of V views and the share (B,V,M) of each box that a view shows -> probabilities (B,M,C).

    The mean over the views that show most of the box; 0 for a box that none shows.
    """
    best = (share >= share.amax(1, keepdim=True) - 1e-3) & (share > 0)
    weight = best.float() / best.sum(1, keepdim=True).clamp(min=1)
    return (logits.float().sigmoid() * weight[..., None]).sum(1)
