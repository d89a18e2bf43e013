"""Attention within a frame, whose heads, channels or tokens may be other frames'."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.adaptation.block import beside, in_front
from i2vlib.compression.tokens import Merging
from i2vlib.layers import through
from i2vlib.temporal.aim import attend_over_time
from i2vlib.temporal.heads import relocate_heads, shift_heads
from i2vlib.temporal.shifts import shift_packed_channels, shift_packed_class_token, shift_patches


class Attention(nn.Module):
    """Multi-head self-attention within a frame; heads with an offset read another frame (STDHA, ZeroI2V eq. 7-9).

    x (B·T, N, D) -> the same shape; given a norm, x is what comes before it. `offsets`: one int a head, or () where all heads
    are spatial. queries, shift, folds: as in TemporalConfig; patches: patch_offsets for the patch shift. No parameter and no
    multiply-add depends on any of them. seen: a list that q and k, as they meet, are added to.
    """

    def __init__(self, width: int, heads: int, offsets: tuple[int, ...] = (), *, queries: bool = False, shift: str = "none",
                 folds: int = 12, patches: Tensor | None = None):
        super().__init__()
        if offsets and len(offsets) != heads:
            raise ValueError(f"{len(offsets)} offsets: allowed is one a head, {heads}, or none")
        self.heads, self.offsets, self.queries, self.shift, self.folds = heads, tuple(offsets), queries, shift, folds
        self.register_buffer("patches", patches, persistent=False)  # (N,), on the device of the weights
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, frames: int, adapters: nn.ModuleDict, merging: Merging | None = None,
                norm: nn.Module | None = None, seen: list[Tensor] | None = None) -> Tensor:
        q, k, v, bias = self.read(x, frames, adapters, merging, norm)
        if seen is not None:
            seen += (q, k)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)  # (B·T, N, D)
        if self.patches is not None:
            x = shift_patches(x, frames, self.patches, back=True)
        return beside(adapters, "attn_out", x, self.out_proj(x))

    def over_time(self, x: Tensor, frames: int) -> Tensor:
        """x (B·T, N, D) -> the same shape: the same weights once more, over the frames of each place (AIM)."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(attend_over_time(qkv, frames, self.heads))

    def read(self, x: Tensor, frames: int, adapters: nn.ModuleDict, merging: Merging | None = None,
             norm: nn.Module | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """q, k, v, each (B·T, h, N, d), as they meet: k and v of the frame that each head reads, channels and patches of the
        frames that a shift takes them from; and what ToMe adds to the logits, if any."""
        if self.patches is not None:
            x = shift_patches(x, frames, self.patches)
        qkv = self.project(x, adapters, norm)  # (B·T, N, 3D)
        bias = None
        if merging is not None:
            keys = qkv.chunk(3, dim=-1)[1].unflatten(-1, (self.heads, -1))  # of each token's own frame: before heads move
            merging.keys = keys.mean(2)
            bias = self.sizes_read(merging.log_size(qkv.dtype), frames)
        q, k, v = self.move(qkv, frames).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each a view
        return q, k, v, bias

    def move(self, qkv: Tensor, frames: int) -> Tensor:
        """q, k, v (B·T, N, 3D) with what reads other frames in its place."""
        if self.shift.startswith("channel"):
            return shift_packed_channels(qkv, frames, self.heads, self.folds, queries=self.shift == "channel_qkv")
        if self.shift == "class_token_kv":
            return shift_packed_class_token(qkv, frames, self.folds)
        return relocate_heads(qkv, frames, self.offsets, self.queries)

    def sizes_read(self, log_size: Tensor, frames: int) -> Tensor:
        """(B·T,1,1,N) -> (B·T, h or 1, 1, N): the sizes of the tokens that each head reads, which may be another frame's."""
        if not any(self.offsets):
            return log_size
        every = log_size.expand(-1, self.heads, -1, -1).transpose(2, 3)  # (B·T, h, N, 1)
        return shift_heads(every.unflatten(0, (-1, frames)), self.offsets).flatten(0, 1).transpose(2, 3)

    def project(self, x: Tensor, adapters: nn.ModuleDict, norm: nn.Module | None = None) -> Tensor:
        """q, k, v of every token (B·T, N, 3D), through norm and the adapters that stand in front of the projection."""
        x = through(x, *([norm] if norm else []), *in_front(adapters, "qkv"))
        if not any(in_front(adapters, place) for place in "qkv"):
            qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
            if not {"q", "k", "v"} & set(adapters):
                return qkv
            return torch.cat([beside(adapters, place, x, y) for place, y in zip("qkv", qkv.chunk(3, -1), strict=True)], -1)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        inputs = [through(x, *in_front(adapters, place)) for place in "qkv"]
        return torch.cat([F.linear(*layer) for layer in zip(inputs, weights, biases, strict=True)], dim=-1)
