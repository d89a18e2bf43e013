"""Explorers that need no kernel: pages of HTML and JavaScript with a clip's attention or weights inside.

A page is one fragment, shown by `IPython.display.HTML(page)`; it stays alive in a notebook exported to HTML, asks for nothing
over the network, and several fit on one page. JupyterLab runs the script of a notebook that was run or trusted.
"""

from __future__ import annotations

import base64
import html
import io
import json
import secrets
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from i2vlib.compression.weights import cascade, interpolation_weights
from i2vlib.config import TowerConfig
from i2vlib.insight.attention import attention_weights, block_numbers, grid_side
from i2vlib.show.board import weight_table
from i2vlib.show.clips import pictures
from i2vlib.show.names import plain
from i2vlib.tower.classifier import plain_blocks
from i2vlib.tower.modes import at_rest

SCRIPTS = Path(__file__).resolve().parents[1] / "assets"
MOST = 12_000_000  # numbers of attention in a page: each is a byte before it is packed
PIXELS = 112  # side of an embedded frame, at most


# ---- what is read of a model ----

def clip_for(model: nn.Module, clip: Tensor) -> Tensor:
    """A clip as a batch of one where the model's weights are, in their dtype: (T,3,S,S) -> (1,T,3,S,S). Raises ValueError."""
    if clip.ndim != 4 or clip.shape[1] != 3 or not clip.is_floating_point():
        raise ValueError(f"clip {tuple(clip.shape)} {clip.dtype}: allowed is one clip as the model sees it, (T, 3, S, S) float")
    return clip.detach()[None].to(next(model.parameters()))


def read_attention(model: nn.Module, clip: Tensor, layers: Sequence[int] | None = None) -> list[np.ndarray]:
    """The attention of the chosen layers (all) on one clip: (T',h,1+H·W,1+H·W) float32 each, rows are queries.

    Registers are neither patch nor class token and are left out, as queries and as what is read: rows sum to 1 less their share.
    """
    with torch.no_grad(), at_rest(model), attention_weights(model, layers) as maps:
        model(clip_for(model, clip))
    found, registers = [m[0].float().cpu().numpy() for m in maps if m is not None], model.config.tower.registers
    sides = [grid_side(m.shape[-1], registers) for m in found]
    return [m[..., :1 + side**2, :1 + side**2] for m, side in zip(found, sides, strict=True)]


def read_weights(model: nn.Module, clip: Tensor) -> list[np.ndarray]:
    """The interpolation weights of every site on one clip, without registers': (T,1+H·W), (T/2,1+H·W), ... float32."""
    with torch.no_grad(), at_rest(model), interpolation_weights(model) as maps:
        model(clip_for(model, clip))
    return [m[0, :, :1 + model.config.tower.grid**2].float().cpu().numpy() for m in maps]


def head_offsets(model: nn.Module) -> list[tuple[int, ...]]:
    """The offsets of the heads of every block, zeros where all are spatial.

    Raises ValueError where what a head weighs at frame t is not one frame's tokens as queries of frame t see them: in a model
    with a shift (TemporalConfig.shift) or whose queries move.
    """
    if model.config.temporal.shift != "none" or model.config.temporal.queries:
        raise ValueError(f"a model with {model.config.temporal}: allowed is one whose heads read k and v of one frame each, by "
                         "offsets alone; i2vlib.insight.attention.attention_weights gives the numbers of any model")
    blocks = [block.attn for block in plain_blocks(model)]
    return [block.offsets or (0,) * block.heads for block in blocks]


def most_concentrated(maps: Sequence[np.ndarray], offsets: Sequence[Sequence[int]]) -> tuple[int, int, int, int]:
    """(layer, head, frame, query) of the largest weight on one patch that a relocated head has in a frame not its own.

    maps: of each layer (T',h,N,N), without registers; offsets: of each layer (h,). The query is a token, 0 the class token.
    Where no head is relocated, or every offset leads out of the clip, all heads take part.
    """
    reached = [np.array([[bool(o) and 0 <= t + o < len(m) for o in own] for t in range(len(m))])
               for m, own in zip(maps, offsets, strict=True)]  # (T',h)
    every = not any(r.any() for r in reached)
    peaks = [np.where((r | every)[..., None], m[..., 1:].max(-1), -1) for m, r in zip(maps, reached, strict=True)]  # (T',h,N)
    layer = int(np.argmax([p.max() for p in peaks]))
    frame, head, query = (int(i) for i in np.unravel_index(peaks[layer].argmax(), peaks[layer].shape))
    return layer, head, frame, query


