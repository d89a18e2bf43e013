"""The explorers' pictures, without their controls: what is drawn of a model and a clip for each position of the sliders.

A view computes what it can at once, then draws in tens of milliseconds on one core at miniature size. The model is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from i2vlib.adaptation import LinearAdapter, LoRA
from i2vlib.compression.weights import cascade, fuse_frames, interpolation_weights
from i2vlib.config import MIXING, TowerConfig
from i2vlib.insight.attention import frame_read, query_token
from i2vlib.show.board import FIRST, HEAT, PALE, SECOND, Board, heat, heat_scale, weight_colours
from i2vlib.show.clips import frames_fused, pictures, signed
from i2vlib.show.embedded import clip_for, head_offsets, read_attention, read_weights
from i2vlib.show.names import plain
from i2vlib.tower.classifier import plain_blocks

WIDTH = 860  # of every picture, points
LEARNED = "as learned"


@dataclass(frozen=True)
class View:
    """draw(**values) -> (PNG, its numbers as a line of text).

    ranges: {value: (lowest, highest, start)}, whole numbers or steps of .1; settings: {name: offsets}, for offsets_view.
    """

    draw: Callable[..., tuple[bytes, str]]
    ranges: Mapping[str, tuple[float, float, float]]
    settings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


# ---- attention -------------------------------------------------------------------------------------------------------

def attention_view(model: nn.Module, clip: Tensor) -> View:
    """The attention of any head and block, from the class token or any patch, on the frame that the head reads (t+δ, not t).

    clip (T,3,S,S) float. Values: frame, block (from 1), head, query ("class token" or "patch"), row, column. Behind a site the
    frame is the average of those fused. All is computed at the start. Raises ValueError where tokens have no places (ToMe, STA).
    """
    maps, offsets, tower = read_attention(model, clip), head_offsets(model), model.config.tower
    shown, heads, grid = pictures(clip, tower).numpy(), tower.heads, tower.grid

    def draw(frame: int, block: int, head: int, query: str, row: int, column: int) -> tuple[bytes, str]:
        here, reach = maps[block - 1], offsets[block - 1]  # (T',h,N,N), (h,)
        group = len(shown) // len(here)
        t = frame // group
        token = query_token("class" if query == "class token" else (row, column), grid)
        read = [frame_read(t, offset, len(here)) for offset in reach]
        films, weights = frames_fused(shown, len(here)), here[t, :, token]  # (h,N)
        board, most = Board(WIDTH, 542), float(weights[head, 1:].max())
        name = "class token" if token == 0 else f"patch ({row}, {column})"
        board.text(4, 0, f"Block {block}, head {head} (δ = {signed(reach[head])}): the {name} of frame {t} looks at "
                   f"frame {read[head]}", 13)
        board.film(films, 4, 26, WIDTH - 8, 64, {read[head]: HEAT} | {t: FIRST}, "t = {}" if group == 1 else "fused {}")
        side, top = 288, 136
        board.text(4, top - 20, f"the query, in frame {t}", 11, FIRST)
        board.picture(films[t], 4, top, side, FIRST)
        if token:
            board.patch(4, top, side, grid, token - 1, FIRST)
        board.text(310, top - 20, f"what it looks at, in frame {read[head]}", 11, HEAT)
        board.picture(heat(films[read[head]], weights[head, 1:].reshape(grid, grid), most), 310, top, side, HEAT)
        board.colour_bar(612, top + 16, 120, heat_scale(), [(0, "0"), (1, f"{most:.2f}")], "attention")
        rest = {"class token": weights[head, 0]} | ({"registers": 1 - weights[head].sum()} if tower.registers else {})
        board.text(612, top + 166, "\n".join(f"on the {words}: {share:.2f}" for words, share in rest.items()), 11)
        board.text(4, 440, "all heads of this block, same query, each on the frame that it reads, each on its own scale", 11)
        step = min(96, (WIDTH - 8) / heads)
        for i in range(heads):
            values = weights[i, 1:].reshape(grid, grid)
            board.picture(heat(films[read[i]], values, float(values.max())), 4 + i * step, 460, min(60, step - 6),
                          HEAT if i == head else "")
            board.text(4 + i * step + min(30, step / 2 - 3), 524, f"{i}: t = {read[i]}" if step > 50 else str(i), 10,
                       HEAT if read[i] != t else "#222222", "ma")
        best = int(weights[head, 1:].argmax())
        return board.png(), (f"block {block} head {head} offset {reach[head]:+d} frame {t} reads {read[head]}: most on "
                             f"({best // grid}, {best % grid}), {most:.4f}; class token {weights[head, 0]:.4f}")

    return View(draw, {"frame": (0, len(shown) - 1, len(shown) // 2), "block": (1, len(maps), 1), "head": (0, heads - 1, 0),
                       "row": (0, grid - 1, grid // 2), "column": (0, grid - 1, grid // 2)})


# ---- interpolation ---------------------------------------------------------------------------------------------------

def interpolation_view(model: nn.Module, clip: Tensor, class_names: Sequence[str] = (), bars: int = 8) -> View:
    """InTI on one clip: any pair at any site, its two weight maps, what they fuse, the cascade, and what other weights would do.

    clip (T,3,S,S) float. Values: frame (its pair is shown), site, weights: LEARNED, or the share of the second frame, 0 to 1,
    at every place of the chosen site. The model runs with them (once), so that later sites weigh anew and the logits move; the
    ticks beside the bars show them as learned. bars: how many classes. Raises ValueError where the model weighs no frames.
    """
    model, video, shown = _still(model), clip_for(model, clip), pictures(clip, model.config.tower).numpy()
    tower, grid, sites = model.config.tower, model.config.tower.grid, len(read_weights(model, clip))
    names = _names(model, class_names)

    @lru_cache(maxsize=256)
    def run(site: int, second: float | str) -> tuple[list[Tensor], Tensor]:
        replace = {}
        if second != LEARNED:
            frames = len(shown) // 2**site
            replace[site] = torch.tensor([1 - second, second]).repeat(frames // 2).view(1, frames, 1)
        with torch.no_grad(), interpolation_weights(model, replace) as maps:
            logits = model(video)[0]
        return [m[..., :1 + grid**2].float().cpu() for m in maps], logits.float().cpu()  # registers have no place

    def extremes(site: int) -> Tensor:
        return torch.stack([run(site, hand)[1] for hand in (LEARNED, 0.0, 1.0)])

    def draw(frame: int, site: int, weights: float | str) -> tuple[bytes, str]:
        now, learned = run(site - 1, weights), run(site - 1, LEARNED)
        maps, left = now[0], len(shown) // 2 ** (site - 1)
        arrived = shown if site == 1 else _fuse(clip, cascade(maps[:site - 1]), tower, left)
        fused = _fuse(clip, cascade(maps[:site]), tower, left // 2)
        pair = frame * left // len(shown) // 2
        w = maps[site - 1][0, 2 * pair:2 * pair + 2, 1:].unflatten(1, (grid, grid)).numpy()  # (2,g,g)
        board, total = Board(WIDTH, 430), cascade(maps)
        way = "as learned" if weights == LEARNED else f"by hand: {1 - weights:.2f} on the first, {weights:.2f} on the second"
        board.text(4, 0, f"Frame {frame}: in pair {pair} of site {site}, weights {way}", 13)
        side, xs = board.film(shown, 4, 26, 540, 80)
        board.line([(xs[frame] + 8, 26 + side + 22), (xs[frame] + side - 8, 26 + side + 22)], "#222222", 3)
        for i, x in enumerate(xs):  # all input frames of the pair's two halves
            if i * left // len(shown) // 2 == pair:
                board.box(x - 2, 24, side + 4, side + 4, (FIRST, SECOND)[i * left // len(shown) % 2], 2)
        average = _fuse(clip, torch.full_like(total, left / 2 / len(shown)), tower, left // 2)
        row = [("first", arrived[2 * pair], FIRST), ("its weights", weight_colours(w[0]), PALE),
               ("second", arrived[2 * pair + 1], SECOND), ("its weights", weight_colours(w[1]), PALE),
               ("fused", fused[pair], HEAT), ("plain average", average[pair], PALE)]
        for i, (words, pixels, line) in enumerate(row):
            board.text(4 + 94 * i, 148, words, 11)
            board.picture(pixels, 4 + 94 * i, 168, 82, line)
        board.text(4, 270, "cascade: the weight of each input frame in the last, through all sites"
                   f" (white: {2.0**-sites:g}, the mean's)", 11)
        for i, m in enumerate(total[0, :, 1:].unflatten(1, (grid, grid)).numpy()):
            board.picture(weight_colours(m, 2.0**-sites), xs[i], 292, side, PALE)
            board.text(xs[i] + side / 2, 292 + side + 5, f"{m.mean():.2f}", 10, anchor="ma")
        board.text(4, 292 + side + 22, "mean weight of the frame below its map", 10)
        scale = [(0, "0"), (0.5, "the mean's"), (1, "1")]
        board.colour_bar(xs[-1] + side + 16, 300, 72, weight_colours(np.linspace(0, 1, 64)), scale)
        chosen, limits = _highest(extremes(site - 1), bars)
        board.bars(585, 26, WIDTH - 590, [(names[i], float(now[1][i]), float(learned[1][i])) for i in chosen], limits,
                   "logits (tick: as learned)", label=92)
        best = int(now[1].argmax())
        whole = float(total.sum(1).mean()) / (len(shown) >> sites)
        return board.png(), (f"site {site} pair {pair}: mean weight first {w[0].mean():.4f}, second {w[1].mean():.4f}; cascade "
                             f"sums to {whole:.4f}; {names[best]} {float(now[1][best]):.4f}")

    for site in range(sites):
        extremes(site)
    return View(draw, {"frame": (0, len(shown) - 1, 0), "site": (1, sites, 1)})


def _fuse(clip: Tensor, weights: Tensor, tower: TowerConfig, left: int):
    return pictures(fuse_frames(clip[None].cpu().float(), weights, (tower.grid,) * 2, left)[0], tower).numpy()


# ---- offsets ---------------------------------------------------------------------------------------------------------

def offsets_view(model: nn.Module, clip: Tensor, class_names: Sequence[str] = (), bars: int = 8) -> View:
    """Which frame each head reads, set by hand: the frames that reach the clip's prediction, and the prediction, at once.

    clip (T,3,S,S) float. Values: head_0, head_1, ..., an offset each, in every block, and frame, whose receptive field is drawn.
    The offsets act on a copy of the model. Raises ValueError for a model with compression, a shift or modules that mix
    frames: they meet there in other ways too, and the grid of blocks and frames would not hold.
    """
    temporal = model.config.temporal
    kinds = model.config.compression.kind, temporal.shift
    if kinds != ("none", "none") or temporal.modules or model.config.adaptation.kind in MIXING:
        raise ValueError(f"a model with {kinds[0]} compression, {model.config.adaptation.kind} adaptation and {temporal}: "
                         "allowed is one without compression, whose frames meet in relocated heads only")
    model, video, shown = _still(model), clip_for(model, clip), pictures(clip, model.config.tower).numpy()
    blocks, names, frames = [b.attn for b in plain_blocks(model)], _names(model, class_names), len(shown)
    heads, trained = model.config.tower.heads, model.config.temporal.offsets or (0,) * model.config.tower.heads
    settings = {"as trained": trained, "all spatial": (0,) * heads, "signs reversed": tuple(-o for o in trained)}

    @lru_cache(maxsize=4096)
    def run(offsets: tuple[int, ...]) -> Tensor:
        for block in blocks:
            block.offsets = offsets
        with torch.no_grad():
            return model(video)[0].float().cpu()

    chosen, limits = _highest(torch.stack([run(s) for s in settings.values()]), bars)

    def draw(frame: int, **given: int) -> tuple[bytes, str]:
        offsets = tuple(given[f"head_{i}"] for i in range(heads))
        logits, before, reached = run(offsets), run(trained), receptive_field(offsets, frames, len(blocks), frame)
        board = Board(WIDTH, 145 + 44 * max(len(blocks) + 1, len(chosen) // 2))
        board.text(4, 0, "Offsets by head: " + " ".join(map(signed, offsets)), 13)
        side, xs = board.film(shown, 70, 26, 440, 72, {t: HEAT for t in reached[0]})
        top, gap = 26 + side + 62, 44
        board.text(70, top - 30, f"frames that reach frame {frame} after the last block, through {len(blocks)} blocks", 11)
        for depth in range(len(blocks) + 1):  # the last block on top
            y = top + (len(blocks) - depth) * gap
            board.text(62, y + 10, "input" if depth == 0 else f"block {depth}", 10, anchor="rm")
            for t, x in enumerate(xs):
                middle = x + side / 2
                for offset in sorted(set(offsets)) if depth and t in reached[depth] else ():
                    source = xs[frame_read(t, offset, frames)] + side / 2
                    board.line([(middle, y + 20), (source, y + gap)], HEAT if source != middle else "#777777", 1.5)
                board.box(x + side * 0.2, y, side * 0.6, 20, PALE, 1, HEAT if t in reached[depth] else "white")
        board.bars(560, 26, WIDTH - 565, [(names[i], float(logits[i]), float(before[i])) for i in chosen], limits,
                   "logits (tick: as trained)")
        best = int(logits.argmax())
        return board.png(), (f"offsets {' '.join(f'{o:+d}' for o in offsets)}: {len(reached[0])} of {frames} frames reach frame "
                             f"{frame}; {names[best]} {float(logits[best]):.4f}")

    ranges = {"frame": (0, frames - 1, frames // 2)}
    return View(draw, ranges | {f"head_{i}": (1 - frames, frames - 1, o) for i, o in enumerate(trained)}, settings)


def receptive_field(offsets: Sequence[int], frames: int, blocks: int, frame: int) -> list[set[int]]:
    """The frames that reach `frame` of the last block: one set a depth, the input first, {frame} last.

    A residual connection keeps each frame's own, and where t+δ lies outside the clip a head reads its own frame.
    """
    reached = [{frame}]
    for _ in range(blocks):
        reached.append({frame_read(t, offset, frames) for t in reached[-1] for offset in (0, *offsets)})
    return reached[::-1]


# ---- scale -----------------------------------------------------------------------------------------------------------

def scale_view(model: nn.Module, clip: Tensor, class_names: Sequence[str] = (), bars: int = 8) -> View:
    """A dial from the tower without its adapters (s = 0) to the trained s, and half as far beyond: the logits on the way.

    clip (T,3,S,S) float. Value: share, what s is multiplied by, 0 to 1.5. Only s is turned: the head, ln_post and the temporal
    embedding stay as trained. All 16 points are computed at the start. Raises ValueError where no adapter has an s, as merged.
    """
    model, video, names = _still(model), clip_for(model, clip), _names(model, class_names)
    adapters = [module for module in model.modules() if isinstance(module, (LinearAdapter, LoRA))]
    if not adapters:
        raise ValueError("this model has no adapters with an s: allowed is one with linear, GELU or LoRA adapters, not merged")
    points, trained = 16, [a.scale for a in adapters]
    shares = [i / 10 for i in range(points)]
    rows = []
    for share in shares:
        for adapter, scale in zip(adapters, trained, strict=True):
            adapter.scale = share * scale
        with torch.no_grad():
            rows.append(model(video)[0].float().cpu())
    logits, whole = torch.stack(rows), min(range(points), key=lambda i: abs(shares[i] - 1))
    chosen, limits = _highest(logits, bars)

    def draw(share: float) -> tuple[bytes, str]:
        now = min(range(points), key=lambda i: abs(shares[i] - share))
        board, best = Board(WIDTH, 330), int(logits[now].argmax())
        board.text(4, 0, f"s = {shares[now] * trained[0]:.2f}, {shares[now]:.1f} times the trained {trained[0]:g}", 13)
        x, y, width, height = 60, 34, 420, 240

        def at(i: int, value: float) -> tuple[float, float]:
            return x + shares[i] / 1.5 * width, y + (limits[1] - value) / (limits[1] - limits[0] or 1) * height

        board.box(x, y, width, height, PALE)
        for i, words in ((0, "0: without adapters"), (whole, "1: as trained"), (points - 1, "1.5")):
            board.line([at(i, limits[0]), at(i, limits[1])], PALE)
            board.text(at(i, 0)[0], y + height + 6, words, 10, anchor="ma" if i else "la")
        board.text(x, y + height + 24, "s, as a share of the trained one", 10)
        for value in limits:
            board.text(x - 8, at(0, value)[1], f"{value:.1f}".replace("-", "−"), 10, anchor="rm")
        board.text(x - 8, y + height / 2, "logit", 10, anchor="rm")
        for c in sorted(chosen, key=lambda c: c == best):
            colour, wide = (HEAT, 2.5) if c == best else ("#8FA9BF", 1.5)
            board.line([at(i, float(logits[i, c])) for i in range(points)], colour, wide)
        board.line([at(now, limits[0]), at(now, limits[1])], FIRST, 2)
        board.bars(530, y - 8, WIDTH - 535, [(names[c], float(logits[now, c]), float(logits[whole, c])) for c in chosen], limits,
                   "logits (tick: as trained)")
        return board.png(), f"s {shares[now] * trained[0]:.4f}: {names[best]} {float(logits[now, best]):.4f}"

    return View(draw, {"share": (0.0, 1.5, 1.0)})


def _still(model: nn.Module) -> nn.Module:
    """A copy in eval mode, which what happens to the model later does not touch."""
    return deepcopy(model).eval().requires_grad_(False)


def _names(model: nn.Module, class_names: Sequence[str]) -> list[str]:
    """One name a logit."""
    classes = model.config.classes
    if not classes:
        raise ValueError("this model has no head: allowed is one with ModelConfig.classes of 1 or more")
    if class_names and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names: allowed is one a class, {classes}, or none")
    return [*map(plain, class_names)] or [f"class {i}" for i in range(classes)]


def _highest(logits: Tensor, bars: int) -> tuple[list[int], tuple[float, float]]:
    """Of logits (n,classes): the `bars` classes that rise highest in any row, in order, and the least and most of theirs."""
    chosen = logits.max(0).values.topk(min(bars, logits.shape[1])).indices.sort().values.tolist()
    return chosen, (float(logits[:, chosen].min()), float(logits[:, chosen].max()))
