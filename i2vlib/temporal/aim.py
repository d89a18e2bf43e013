"""AIM's attention over time (arXiv 2302.03024): a block's own attention again, over the frames of each place. Tensors only."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from i2vlib.layers import as_clips


def attend_over_time(qkv: Tensor, frames: int, heads: int) -> Tensor:
    """softmax(q_n[t] k_n[t']^T / sqrt(d)) v_n[t'] over the frames t' of one clip, for each token n and head alone.

    qkv (B·T, N, 3D), rows q, k, v of the image model's own projection -> (B·T, N, D), before the output projection. Raises
    ValueError where the batch is not whole clips of `frames` frames.
    """
    q, k, v = as_clips(qkv, frames).unflatten(-1, (3, heads, -1)).permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # (B·N, h, T, d)
    read = F.scaled_dot_product_attention(q, k, v).unflatten(0, (-1, qkv.shape[1]))  # (B, N, h, T, d)
    return read.permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)


def over_time_multiply_adds(frames: int, tokens: int, width: int) -> int:
    """Multiply-adds of one such pass on one clip: T·N·4D² for the projections and 2·T²·N·D for both products."""
    return frames * tokens * (4 * width**2 + 2 * frames * width)
