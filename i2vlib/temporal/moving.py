"""Parts of a tensor that read another frame, whatever the parts are: heads, channels, class tokens. Tensors only, no model.

A run is (length, offset): so many neighbours along one dimension read frame t + offset, 0 = their own; runs cover the dimension.
Where t + offset lies outside the clip, they read their own frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from i2vlib.layers import check_whole_clips

Runs = Sequence[tuple[int, int]]


def move(x: Tensor, runs: Runs, dim: int, movable: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """x with its runs moved, in place: what reads its own frame is not copied. Differentiable, twice; no tracer can follow it.

    movable: what moves, as a view (B, T, ...) of x, the runs along its dimension `dim`. Returns x.
    """
    return _Move.apply(x, movable, tuple(runs), dim)


def moved(x: Tensor, runs: Runs, dim: int) -> Tensor:
    """x (B, T, ...) with the runs along `dim` moved, as a new tensor that any tracer can follow."""
    parts = x.split([length for length, _ in runs], dim)
    return torch.cat([_read(part, offset) for part, (_, offset) in zip(parts, runs, strict=True)], dim)


def is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def move_packed(qkv: Tensor, frames: int, heads: int, runs: Runs, dim: int, queries: bool = False,
                tokens: int | None = None) -> Tensor:
    """k and v inside a packed projection, with `queries` q as well, with their runs moved; in place, unless traced.

    qkv (B·T, N, 3D), rows q, k, v; the runs lie along `dim` of (B, T, N, 2 or 3, h, d). tokens: only the first ones move; None:
    all. Returns the tensor. Raises ValueError where the batch is not whole clips of `frames` frames.
    """
    check_whole_clips(qkv, frames)
    if not any(offset for _, offset in runs):
        return qkv
    first = 0 if queries else 1

    def movable(packed: Tensor) -> Tensor:
        return packed.unflatten(0, (-1, frames)).unflatten(-1, (3, heads, -1))[:, :, :tokens, first:]

    if not is_traced():
        return move(qkv, runs, dim, movable)
    stays = qkv[:, :tokens, :first * (qkv.shape[2] // 3)]
    changed = torch.cat([stays, moved(movable(qkv), runs, dim).flatten(3).flatten(0, 1)], dim=2)  # (B·T, N or tokens, 3D)
    return changed if tokens is None else torch.cat([changed, qkv[:, tokens:]], dim=1)


def _read(x: Tensor, offset: int) -> Tensor:
    """y[:, t] = x[:, t+offset]; frames at the clip's edge keep their own."""
    kept = x.shape[1] - abs(offset)
    if kept <= 0 or not offset:
        return x
    own, read = (x[:, :-offset], x[:, :kept]) if offset < 0 else (x[:, kept:], x[:, offset:])
    return torch.cat([own, read] if offset < 0 else [read, own], dim=1)


class _Move(torch.autograd.Function):
    """Overwrite the runs in place."""

    @staticmethod
    def forward(ctx, x, movable, runs, dim):
        ctx.movable, ctx.runs, ctx.dim = movable, runs, dim
        ctx.mark_dirty(x)
        for part, offset in _parts(movable(x), runs, dim):
            _write(part, offset)
        return x

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        for part, offset in _parts(ctx.movable(grad), ctx.runs, ctx.dim):
            _write_back(part, offset)
        return grad, None, None, None


def _parts(x: Tensor, runs: Runs, dim: int) -> Iterator[tuple[Tensor, int]]:
    """The runs that move, as views, with their offsets."""
    start = 0
    for length, offset in runs:
        if offset:
            yield x.narrow(dim, start, length), offset  # not out of split(): autograd forbids writing to one of several views
        start += length


def _write(x: Tensor, offset: int) -> None:
    """x[:, t] <- x[:, t+offset]; frames at the clip's edge keep their own, so the fallback costs nothing."""
    kept = x.shape[1] - abs(offset)
    if kept <= 0:
        return  # no other frame lies that far away
    source, target = (slice(0, kept), slice(-offset, None)) if offset < 0 else (slice(offset, None), slice(0, kept))
    x[:, target] = x[:, source].clone()  # the two overlap


def _write_back(grad: Tensor, offset: int) -> None:
    """The adjoint of _write: every frame collects the gradients of the frames that read it."""
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
