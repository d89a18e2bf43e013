"""The compressions over time that InTI is compared with, and the module that a config asks for at a site."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2vlib.compression.inti import Interpolation, InTI, paired_clips
from i2vlib.compression.tokens import STA
from i2vlib.config import ModelConfig


class SharedWeights(nn.Module):
    """Two weights, softmax of two logits, the same for every clip, pair and place: (B,T,N,C) -> (B,T,N). Start: 1/2 each."""

    def __init__(self, learned: bool):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        pair = x.new_full((2,), 0.5) if self.logits is None else self.logits.softmax(0)
        return pair.repeat(x.shape[1] // 2)[None, :, None].expand(x.shape[:3])  # w_0, w_1, w_0, w_1, ...


class MeanPooling(Interpolation):
    """The mean of each pair of frames: x (B·T,N,C) -> (B·T/2,N,C). No parameters."""

    def __init__(self):
        super().__init__(SharedWeights(learned=False))


class LinearPooling(Interpolation):
    """One learned pair of weights that sum to 1, shared by all tokens: x (B·T,N,C) -> (B·T/2,N,C). Starts as the mean."""

    def __init__(self):
        super().__init__(SharedWeights(learned=True))


class ConvPooling(nn.Module):
    """A convolution of kernel and stride (2,1,1) over (T,H,W): y = W [x_2t ; x_2t+1] + b, x (B·T,N,C) -> (B·T/2,N,C).

    As kernel and stride are alike it is a linear layer on the two tokens of a pair; the class token takes it too. start: "mean"
    of the pair [ours], or "random" as PyTorch starts a layer.
    """

    def __init__(self, width: int, start: str = "mean"):
        super().__init__()
        self.linear = nn.Linear(2 * width, width)
        if start == "mean":
            with torch.no_grad():
                self.linear.weight.copy_(torch.eye(width).repeat(1, 2) / 2)
                self.linear.bias.zero_()

    def forward(self, x: Tensor, frames: int) -> Tensor:
        pairs = paired_clips(x, frames).unflatten(1, (-1, 2)).transpose(2, 3)  # (B,P,N,2,C)
        return self.linear(pairs.flatten(3)).flatten(0, 1)


def make_site(config: ModelConfig, block: int) -> nn.Module:
    """The compression that stands where `block` blocks have run: x (B·T,N,C), T -> (B·T',N',C)."""
    compression, width = config.compression, config.tower.width
    if compression.kind == "inti":
        grid = (config.tower.grid, config.tower.grid)
        return InTI(width, config.frames_at(block - 1), grid, levels=compression.levels, fusion=compression.fusion,
                    head=compression.head)
    if compression.kind == "conv":
        return ConvPooling(width, compression.start)
    if compression.kind == "sta":
        return STA(compression.remove, reverse=block in compression.after[1:2])
    return {"mean": MeanPooling, "linear": LinearPooling}[compression.kind]()
