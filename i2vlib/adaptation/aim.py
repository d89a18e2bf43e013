"""AIM's adapters (arXiv 2302.03024): GELU adapters with the skip connection and without it. None of them merges."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from i2vlib.adaptation.linear import GELUAdapter
from i2vlib.config import AdaptationConfig


class GELUBranch(GELUAdapter):
    """s·(U·dropout(GELU(V x + b_v)) + b_u): a GELU adapter without the skip connection, 0 at the start."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(self.dropout(self.bottleneck(x)))


def aim_adapter(place: str, width: int, config: AdaptationConfig) -> GELUAdapter:
    """The adapter of a place out of AIM_PLACES: in line at time_in and attn_out, a branch at time_out and mlp; s at mlp alone."""
    config = config if place == "mlp" else replace(config, scale=1.0)
    return (GELUBranch if place in ("time_out", "mlp") else GELUAdapter)(width, config)
