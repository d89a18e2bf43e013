"""How a model runs for a while: at rest, or keeping little for backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from i2vlib.config import ConfigError
from i2vlib.tower.backbone import Transformer
from i2vlib.tower.swin import VideoSwin


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """While the model trains in this block, each of its blocks keeps its input alone for backward, and computes the rest again.

    Raises ConfigError for ToMe, whose sizes would be summed twice, and for UniFormerV2's local modules, whose running statistics
    would be.
    """
    parts = [module for module in model.modules() if isinstance(module, (Transformer, VideoSwin))]
    for config in (part.config for part in parts):
        if config.compression.kind == "tome" or config.temporal.local:
            name = "compression 'tome'" if config.compression.kind == "tome" else "local modules over time"
            raise ConfigError(f"TrainConfig.recompute with {name}: a block would count what it has seen twice; allowed is false")
    for part in parts:
        part.recompute = True
    try:
        yield
    finally:
        for part in parts:
            part.recompute = False


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; then the training flag of each of its modules as it was, after an exception too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
