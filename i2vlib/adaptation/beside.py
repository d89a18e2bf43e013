"""What stands beside a frozen weight and is added to what it gives: LoRA and the rows and columns of temporal heads.

Both are a difference (ΔW, Δb) of the weight, so both merge: W' = W + ΔW, b' = b + Δb.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.adaptation.linear import with_float64
from i2vlib.config import AdaptationConfig


class LoRA(nn.Module):
    """Δ(x) = s·B A·dropout(x), to be added to W x + b (LoRA, arXiv 2106.09685; ZeroI2V eq. 10).

    x (..., inputs) -> (..., outputs). A (ρ, inputs) starts uniform, as PyTorch's linear layers do (Kaiming, a = √5), B at zero:
    no difference. ρ: ratio times the tower's width. s is α/ρ. Dropout acts in training only.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, config: AdaptationConfig):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.empty(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))
        self.dropout, self.scale = nn.Dropout(config.dropout), config.scale
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.linear(self.dropout(x), self.A), self.B)

    def difference(self) -> tuple[Tensor, Tensor | None]:
        """(ΔW, None), float64: no bias changes."""
        return self.scale * with_float64(self.B).double() @ with_float64(self.A).double(), None


class HeadRows(nn.Module):
    """A difference of the rows of W_q, W_k or W_v, and of their biases, that relocated heads own (ZeroI2V Table 3, "only tuning
    temporal head"): x (..., D) -> (..., D), zero in other heads' rows. Starts at zero; weight decay pulls towards the tower."""

    def __init__(self, width: int, rows: Sequence[int]):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(len(rows), width)), nn.Parameter(torch.zeros(len(rows)))
        self.register_buffer("rows", torch.tensor(rows), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        given = F.linear(x, self.weight, self.bias)
        return given.new_zeros(*x.shape).index_copy(-1, self.rows, given)

    def difference(self) -> tuple[Tensor, Tensor]:
        """(ΔW (D, D), Δb (D,)), float64."""
        weight, bias = with_float64(self.weight).double(), with_float64(self.bias).double()
        width, rows = weight.shape[1], self.rows.to(weight.device)
        return weight.new_zeros(width, width).index_copy(0, rows, weight), bias.new_zeros(width).index_copy(0, rows, bias)


class HeadColumns(nn.Module):
    """A difference of the columns of W_o that read some heads: x (..., D) -> (..., D). Starts at zero; b_o stays."""

    def __init__(self, width: int, columns: Sequence[int]):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, len(columns)))
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.index_select(-1, self.columns), self.weight)

    def difference(self) -> tuple[Tensor, None]:
        """(ΔW (D, D), None), float64."""
        weight = with_float64(self.weight).double()
        return weight.new_zeros(len(weight), len(weight)).index_copy(1, self.columns.to(weight.device), weight), None


def head_channels(offsets: Sequence[int], width: int) -> list[int]:
    """The channels of D that heads with an offset other than 0 own."""
    d = width // len(offsets)
    return [channel for head, offset in enumerate(offsets) if offset for channel in range(head * d, (head + 1) * d)]
