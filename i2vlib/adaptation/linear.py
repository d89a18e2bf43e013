"""Linear adapters and their merge into the frozen weights (ZeroI2V eq. 10-11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2vlib.config import AdaptationConfig


class LinearAdapter(nn.Module):
    """A(x) = x + s·(U·dropout(V x + b_v) + b_u)   (ZeroI2V eq. 11).

    x (..., D), any float dtype. V (rD, D) starts as a normal distribution of std .02, cut at two of them, U (D, rD) and both
    biases at zero: the identity. Dropout acts in training only.
    """

    def __init__(self, width: int, config: AdaptationConfig):
        super().__init__()
        bottleneck = max(1, int(width * config.ratio))
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.scale
        nn.init.trunc_normal_(self.down.weight, std=0.02, a=-0.04, b=0.04)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def bottleneck(self, x: Tensor) -> Tensor:
        return self.down(x)

    def forward(self, x: Tensor) -> Tensor:
        # torch.add takes s as a factor of its second term: one pass over x instead of two
        return torch.add(x, self.up(self.dropout(self.bottleneck(x))), alpha=self.scale)

    def affine(self) -> tuple[Tensor, Tensor]:
        """(M, m) with A(x) = M x + m: M = I + s U V, m = s (U b_v + b_u), both float64."""
        parts = (self.down.weight, self.down.bias, self.up.weight, self.up.bias)
        down, b_d, up, b_u = (with_float64(p).double() for p in parts)
        return torch.eye(len(up), dtype=torch.float64, device=up.device) + self.scale * up @ down, self.scale * (up @ b_d + b_u)


class GELUAdapter(LinearAdapter):
    """A(x) = x + s·(U·dropout(GELU(V x + b_v)) + b_u): the non-linear rows of the paper's Table 3. Cannot be merged."""

    def bottleneck(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.down(x))

    def affine(self) -> tuple[Tensor, Tensor]:
        raise ValueError("a GELU adapter cannot be merged: with a non-linear step between V and U there is no matrix M "
                         "with A(x) = M x + m; train with kind='linear' for a model that merges")


def merge_before(W: Tensor, b: Tensor, M: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """An adapter in front of a linear layer: W(M x + m) + b = (W M) x + (b + W m). Computed in float64, cast once."""
    wide = W.double()
    return (wide @ M).to(W.dtype), (b.double() + wide @ m).to(b.dtype)


def merge_behind(W: Tensor, b: Tensor, M: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """An adapter behind a linear layer: M(W x + b) + m = (M W) x + (M b + m). Computed in float64, cast once."""
    return (M @ W.double()).to(W.dtype), (M @ b.double() + m).to(b.dtype)


def with_float64(x: Tensor) -> Tensor:
    """x where float64 exists: Apple's GPUs do not have it."""
    return x.detach().cpu() if x.device.type == "mps" else x.detach()
