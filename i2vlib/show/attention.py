"""Attention as pictures: each head's map on the frame that it reads, rollout with the share of every frame, animations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from io import BytesIO
from math import ceil, inf
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from i2vlib.config import TowerConfig
from i2vlib.insight.attention import Query, frame_read, grid_side, query_maps, whole_numbers
from i2vlib.show.clips import frames_fused, pictures, signed
from i2vlib.show.names import finished, plain
from i2vlib.show.page import BLUE, COLUMNS, GAP, LINE, VERMILION, Page, grey, lay, name_row, ramp

LEFT, RIGHT = 1.25, 1.0  # inches: labels, colour bar
OTHER, OWN = BLUE, "0.35"  # a head that reads another frame, and one that reads its own: blue and grey
MAP = ramp(VERMILION), Normalize(0, 1)  # colours and scale of every map
LEAST = 240  # pixels: the shorter side of an animation of a bare clip, whose frames may be no larger than an icon


def attention(clip: Tensor, weights: Sequence[Tensor | None], *, layer: int, heads: int | Sequence[int] | None = None,
              query: Query = "class", offsets: Sequence[int] = (), t: int | Sequence[int] | None = None,
              tower: TowerConfig | None = None, names: Sequence[str] = (), title: str | None = None,
              size: float = 1.15) -> Figure:
    """What a query looks at: for each frame t the map of every head, drawn on the frame t+δ that the head reads.

    clip: (T,H,H,3) uint8 or (T,3,H,H) float, what the model sees and so square; weights: of this one clip, (1,T',h,N,N) a
    block, as attention.attention_weights gives them; layer: the block, counted from 0, from the end if negative. heads: one row
    each, all if left out. query: "class", or (row, column) of a patch, which is framed on its own frame. offsets: one int a
    head, () = all spatial. tower: the model's; it says how a float clip was normalised (without one: as CLIP's), and how many
    registers it has, to which attention has no place and is on no map. t: query frames to draw, all if left out. names: one a
    row, "head i" if left out; they tell heads of several models apart, put side by side as one block's. With T' < T behind
    sites of compression each picture is the average of the T/T' frames that are fused there. size: width of a frame, inches.
    One scale for all of a head, over all frames of the clip, drawn or not: from 0 to its most, which stands at its row. Returns
    the figure, closed. Raises ValueError where clip, weights and offsets do not fit.
    """
    block = _block(weights, layer)
    frames, count = block.shape[:2]
    shown = _fused(clip, frames, tower)
    chosen = _numbers(heads, count, "heads")
    times = _numbers(t, frames, "t")
    offsets = whole_numbers(offsets, "offsets")
    if offsets and len(offsets) != count:
        raise ValueError(f"{len(offsets)} offsets: allowed is one a head, {count}, or none")
    if names and len(names) != len(chosen):
        raise ValueError(f"{len(names)} names: allowed is one a row, {len(chosen)}, or none")
    names = [plain(name, 24) for name in names] or [f"head {head}" for head in chosen]
    offsets = offsets or (0,) * count
    maps, each = query_maps(block, query, tower.registers if tower else 0).numpy(), len(clip) // frames  # (T,h,H,W)
    columns, inner = min(len(times), COLUMNS), size - GAP
    step = inner + LINE + 0.05
    page = Page(len(times), columns, (1 + len(chosen)) * step, size, left=LEFT, right=RIGHT,
                title=_title(title, layer, weights, query))
    for row, start in enumerate(range(0, len(times), columns)):
        for column, now in enumerate(times[start:start + columns]):
            axis = page.picture(row, column, len(chosen) * step, inner, shown[now])
            _caption(axis, f"query {_time(now, each)}")
            if query != "class":
                _mark(axis, query, maps.shape[-1], shown.shape[1])
            if column == 0:
                name_row(axis, "frames")
            for r, head in enumerate(chosen, 1):
                read, most = frame_read(now, offsets[head], frames), float(maps[:, head].max()) or 1.0
                axis = page.picture(row, column, (len(chosen) - r) * step, inner, grey(shown[read]))
                _caption(axis, f"reads {_time(read, each)}", OTHER if read != now else OWN)
                laid = lay(axis, maps[now, head] / most, *MAP)
                if query != "class" and read == now:
                    _mark(axis, query, maps.shape[-1], shown.shape[1])
                if column == 0:
                    reads = f"δ = {signed(offsets[head])}" if offsets[head] else "spatial"
                    name_row(axis, f"{names[r - 1]}, {reads}\nmost {_share(most)}", OTHER if offsets[head] else OWN)
    long = min(2.4, step + inner)
    bar = page.scale(laid, "share of the query's attention\n(1: the head's most)", page.tall - step + inner - long, long)
    bar.set_ticks([0, 0.5, 1])
    return page.done()


def head_table(tables: Mapping[str, Tensor], *, offsets: Sequence[Sequence[int]] = (), label: str = "", title: str = "",
               first: int = 0, size: float = 0.5) -> Figure:
    """A number from 0 to 1 for each head of each block, in tables side by side; columns of relocated heads are framed in blue.

    tables: {name: (blocks,h)}; offsets: for each table one int a head, () = all spatial; a relocated head's stands below its
    number. first: the block of the first row, counted from 0. size: width of a cell, inches. Returns the figure, closed. Raises
    ValueError for other tables and where offsets do not fit them.
    """
    if not tables or any(t.ndim != 2 or not t.numel() for t in tables.values()):
        shapes = {name: tuple(t.shape) for name, t in tables.items()}
        raise ValueError(f"tables {shapes}: allowed is one or more, each (blocks, h)")
    tables = {name: t.detach().cpu().float() for name, t in tables.items()}
    offsets = [whole_numbers(o, "offsets") for o in offsets] or [()] * len(tables)
    if len(offsets) != len(tables) or any(o and len(o) != t.shape[1] for o, t in zip(offsets, tables.values(), strict=False)):
        raise ValueError(f"offsets {offsets}: allowed is, for each of {len(tables)} tables, () or one int a head")
    blocks, heads = max(len(t) for t in tables.values()), sum(t.shape[1] for t in tables.values())
    figure, axes = plt.subplots(1, len(tables), figsize=(size * heads + 2.2, 0.36 * blocks + 1.3), squeeze=False, sharey=True,
                                layout="constrained", width_ratios=[t.shape[1] for t in tables.values()])
    for axis, (name, table), moved in zip(axes[0], tables.items(), offsets, strict=True):
        shown = axis.imshow(table.numpy(), cmap="Oranges", norm=Normalize(0, 1), aspect="auto")
        for (block, head), value in np.ndenumerate(table.numpy()):
            axis.text(head, block, _share(value), ha="center", va="center", color="white" if value > 0.6 else "black", fontsize=9)
        for head in np.flatnonzero(moved):
            axis.add_patch(Rectangle((head - 0.46, -0.46), 0.92, len(table) - 0.08, fill=False, ec=OTHER, lw=2.2))
        reads = [f"{head}\n{signed(offset)}" if offset else str(head) for head, offset in
                 enumerate(moved or (0,) * table.shape[1])]
        axis.set(title=plain(name), xticks=range(len(reads)), xticklabels=reads, yticks=range(len(table)))
        axis.set_yticklabels([f"block {first + block + 1}" for block in range(len(table))])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, label=plain(label, 80, 3), pad=0.01)
    bar.outline.set_visible(False)
    figure.supxlabel("head, and its offset δ" if any(map(any, offsets)) else "head", fontsize=10)  # one, at one height for all
    figure.suptitle(plain(title, 160, 4), x=0.01, ha="left", fontsize=11)
    return finished(figure)


def rollout_map(clip: Tensor, shares: Tensor, *, tower: TowerConfig | None = None, title: str = "", size: float = 1.15) -> Figure:
    """Where rollout leads back to: the frames with the share of each patch, and under each the total of the frame as a bar.

    clip as in `attention`; shares (T,N) or (1,T,N), as attention.rollout gives them for this clip. A bar has the share of the
    patches below and of the class token above; all bars sum to 1, less the share of the tower's registers, and the dashed line
    is the same share for every frame. A bar's height tells of the offsets and of the sites' weights, not of what attention
    looks at (see rollout); for which frame matters ask evidence.occlude_frames. Returns the figure, closed. Raises ValueError
    where the two do not fit.
    """
    shares = (shares[0] if shares.ndim == 3 and len(shares) == 1 else shares).detach().cpu().float()
    if shares.ndim != 2 or len(shares) != len(clip):
        raise ValueError(f"clip of {len(clip)} frames with shares {tuple(shares.shape)}: allowed is (T, N) or (1, T, N)")
    side, shown = grid_side(shares.shape[1], tower.registers if tower else 0), _fused(clip, len(clip), tower)
    places, own = shares[:, 1:1 + side**2], shares[:, 0].numpy()
    maps, patches = places.unflatten(1, (side, side)).numpy(), places.sum(1).numpy()
    most = float(maps.max()) or 1.0
    columns, tall, top = min(len(shown), COLUMNS), 0.9, 1.28 * max(float((own + patches).max()), 1 / len(shown))
    page = Page(len(shown), columns, LINE + tall + size, size, left=LEFT, right=RIGHT, title=title,
                note="share of the frame: patches (full colour) and its class token (pale); dashed: every frame alike")
    for row, start in enumerate(range(0, len(shown), columns)):
        times = np.arange(start, min(start + columns, len(shown)))
        for column, now in enumerate(times):
            laid = lay(page.picture(row, column, LINE + tall + GAP, size - GAP, grey(shown[now])), maps[now] / most, *MAP)
        axis = page.bars(row, times, LINE, tall, "share of\nthe frame")
        axis.bar(times, patches[times], width=0.6, color=VERMILION)
        axis.bar(times, own[times], width=0.6, bottom=patches[times], color=VERMILION, alpha=0.4)
        axis.axhline(1 / len(shown), color="black", lw=0.8, ls="--")
        for now in times:
            total = own[now] + patches[now]
            axis.annotate(_share(total), (now, total), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        axis.set_ylim(0, top)
        axis.locator_params(axis="y", nbins=3)
    page.scale(laid, f"rollout: share of the patch\n(1: the most, {_share(most)})", LINE, tall + size).set_ticks([0, 0.5, 1])
    return page.done()


def save_animation(frames: Tensor | Sequence[Figure], path: str | Path, *, fps: float = 3, dpi: int = 110) -> Path:
    """A clip, or figures of one size, as a moving picture: .gif, which loops, or .mp4 (H.264, as browsers play it).

    frames: one clip as `film` takes it, enlarged in whole steps where it is small; or figures, such as [attention(..., t=t) for t
    in range(T)]. fps: frames a second; in a .gif each frame stands for a whole number of hundredths of a second, the nearest to
    100/fps, so that 3 plays at 100/33 = 3.03, and more than 50 are refused: browsers slow them down. dpi: of figures. Returns the
    path. Raises ValueError for another suffix or speed, for nothing to draw and for figures of different sizes.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise ValueError(f"{path}: allowed is a name that ends in .gif or .mp4")
    if not 0 < fps < inf or not len(frames):
        raise ValueError(f"{len(frames)} frames at {fps} a second: allowed is one or more, and a speed above 0")
    if path.suffix.lower() == ".gif" and fps > 50:
        raise ValueError(f"fps = {fps} for a .gif: allowed is up to 50; an .mp4 may be faster")
    if isinstance(frames, Tensor):
        arrays = [np.kron(f, np.ones((max(1, ceil(LEAST / min(f.shape[:2]))),) * 2 + (1,), np.uint8))
                  for f in pictures(frames).numpy()]
    else:
        arrays = [_pixels(figure, dpi) for figure in frames]
    if len(sizes := {a.shape for a in arrays}) > 1:
        raise ValueError(f"figures of {len(sizes)} sizes, {sorted(s[:2] for s in sizes)}: allowed is one size")
    (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(path, arrays, fps)
    return path


def _write_gif(path: Path, arrays: Sequence[np.ndarray], fps: float) -> None:
    images = [Image.fromarray(a).quantize(256, dither=Image.Dither.NONE) for a in arrays]
    images[0].save(path, save_all=True, append_images=images[1:], duration=10 * round(100 / fps), loop=0, disposal=2)


def _write_mp4(path: Path, arrays: Sequence[np.ndarray], fps: float) -> None:
    """Not write_clip: its lossless RGB plays in no browser."""
    arrays = [np.pad(a, ((0, a.shape[0] % 2), (0, a.shape[1] % 2), (0, 0)), mode="edge") for a in arrays]  # H.264: even sides
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "16", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *arrays[0].shape[:2], "yuv420p"
        stream.codec_context.thread_count = 1
        for array in arrays:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
        container.mux(stream.encode())


def _pixels(figure: Figure, dpi: int) -> np.ndarray:
    """A figure as uint8 (H,W,3)."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _block(weights: Sequence[Tensor | None], layer: int) -> Tensor:
    """(T,h,N,N) float32 of one block and one clip."""
    if not -len(weights) <= layer < len(weights) or weights[layer] is None:
        there = ", ".join(str(i) for i, w in enumerate(weights) if w is not None)
        raise ValueError(f"layer = {layer}: allowed is a block that has weights: {there or 'none has'}")
    block = weights[layer]
    if block.ndim != 5 or len(block) != 1:
        raise ValueError(f"weights of block {layer} {tuple(block.shape)}: allowed is one clip, (1, T, h, N, N)")
    return block[0].detach().cpu().float()


def _fused(clip: Tensor, frames: int, tower: TowerConfig | None) -> np.ndarray:
    """(frames,S,S,3) uint8: the clip, or the averages of its groups of frames."""
    shown = pictures(clip, tower).cpu().numpy()
    if shown.shape[1] != shown.shape[2]:
        raise ValueError(f"frames of {shown.shape[1]}x{shown.shape[2]}: allowed is the square that the model sees")
    if not frames or len(shown) % frames:
        raise ValueError(f"clip of {len(shown)} frames with weights for {frames}: allowed is as many, or a divisor of them")
    return frames_fused(shown, frames)


def _numbers(chosen: int | Sequence[int] | None, count: int, name: str) -> list[int]:
    if chosen is None:
        return list(range(count))
    numbers = list(whole_numbers([chosen] if np.ndim(chosen) == 0 else chosen, name))
    if not numbers or any(not 0 <= number < count for number in numbers):
        raise ValueError(f"{name} = {chosen}: allowed is 0 to {count - 1}, one or more")
    return numbers


def _mark(axis: Axes, query: tuple[int, int], grid: int, side: int) -> None:
    """A frame around the query's patch, dark in light: seen on every ground."""
    patch = side / grid
    for colour, width in (("white", 3.0), ("black", 1.4)):
        axis.add_patch(Rectangle((query[1] * patch - 0.5, query[0] * patch - 0.5), patch, patch, fill=False, ec=colour, lw=width))


def _caption(axis: Axes, words: str, edge: str = "black") -> None:
    """Words above a picture; in another colour than black with a frame around it."""
    axis.spines[:].set(visible=edge != "black", color=edge, linewidth=1.6 if edge == OTHER else 0.6)
    axis.set_title(words, fontsize=8.5, loc="center", pad=2.5, color=edge)


def _time(t: int, each: int) -> str:
    return f"t = {t}" if each == 1 else f"t = {t * each}–{(t + 1) * each - 1}"


def _share(value: float) -> str:
    """.25, .048, and two digits that say something of a share however small."""
    if 0 < value < 0.00995:
        return np.format_float_positional(value, 2, fractional=False).lstrip("0")
    return f"{value:.3f}".lstrip("0") if value < 0.1 else f"{value:.2f}".removeprefix("0")


def _title(title: str | None, layer: int, weights: Sequence, query: Query) -> str:
    if title is not None:
        return title
    asks = "the class token asks" if query == "class" else f"the patch in row {query[0]}, column {query[1]} asks"
    return f"Block {layer % len(weights) + 1} of {len(weights)}: {asks}"