# ---- pages ----

def attention_page(model: nn.Module, clip: Tensor, *, layers: Sequence[int] | None = None, title: str = "") -> str:
    """Point at a patch of any frame: its attention, on the frame that the head reads, in every head of every layer.

    The page opens with the query and head of `most_concentrated`; pointer, finger and keys choose others, as it says itself.
    clip (T,3,S,S) float, as the model sees it; layers: which to embed, from the end if negative, all if left out. Each row of
    attention (one query of one head) is kept as bytes, 255 for its largest number: a number is off by that row's largest / 510
    at most. Returns the fragment. Raises ValueError where tokens have no places, for a layer that the model does not have, or
    for more than MOST numbers: choose fewer layers.
    """
    config, offsets = model.config, head_offsets(model)
    chosen = block_numbers(layers, len(offsets))
    size = sum(config.frames_at(i) * config.tower.heads * (1 + config.tower.grid**2) ** 2 for i in chosen)
    if size > MOST:
        raise ValueError(f"{size / 1e6:.1f} million numbers of attention in {len(chosen)} layers: allowed is {MOST / 1e6:g} "
                         "million, choose fewer layers")
    maps = read_attention(model, clip, chosen)
    largest, packed = zip(*(quantise(m) for m in maps), strict=True)
    data = b"".join(m.astype("<f4").tobytes() for m in largest) + b"".join(m.tobytes() for m in packed)
    layer, head, frame, query = most_concentrated(maps, [offsets[i] for i in chosen])
    return _page("explore_attention.js", clip, config.tower, title or "Attention of every head", {
        "layers": chosen, "offsets": [offsets[i] for i in chosen], "times": [len(m) for m in maps],
        "heads": config.tower.heads, "open": [layer, head, frame * len(clip) // len(maps[layer]), query], "data": _pack(data)})


def quantise(attention: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(...,N) -> the largest of each row (...) float32, and bytes (...,N): a number is byte·largest/255, off by half a step."""
    largest = attention.max(-1)
    share = attention / np.maximum(largest, np.finfo(np.float32).tiny)[..., None]
    return largest.astype(np.float32), (share * 255).round().astype(np.uint8)


def interpolation_page(model: nn.Module, clip: Tensor, *, title: str = "") -> str:
    """Point at a place: its weights in the pair of every site, its cascade over the input frames, and what is fused there.

    The page opens with the place where one frame weighs most in the last.
    clip (T,3,S,S) float. Weights are kept in 16 bits, off by 8e-6 at most. Returns the fragment. Raises ValueError where the
    model weighs no frames.
    """
    maps = read_weights(model, clip)
    way = cascade([torch.from_numpy(m)[None] for m in maps])[0, :, 1:]  # (T,N-1)
    frame, place = divmod(int(way.argmax()), way.shape[1])
    data = b"".join((m.clip(0, 1) * 65535).round().astype("<u2").tobytes() for m in maps)
    return _page("explore_interpolation.js", clip, model.config.tower, title or "Whose token is kept, at every place", {
        "sites": [len(m) for m in maps], "open": [frame >> len(maps), place], "data": _pack(data),
        "colours": base64.b64encode(weight_table().tobytes()).decode()})


def _page(script: str, clip: Tensor, tower: TowerConfig, title: str, data: dict) -> str:
    """The fragment: a place for the page, its data, its script."""
    key, grid = f"i2v-{secrets.token_hex(4)}", tower.grid
    frames = pictures(clip, tower)
    step = max(1, min(frames.shape[1], PIXELS) // grid)  # pixels a patch
    strip = [Image.fromarray(f).resize((grid * step,) * 2, Image.Resampling.BOX) for f in frames.numpy()]
    file, size = io.BytesIO(), grid * step
    Image.fromarray(np.concatenate([np.asarray(f) for f in strip], axis=1)).save(file, "PNG", optimize=True)
    title = plain(title, 160)
    data |= {"title": title, "frames": len(strip), "size": size, "grid": grid,
             "strip": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}
    shared, own = ((SCRIPTS / name).read_text() for name in ("explore.js", script))
    facts = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # no </script> can stand in it
    words = f"{html.escape(title)}: in a notebook, run this cell to make the picture answer to the pointer."
    return (f'<div data-i2v="{key}" style="min-height:3em">{words}</div>\n'
            f'<script>(() => {{\nconst KEY = "{key}", DATA = {facts};\n{shared}\n{own}\n}})();</script>')


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()
