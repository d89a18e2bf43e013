"""STDHA, spatial-temporal dual-headed attention, by relocating heads (ZeroI2V eq. 7-9). Tensors only, no model.

Head i at frame t computes softmax(q_i[t] k_i[t+δ_i]^T / sqrt(d)) v_i[t+δ_i]. Only k and v of the heads with δ != 0 move;
where t+δ lies outside the clip, the head reads its own frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import Tensor

from i2vlib.temporal.moving import is_traced, move, move_packed, moved

# The order in which the released settings give offsets to heads.
OFFSET_ORDER = (-1, 1, -2, 2, -3, 3, -4)


def stdha_offsets(heads: int, field: int, each: int = 1) -> tuple[int, ...]:
    """One frame offset a head: `each` heads for every offset of a temporal receptive field of `field` frames, the rest spatial.

    field counts the distinct frames that one layer sees, its own included: 1 {0}, 2 {-1,0}, 3 {-1,0,+1}, 4 adds -2, and so on
    to 8. Raises ValueError where the field is not 1 to 8 or the offsets need more than `heads` heads.
    """
    if not 1 <= field <= len(OFFSET_ORDER) + 1:
        raise ValueError(f"field = {field}: allowed is 1 to {len(OFFSET_ORDER) + 1} frames")
    if each < 1:
        raise ValueError(f"each = {each}: allowed is 1 or more heads for every offset")
    moved = [offset for offset in OFFSET_ORDER[: field - 1] for _ in range(each)]
    if len(moved) > heads:
        raise ValueError(f"field {field} with {each} head(s) an offset needs {len(moved)} temporal heads: "
                         f"the tower has {heads}")
    return tuple(moved) + (0,) * (heads - len(moved))


def shift_heads(x: Tensor, offsets: Sequence[int]) -> Tensor:
    """y[:, t, i] = x[:, t+δ_i, i], or x[:, t, i] where t+δ_i is outside the clip (ZeroI2V eq. 7-9, the relocation alone).

    x (B,T,h,N,d), any dtype; offsets: h ints, 0 = spatial. Returns a new tensor of the same shape; differentiable.
    Raises ValueError where x has another number of heads than offsets.
    """
    if x.ndim != 5 or x.shape[2] != len(offsets):
        raise ValueError(f"x {tuple(x.shape)} with {len(offsets)} offsets: allowed is (B, T, {len(offsets)}, N, d), one "
                         "offset a head")
    runs = _runs(offsets)
    return moved(x, runs, 2) if is_traced() else move(x.clone(), runs, 2)


def relocate_heads(qkv: Tensor, frames: int, offsets: Sequence[int], queries: bool = False) -> Tensor:
    """Relocate k and v inside a packed projection, in place: what does not move is not copied.

    qkv (B·T, N, 3D), the output of the image model's own projection, rows q, k, v; offsets: one int a head. queries: q of a
    relocated head moves as well, so that the whole head is another frame's (the paper's HR QKV; without, HR KV = STDHA).
    Returns the same tensor. Raises ValueError where the batch is not whole clips of `frames` frames.
    """
    return move_packed(qkv, frames, len(offsets), _runs(offsets), -2, queries)


def _runs(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring heads with the same offset, as (number of heads, offset)."""
    return [(sum(1 for _ in heads), offset) for offset, heads in groupby(offsets)]
