"""UniFormerV2's temporal modules (arXiv 2211.09552): a patch stem, local ones in the blocks, a global branch, what they cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.layers import QuickGELU, as_clips, grid_conv


class TemporalStem(nn.Conv2d):
    """W_before·x[2t-1] + W_after·x[2t+1], what the neighbours of every second frame add to its patches (UniFormerV2, SSv2).

    video (B, T, 3, H, W) -> (B·⌈T/2⌉, D, H/p, W/p), to be added to the image tower's own patches of frames 0, 2, 4, ...: together
    the convolution of kernel (3, p, p), stride (2, p, p) and padding (1, 0, 0), whose middle is the image tower's. It starts at
    zero, where the authors' inflated kernel does too. Frames outside the clip are zero. weight: (D, 3 colours before and 3 after,
    p, p), no bias.
    """

    def __init__(self, width: int, patch: int):
        super().__init__(6, width, patch, patch, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, video: Tensor) -> Tensor:
        kept = (video.shape[1] + 1) // 2
        between = F.pad(video[:, 1::2], (0, 0, 0, 0, 0, 0, 1, 1))  # frames -1, 1, 3, ...
        return super().forward(torch.cat([between[:, :kept], between[:, 1:kept + 1]], dim=2).flatten(0, 1))


class LocalModule(nn.Module):
    """x + U·w(V·BatchNorm(x)) on patch tokens: each place sees one frame back and one ahead (UniFormerV2, local MHRA).

    x (B·T, N, D), any float dtype, and the T of this call -> the same shape; the class token passes as it is. V is D -> h and
    U h -> D with h = int(D/1.5); w is a convolution over three frames, one kernel a channel, zeros outside the clip. U and its
    bias start at zero: the identity. The parameters are those of BatchNorm3d and three Conv3d. Raises ValueError where the
    batch is not whole clips.
    """

    def __init__(self, width: int):
        super().__init__()
        hidden = local_width(width)
        self.norm = nn.BatchNorm1d(width)
        self.down = nn.Linear(width, hidden)
        self.time = nn.Conv2d(hidden, hidden, (3, 1), padding=(1, 0), groups=hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        clips = as_clips(x, frames).shape[0]
        patches = x[:, 1:]
        hidden = self.down(self.norm(patches.flatten(0, 1))).view(clips, frames, patches.shape[1], -1)  # (B, T, N-1, h)
        # no kernel mixes places, so the image's two axes stay one; the permuted view is channels-last already: nothing is copied
        hidden = self.time(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(0, 1)  # (B·T, N-1, h)
        return torch.cat([x[:, :1], patches + self.up(hidden)], dim=1)


class GlobalModule(nn.Module):
    """query + attention(LN query, LN x'), then + MLP(LN query); x' = x + p(x) on patch tokens (UniFormerV2, global MHRA and DPE).

    query (B, 1, D), x (B·T, N, D) of one float dtype, the T and the (H, W) of this call -> the new query (B, 1, D); x is left
    as it is. p is a depth-wise Conv3d of 3x3x3 over (T, H, W); without `position` there is none and `grid` is not read: for
    tokens that have lost their places. The query reads all T·N tokens; MLP D -> 4D -> D with QuickGELU. The attention's output
    projection and the MLP's last layer start at zero, so the query leaves as it came; p starts at zero too, where the authors
    draw its weights at random. Raises ValueError where the batch is not whole clips, one a query, or the grid does not hold
    N-1 patches.
    """

    def __init__(self, width: int, heads: int, position: bool = True, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} with {heads} heads: allowed is a width that the heads divide")
        self.heads = heads
        self.position = nn.Conv3d(width, width, 3, padding=1, groups=width) if position else None
        self.ln_query, self.ln_tokens, self.ln_mlp = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # rows q, k, v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.c_fc, self.gelu, self.dropout = nn.Linear(width, 4 * width), QuickGELU(), nn.Dropout(dropout)
        self.c_proj = nn.Linear(4 * width, width)
        for weight in (self.in_proj_weight, self.c_fc.weight):
            nn.init.xavier_uniform_(weight)
        for layer in (self.out_proj, self.c_proj, *([self.position] if position else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, x: Tensor, frames: int, grid: tuple[int, int] | None = None) -> Tensor:
        clips = as_clips(x, frames).shape[0]
        if query.shape != (clips, 1, x.shape[-1]):
            raise ValueError(f"query {tuple(query.shape)} for {clips} clip(s) of width {x.shape[-1]}: allowed is "
                             f"({clips}, 1, {x.shape[-1]})")
        if self.position is not None:
            places = grid_conv(self.position, as_clips(x, frames), grid)  # (B, T, H, W, D)
            last = x.shape[1] - 1 - places.shape[2] * places.shape[3]  # registers have no place
            x = x + F.pad(places.reshape(x.shape[0], -1, x.shape[-1]), (0, 0, 1, last))
        tokens = self.ln_tokens(x).view(clips, -1, x.shape[-1])  # (B, T·N, D)
        read = cross_attention(self.ln_query(query), tokens, self.in_proj_weight, self.in_proj_bias, self.heads)
        query = query + self.out_proj(read)
        return query + self.c_proj(self.dropout(self.gelu(self.c_fc(self.ln_mlp(query)))))


class GlobalBranch(nn.Module):
    """One temporal class token that reads the clip after each of `count` blocks, and its blend with the frames' class tokens.

    start(B) -> the first query; read(i, query, x, frames, grid) after the i-th of those blocks; blend(query, class tokens) ->
    what the head gets: (1-σ(b))·query + σ(b)·mean over T of the class tokens (UniFormerV2). Token and b start at zero: a fresh
    branch gives half the mean class token.
    """

    def __init__(self, width: int, heads: int, count: int, position: bool = True, dropout: float = 0.0):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(GlobalModule(width, heads, position, dropout) for _ in range(count))
        self.balance = nn.Parameter(torch.zeros(width))

    def start(self, clips: int) -> Tensor:
        """The query of every clip before it has read anything, (B, 1, D)."""
        return self.class_embedding.expand(clips, -1, -1)

    def read(self, i: int, query: Tensor, x: Tensor, frames: int, grid: tuple[int, int] | None = None) -> Tensor:
        """The query (B, 1, D) after the i-th global module has read x (B·T, N, D)."""
        return self.blocks[i](query, x, frames, grid)

    def blend(self, query: Tensor, class_tokens: Tensor) -> Tensor:
        """(1-σ(b))·query + σ(b)·mean over T: query (B, 1, D) and class tokens (B, T, D) -> (B, D)."""
        if query.ndim != 3 or class_tokens.ndim != 3 or query.shape != (class_tokens.shape[0], 1, class_tokens.shape[-1]):
            raise ValueError(f"query {tuple(query.shape)}, class tokens {tuple(class_tokens.shape)}: allowed is (B, 1, D) with "
                             "(B, T, D)")
        share = self.balance.sigmoid()
        return (1 - share) * query[:, 0] + share * class_tokens.mean(1)


def cross_attention(query: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v of each head, before the output projection.

    query (B, M, D), tokens (B, L, D), weight (3D, D) and bias (3D,) with rows q, k, v -> (B, M, D).
    """
    width = query.shape[-1]
    q = F.linear(query, weight[:width], bias[:width])
    k, v = F.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=-1)
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))  # (B, h, M or L, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def local_width(width: int) -> int:
    """Channels between a local module's two outer layers: the width over 1.5."""
    return int(width / 1.5)


def local_multiply_adds(frames: int, patches: int, width: int) -> int:
    """Multiply-adds of one LocalModule on one clip: T·P·(2Dh + 3h), h = int(D/1.5); norms count 0."""
    hidden = local_width(width)
    return frames * patches * (2 * width * hidden + 3 * hidden)


def global_multiply_adds(frames: int, tokens: int, width: int, position: bool = True, registers: int = 0) -> int:
    """Multiply-adds of one GlobalModule on one clip; N counts class token and registers; norms and activations count 0.

    10D² for the query (q, output projection, MLP) + T·N·(2D² + 2D) for keys, values and both products + 27·D·T·P for p.
    """
    places = 27 * width * frames * (tokens - 1 - registers) if position else 0
    return 10 * width**2 + frames * tokens * (2 * width**2 + 2 * width) + places
