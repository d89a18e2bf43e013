"""The shifts that STDHA is compared with (ZeroI2V Tables 1 and 2a): channels, class tokens or patches of other frames, no
parameter, no multiply-add. Tensors only, no model.

A fold is a share 1/n of the channels, rounded down: two folds move, to the next frame and to the one before, so n = 12 moves
1/6 and n = 8 moves 1/4. Where a clip ends, a fold keeps its own frame; patches go round in a circle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from i2vlib.layers import as_clips
from i2vlib.temporal.moving import Runs, is_traced, move, move_packed, moved

# "Pattern C" of the temporal patch shift's released code (TPS, arXiv 2207.13259): the frame that each place of a 3x3 cell reads
PATCH_CELL = ((4, -1, -2), (1, 0, -3), (2, 3, -4))


def fold_width(channels: int, n: int) -> int:
    """Channels of one fold, channels // n. Raises ValueError where two folds do not fit or have no channel."""
    if n < 2:
        raise ValueError(f"n = {n}: allowed is 2 or more, two folds move")
    if channels < n:
        raise ValueError(f"n = {n} with {channels} channels: a fold would have none and nothing move, allowed is 2 to {channels}")
    return channels // n


def shift_channels(x: Tensor, n: int, offsets: tuple[int, int] = (-1, 1)) -> Tensor:
    """The first fold of channels reads frame t + offsets[0], the second t + offsets[1], the rest their own.

    x (B,T,...,d), any dtype -> a new tensor of the same shape; differentiable. With the default the first fold reads the frame
    before. Raises ValueError as fold_width.
    """
    runs = _folds(x.shape[-1], n, offsets)
    return moved(x, runs, -1) if is_traced() else move(x.clone(), runs, -1)


def shift_packed_channels(qkv: Tensor, frames: int, heads: int, n: int, queries: bool = False) -> Tensor:
    """Temporal channel shift: in every head, the first fold of k's and v's channels reads frame t-1, the second t+1.

    qkv (B·T, N, 3D), rows q, k, v, changed in place unless traced. queries: q's channels too. Returns the tensor. Raises
    ValueError as fold_width and where the batch is not whole clips.
    """
    return move_packed(qkv, frames, heads, _folds(qkv.shape[-1] // 3 // heads, n), -1, queries)


def shift_packed_class_token(qkv: Tensor, frames: int, n: int) -> Tensor:
    """Class-token shift as ZeroI2V's released ablation has it: inside attention, k and v of the class token alone.

    qkv (B·T, N, 3D), rows q, k, v, changed in place unless traced: the first fold of all D channels reads frame t-1, the second
    t+1. Returns the tensor. Raises ValueError as fold_width and where the batch is not whole clips.
    """
    return move_packed(qkv, frames, 1, _folds(qkv.shape[-1] // 3, n), -1, tokens=1)


def shift_class_token(x: Tensor, frames: int, n: int) -> Tensor:
    """Class-token shift (TokShift, arXiv 2108.02432), before a sublayer: the first fold of channels reads t+1, the second t-1.

    x (B·T, N, D) -> a new tensor in which only the class tokens differ; the skip connection carries them too. Raises ValueError
    as fold_width and where the batch is not whole clips.
    """
    runs = _folds(x.shape[-1], n, (1, -1))

    def class_tokens(x: Tensor) -> Tensor:
        return as_clips(x, frames)[:, :, :1]  # (B,T,1,D)

    if is_traced():
        return torch.cat([moved(class_tokens(x), runs, -1).flatten(0, 1), x[:, 1:]], dim=1)
    return move(x.clone(), runs, -1, class_tokens)


def patch_offsets(grid: int, registers: int = 0) -> Tensor:
    """(1 + grid² + registers,) int64: the frame offset of every token, PATCH_CELL laid side by side over the grid of patches.

    The cells at the right and lower edge are cut off where 3 does not divide the grid. The class token in front and the
    registers behind have offset 0.
    """
    places = torch.arange(grid) % 3
    patches = torch.tensor(PATCH_CELL)[places[:, None], places]
    return torch.cat([torch.zeros(1, dtype=torch.long), patches.flatten(), torch.zeros(registers, dtype=torch.long)])


def shift_patches(x: Tensor, frames: int, offsets: Tensor, back: bool = False) -> Tensor:
    """Temporal patch shift: token n of frame t becomes that of frame (t + offsets[n]) mod T; with `back` it goes home again.

    x (B·T, N, D), offsets (N,) -> a new tensor; differentiable. With T frames an offset counts modulo T: of 4 frames, those of
    ±4 read their own, and +3 reads the frame before. Raises ValueError where the batch is not whole clips or N another.
    """
    clips, tokens = as_clips(x, frames), x.shape[1]
    if tokens != len(offsets):
        raise ValueError(f"{len(offsets)} offsets for {tokens} tokens a frame: allowed is one a token")
    t = torch.arange(frames, device=x.device)[:, None]
    read = (t - offsets if back else t + offsets) % frames * tokens + torch.arange(tokens, device=x.device)  # (T,N)
    return clips.flatten(1, 2).index_select(1, read.flatten()).unflatten(1, (frames, tokens)).flatten(0, 1)


def _folds(channels: int, n: int, offsets: tuple[int, int] = (-1, 1)) -> Runs:
    fold = fold_width(channels, n)
    return [(fold, offsets[0]), (fold, offsets[1]), (channels - 2 * fold, 0)]
