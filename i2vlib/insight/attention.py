"""What every head attends to: the weights of a forward pass, followed through the layers to the input tokens, laid on places.

Letters: B clips, T frames, N tokens (the class token first, then H·W patches, then registers), h heads. A head of offset δ at
frame t attends to the tokens of frame t+δ, or of its own where t+δ lies outside the clip (ZeroI2V eq. 7-9).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index

import numpy as np
import torch
from torch import Tensor, nn

from i2vlib.layers import wide
from i2vlib.tower.attention import Attention

Query = str | tuple[int, int]  # "class", or (row, column) of a patch


@contextmanager
def attention_weights(model: nn.Module, layers: Sequence[int] | None = None) -> Iterator[list[Tensor | None]]:
    """The attention of every head in a forward pass: `with attention_weights(model) as weights: model(video)`.

        A_i[t] = softmax(q_i[t] k_i[t+δ_i]^T / sqrt(d) + ln(size))        (ZeroI2V eq. 7-9; the size only under ToMe)

    weights: a list that each forward pass fills anew, one (B,T',h,N',N') a block, in order, detached, float32 or wider. Rows are
    the queries of frame t, columns the tokens of the frame that the head reads; rows sum to 1. T' and N' shrink behind sites of
    compression. layers: only these blocks, from the end if negative; the others are None, so that weights[i] is always block i.
    The numbers are those of the block's own projections, adapters and relocated keys. A block holds B·T·h·N² of them. With a
    shift (TemporalConfig.shift) a column is a token of which some channels are other frames'; where queries move, the rows of
    head i are the queries of frame t+δ_i: such models have no one frame that a head reads.

    Raises ValueError where the model has no such blocks, for no layers at all, and in a forward pass where adapters drop out at
    random: the weights could not be computed again.
    """
    blocks = [module for module in model.modules() if isinstance(module, Attention)]
    if not blocks:
        raise ValueError("this model has no block with a plain ViT's attention, over all tokens of a frame: allowed is a "
                         "VideoClassifier, a VideoViT or a part, and no Swin, which attends within windows")
    chosen = block_numbers(layers, len(blocks))
    weights: list[Tensor | None] = []

    def record(block: int):
        def hook(module, args, kwargs, output):
            if block == chosen[0]:
                weights[:] = [None] * len(blocks)
            weights[block] = _weights(module, *args, **kwargs)
        return hook

    hooks = [blocks[i].register_forward_hook(record(i), with_kwargs=True) for i in chosen]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


def block_numbers(layers: Sequence[int] | None, blocks: int) -> list[int]:
    """The chosen ones of a model's blocks, from 0, in order, each once: all for None, from the end if negative.

    Raises ValueError for none and for one that the model does not have.
    """
    chosen = whole_numbers(range(blocks) if layers is None else layers, "layers")
    if not chosen:
        raise ValueError("layers has no block: allowed is one or more, or None for all")
    if wrong := [i for i in chosen if not -blocks <= i < blocks]:
        raise ValueError(f"layers has {wrong[0]}: allowed is {-blocks} to {blocks - 1}, this model has {blocks} blocks")
    return sorted({i % blocks for i in chosen})


def whole_numbers(numbers: Iterable[int], name: str) -> tuple[int, ...]:
    """Whole numbers of any kind, Python's, NumPy's or a tensor's, as ints. Raises ValueError, which calls them `name`."""
    try:
        return tuple(map(index, numbers))
    except TypeError:
        raise ValueError(f"{name} = {numbers!r}: allowed is a sequence of whole numbers") from None


@torch.no_grad()
def _weights(block: Attention, x: Tensor, frames: int, adapters: nn.ModuleDict, merging=None, norm=None, seen=None) -> Tensor:
    """(B·T,N,D), as the block was given it -> (B,T,h,N,N)."""
    if any(isinstance(m, nn.Dropout) and m.training and m.p > 0 for m in adapters.modules()):
        raise ValueError("the adapters of this model drop out at random: allowed is model.eval(), or a dropout of 0")
    q, k, _, bias = block.read(x, frames, adapters, merging, norm)
    with torch.autocast(x.device.type, enabled=False):
        q, k = wide(q), wide(k)
        logits = (q * q.shape[-1] ** -0.5) @ k.mT  # (B·T,h,N,N)
        return (logits if bias is None else logits + bias).softmax(-1).unflatten(0, (-1, frames))


def frame_read(t: int, offset: int, frames: int) -> int:
    """The frame that a head of this offset reads at frame t of a clip: t + offset, or t where that lies outside the clip."""
    if not 0 <= t < frames:
        raise ValueError(f"t = {t}: allowed is 0 to {frames - 1}")
    return t + offset if 0 <= t + offset < frames else t


def query_maps(weights: Tensor, query: Query = "class", registers: int = 0) -> Tensor:
    """The attention of one query to all patches: weights (...,N,N) -> (...,H,W), on a square grid.

    query: "class" or (row, column) of a patch; registers: as in TowerConfig. What goes to the class token and to registers, which
    have no place, is left out and nothing is scaled, so a map sums to 1 less that. Raises ValueError where the tokens lie on no
    square grid (behind ToMe or STA) or the query lies outside it.
    """
    side = grid_side(weights.shape[-1], registers)
    return weights[..., query_token(query, side), 1:1 + side**2].unflatten(-1, (side, side))


def query_token(query: Query, side: int) -> int:
    """The number of the query's token in a frame of side·side patches."""
    if isinstance(query, str) and query == "class":
        return 0
    try:
        row, column = map(index, query)
    except (TypeError, ValueError):  # no whole numbers, or not two
        row = column = -1
    if not (0 <= row < side and 0 <= column < side):
        raise ValueError(f"query {query!r}: allowed is 'class' or (row, column), each 0 to {side - 1}")
    return 1 + row * side + column


def grid_side(tokens: int, registers: int = 0) -> int:
    """Patches along one side of a square grid with a class token and so many registers behind it. Raises ValueError."""
    side = round(max(tokens - 1 - registers, 0) ** 0.5)
    if tokens != 1 + side**2 + registers or not side or registers < 0:
        raise ValueError(f"{tokens} tokens a frame, {registers} of them registers: allowed is a class token and a square grid; "
                         "merged or dropped tokens (ToMe, STA) have no places")
    return side


def on_place(maps: Tensor, mask: Tensor) -> Tensor:
    """The share of each map that lies on the patches of a mask: Σ(map·mask) / Σ map, (...,H,W) -> (...).

    mask: bool, or 0 to 1 for patches that are covered in part; of any shape that broadcasts to the map's. Of what goes to
    patches: the class token has no place. nan where a map is empty. Raises ValueError where the two do not fit.
    """
    if maps.ndim < 2 or mask.ndim < 2 or maps.shape[-2:] != mask.shape[-2:]:
        raise ValueError(f"maps {tuple(maps.shape)} with a mask {tuple(mask.shape)}: allowed are (..., H, W) of one H and W")
    maps = wide(maps)
    return (maps * mask.to(maps.dtype)).sum((-2, -1)) / maps.sum((-2, -1))


def on_place_read(maps: Tensor, place: Tensor, offsets: Sequence[int] = ()) -> Tensor:
    """on_place in the frame that each head reads: maps (B,T,h,H,W) with place (B,T,H,W) -> (B,T,h).

        share[t,i] = on_place(maps[t,i], place[t+δ_i]), nan where t+δ_i lies outside the clip: the head reads its own frame there

    place: bool, where the thing is in each frame, or 0 to 1; offsets: one int a head, () = all spatial. Raises ValueError where
    they do not fit.
    """
    offsets = whole_numbers(offsets, "offsets")
    if maps.ndim != 5 or place.shape != maps.shape[:2] + maps.shape[3:] or len(offsets) not in (0, maps.shape[2]):
        raise ValueError(f"maps {tuple(maps.shape)} with place {tuple(place.shape)} and {len(offsets)} offsets: allowed are "
                         "(B, T, h, H, W), (B, T, H, W) and one int a head or none")
    frames, heads = maps.shape[1:3]
    offsets = offsets or (0,) * heads
    shares = wide(maps).new_full(maps.shape[:3], torch.nan)
    for head, offset in enumerate(offsets):
        times = [t for t in range(frames) if 0 <= t + offset < frames]
        shares[:, times, head] = on_place(maps[:, times, head], place[:, [t + offset for t in times]])
    return shares


@torch.no_grad()
def rollout(weights: Sequence[Tensor], offsets: Sequence[int] | Sequence[Sequence[int]] = (),
            sites: Mapping[int, Tensor] | None = None) -> Tensor:
    """Attention rollout over space and time: the share of each input token in the final class tokens, (B,T,N), Σ = 1.

        R = M_L ... M_1        M = (W + I) / 2        W[(t,n), (t',n')] = 1/h Σ over heads that read t' at t of A_i[t][n,n']

    (Abnar and Zuidema 2020, section 3, on all T·N tokens of a clip: each head's attention lands on the frame that it reads.)
    Returns the rows of R of the last layer's class tokens, averaged over frames. Only this average is carried backwards through
    the layers, so that no (T·N)² matrix is built. MLPs, adapters behind the attention and modules of UniFormerV2 do not count.
    Beware: rows of A sum to 1, so how much of a frame's share moves on to which frame follows from the offsets alone. Only where
    in a frame it lies depends on the clip; totals of frames do so only through the weights of sites.

    weights: one (B,T',h,N,N) a block, all of them, as attention_weights gives them; registers are tokens as any other here.
    offsets: one int a head, () = all spatial, or one such sequence a block. sites: {blocks that have run: (B,T',N)}, the
    weights of each site that halves the frames, as dict(zip(config.compression.after, maps)) with the maps of
    compression.weights.interpolation_weights; there the share of a fused token goes to its two, in proportion to their weights.
    Raises ValueError where the frames or tokens of neighbouring layers do not fit, as behind a site that is not given, or
    behind ToMe and STA.
    """
    if not weights or any(w is None for w in weights):
        raise ValueError(f"weights of {sum(w is not None for w in weights)} blocks: allowed is all of them, without `layers`")
    offsets = _every_block(offsets, len(weights), weights[0].shape[2])
    sites = dict(sites or {})
    if wrong := [block for block in sites if not 1 <= block <= len(weights)]:
        raise ValueError(f"sites has {wrong[0]}: allowed is 1 to {len(weights)}, the number of blocks that have run")
    last = sites[len(weights)] if len(weights) in sites else None
    clips, frames, _, tokens, _ = weights[-1].shape
    frames = frames if last is None else frames // 2
    share = wide(weights[-1]).new_zeros(clips, frames, tokens)
    share[:, :, 0] = 1 / frames
    for block in reversed(range(len(weights))):
        if block + 1 in sites:
            share = _spread(share, sites[block + 1].to(share), block + 1)
        w = weights[block].to(share)
        if w.shape[:2] + w.shape[3:] != (*share.shape, share.shape[2]):
            raise ValueError(f"weights[{block}] {tuple(w.shape)} before {share.shape[1]} frames of {share.shape[2]} tokens: "
                             "sites has to hold the weights of every site that fuses frames; merged or dropped tokens cannot "
                             "be followed")
        share = (share + _back(share, w, offsets[block])) / 2
    return share


def _every_block(offsets, blocks: int, heads: int) -> list[tuple[int, ...]]:
    """One tuple of offsets a block, out of sequences, arrays or tensors of whole numbers."""
    try:
        rows = list(offsets)
        every = [tuple(map(index, row)) for row in rows] if rows and np.ndim(rows[0]) else [tuple(map(index, rows))] * blocks
    except TypeError:  # no whole numbers
        every = []
    every = [o or (0,) * heads for o in every]
    if len(every) != blocks or any(len(o) != heads for o in every):
        raise ValueError(f"offsets {offsets}: allowed is one int for each of {heads} heads, or one such sequence for each of "
                         f"{blocks} blocks")
    return every


def _back(share: Tensor, weights: Tensor, offsets: tuple[int, ...]) -> Tensor:
    """share (B,T,N) of a layer's outputs -> of its inputs, along the attention alone, heads averaged."""
    frames = share.shape[1]
    sent = torch.einsum("btn,bthnm->bthm", share, weights) / len(offsets)
    back = torch.zeros_like(share)
    for head, offset in enumerate(offsets):
        read = torch.tensor([frame_read(t, offset, frames) for t in range(frames)], device=share.device)
        back.index_add_(1, read, sent[:, :, head])
    return back


def _spread(share: Tensor, weights: Tensor, block: int) -> Tensor:
    """share (B,T/2,N) of fused tokens -> (B,T,N): each to its pair, in proportion to the weights, which a sigmoid leaves free."""
    clips, half, tokens = share.shape
    if weights.shape[1:] != (2 * half, tokens) or weights.shape[0] not in (1, clips):
        raise ValueError(f"sites[{block}] {tuple(weights.shape)}: allowed is ({clips}, {2 * half}, {tokens}) here")
    pairs = weights.unflatten(1, (half, 2))
    return (share.unsqueeze(2) * pairs / pairs.sum(2, keepdim=True)).flatten(1, 2)
