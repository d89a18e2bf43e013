"""STDHA, spatial-temporal dual-headed attention, by relocating heads (ZeroI2V eq. 7-9). Tensors only, no model.

Head i at frame t computes softmax(q_i[t] k_i[t+δ_i]^T / sqrt(d)) v_i[t+δ_i]. Only k and v of the heads with δ != 0 move;
where t+δ lies outside the clip, the head reads its own frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from i2vlib.layers import check_whole_clips

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
    if _is_traced():
        return _moved(x, offsets)
    return _Relocate.apply(x.clone(), lambda y: y, tuple(offsets))


def relocate_heads(qkv: Tensor, frames: int, offsets: Sequence[int]) -> Tensor:
    """Relocate k and v inside a packed projection, in place: what does not move is not copied.

    qkv (B·T, N, 3D), the output of the image model's own projection, rows q, k, v; offsets: one int a head.
    Returns the same tensor. Raises ValueError where the batch is not whole clips of `frames` frames.
    """
    check_whole_clips(qkv, frames)
    if not any(offsets):
        return qkv

    def keys_and_values(packed: Tensor) -> Tensor:
        split = packed.unflatten(0, (-1, frames)).unflatten(-1, (3, len(offsets), -1))  # (B, T, N, 3, h, d)
        return split[:, :, :, 1:].permute(0, 1, 4, 3, 2, 5)  # k and v as one view (B, T, h, 2, N, d)

    if _is_traced():
        moved = _moved(keys_and_values(qkv), offsets).permute(0, 1, 4, 3, 2, 5).flatten(3).flatten(0, 1)  # (B·T, N, 2D)
        return torch.cat([qkv[:, :, : qkv.shape[2] // 3], moved], dim=2)
    return _Relocate.apply(qkv, keys_and_values, tuple(offsets))


def _is_traced() -> bool:
    """No tracer can follow _Relocate, which works in place."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _moved(x: Tensor, offsets: Sequence[int]) -> Tensor:
    """x (B, T, h, ...) with its heads moved, as a new tensor."""
    runs = [(offset, sum(1 for _ in group)) for offset, group in groupby(offsets)]
    groups = x.split([heads for _, heads in runs], dim=2)
    return torch.cat([_read(heads, offset) for heads, (offset, _) in zip(groups, runs, strict=True)], dim=2)


def _read(x: Tensor, offset: int) -> Tensor:
    """y[:, t] = x[:, t+offset]; frames at the clip's edge keep their own."""
    kept = x.shape[1] - abs(offset)
    if kept <= 0 or not offset:
        return x
    own, read = (x[:, :-offset], x[:, :kept]) if offset < 0 else (x[:, kept:], x[:, offset:])
    return torch.cat([own, read] if offset < 0 else [read, own], dim=1)


class _Relocate(torch.autograd.Function):
    """Overwrite the moved heads in place. `movable` gives the (B, T, h, ...) view of what moves in the packed tensor."""

    @staticmethod
    def forward(ctx, packed, movable, offsets):
        ctx.movable, ctx.offsets = movable, offsets
        ctx.mark_dirty(packed)
        for heads, offset in _runs(offsets):
            _move(movable(packed)[:, :, heads], offset)
        return packed

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        for heads, offset in _runs(ctx.offsets):
            _move_back(ctx.movable(grad)[:, :, heads], offset)
        return grad, None, None


def _runs(offsets: Sequence[int]) -> list[tuple[slice, int]]:
    """Neighbouring heads with the same non-zero offset, as (slice of heads, offset)."""
    runs, start = [], 0
    for offset, group in groupby(offsets):
        stop = start + len(list(group))
        if offset:
            runs.append((slice(start, stop), offset))
        start = stop
    return runs


def _move(x: Tensor, offset: int) -> None:
    """x[:, t] <- x[:, t+offset]; frames at the clip's edge keep their own, so the fallback costs nothing."""
    kept = x.shape[1] - abs(offset)
    if kept <= 0:
        return  # no other frame lies that far away
    source, target = (slice(0, kept), slice(-offset, None)) if offset < 0 else (slice(offset, None), slice(0, kept))
    x[:, target] = x[:, source].clone()  # the two overlap


def _move_back(grad: Tensor, offset: int) -> None:
    """The adjoint of _move: every frame collects the gradients of the frames that read it."""
    kept = grad.shape[1] - abs(offset)
    if kept <= 0:
        return
    read = grad.clone()
    if offset < 0:  # frame t was read by t-offset; the first -offset frames also read themselves
        grad[:, -offset:] = 0
        grad[:, :kept] += read[:, -offset:]
    else:
        grad[:, :kept] = 0
        grad[:, offset:] += read[:, :kept]
