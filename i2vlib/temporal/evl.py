"""EVL's decoder (arXiv 2208.03550): a query that reads what the last blocks of a frozen image model say of all frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.layers import as_clips
from i2vlib.temporal.uniformerv2 import GlobalModule, global_multiply_adds


def relative_places(grid: tuple[int, int]) -> Tensor:
    """(P, P) int64: where in a table of (2H-1)·(2W-1) rows the way from patch k to patch q has its row."""
    rows, columns = (torch.arange(grid[0] * grid[1]) // grid[1], torch.arange(grid[0] * grid[1]) % grid[1])
    down, across = rows[:, None] - rows + grid[0] - 1, columns[:, None] - columns + grid[1] - 1
    return down * (2 * grid[1] - 1) + across


def neighbour_map(q: Tensor, k: Tensor, table: Tensor, places: Tensor) -> Tensor:
    """m_i = Σ_j A_ij · w[place of i from j],   A = mean over heads of softmax(q k^T / sqrt(d))   (EVL, cross-frame attention).

    q (..., h, P, d) of one frame's patches and k of another's, table (rows, D), places as relative_places gives them ->
    (..., P, D): which way lies what each patch resembles there.
    """
    share = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).mean(-3)  # (..., P, P)
    return torch.einsum("...ij,ijc->...ic", share, table[places])


class EVLLayer(nn.Module):
    """query + attention(LN query, LN x'), then + MLP(LN query);   x' = x + conv(x) + p + m_before + m_after   (EVL).

    query (B, 1, D); x (B·T, N, D), a block's output, and q, k (B·T, h, N, d), as that block's attention has them; T and (H, W)
    are those that it was made for -> the new query; x is left as it is. conv: one kernel a channel over three frames of one
    place, zeros beyond the clip's ends; p (T, D); m: neighbour_map on the frame before and the one after, 0 where there is none;
    class token and registers take conv and p alone. All three start at zero: x' = x. Raises ValueError where the batch is not
    whole clips, one a query.
    """

    def __init__(self, width: int, heads: int, frames: int, grid: tuple[int, int], dropout: float = 0.0):
        super().__init__()
        self.time = nn.Conv2d(width, width, (3, 1), padding=(1, 0), groups=width)  # over time; places stay apart
        self.position = nn.Parameter(torch.zeros(frames, width))
        self.before, self.after = (nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1), width)) for _ in range(2))
        self.register_buffer("places", relative_places(grid), persistent=False)
        self.reader = GlobalModule(width, heads, position=False, dropout=dropout)
        for zero in (self.time.weight, self.time.bias):
            nn.init.zeros_(zero)
        # as released, not zero as UniFormerV2's: the head reads nothing else, and a query of zeros has no norm to divide by
        for weight in (*self.reader.in_proj_weight.data.chunk(3), self.reader.out_proj.weight, self.reader.c_proj.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.reader.c_fc.bias)

    def forward(self, query: Tensor, x: Tensor, frames: int, q: Tensor, k: Tensor) -> Tensor:
        clips, patches = as_clips(x, frames), len(self.places)
        q, k = (y[:, :, 1:1 + patches].unflatten(0, (-1, frames)) for y in (q, k))  # (B, T, h, P, d)
        maps = F.pad(neighbour_map(q[:, 1:], k[:, :-1], self.before, self.places), (0, 0, 0, 0, 1, 0)) + F.pad(
            neighbour_map(q[:, :-1], k[:, 1:], self.after, self.places), (0, 0, 0, 0, 0, 1))  # (B, T, P, D)
        moved = self.time(clips.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, T, N, D)
        seen = clips + moved + self.position[:, None] + F.pad(maps, (0, 0, 1, x.shape[1] - 1 - patches))
        return self.reader(query, seen.flatten(0, 1), frames)


class EVLDecoder(nn.Module):
    """One learned query that reads the clip after each of the last `count` blocks, and the norm in front of the head.

    start(B) -> the first query, zeros until it is trained; read(i, query, x, frames, q, k) after the i-th of those blocks;
    finish(query) -> what the head gets, LN of the query, (B, D).
    """

    def __init__(self, width: int, heads: int, count: int, frames: int, grid: tuple[int, int], dropout: float = 0.0):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList(EVLLayer(width, heads, frames, grid, dropout) for _ in range(count))
        self.norm = nn.LayerNorm(width)

    def start(self, clips: int) -> Tensor:
        """The query of every clip before it has read anything, (B, 1, D)."""
        return self.class_embedding.expand(clips, -1, -1)

    def read(self, i: int, query: Tensor, x: Tensor, frames: int, q: Tensor, k: Tensor) -> Tensor:
        """The query (B, 1, D) after the i-th layer has read x (B·T, N, D)."""
        return self.layers[i](query, x, frames, q, k)

    def finish(self, query: Tensor) -> Tensor:
        return self.norm(query[:, 0])


def evl_multiply_adds(frames: int, tokens: int, patches: int, width: int) -> int:
    """Multiply-adds of one EVLLayer on one clip; norms and activations count 0.

    10D² for the query + T·N·(2D² + 2D) for keys, values and both products + 3·T·N·D for conv + 4·(T-1)·P²·D for the maps.
    """
    reader = global_multiply_adds(frames, tokens, width, position=False)
    return reader + 3 * frames * tokens * width + 4 * (frames - 1) * patches**2 * width
