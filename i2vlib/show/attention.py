"""Attention as pictures: each head's map on the frame that it reads, rollout with the share of every frame, animations."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from math import ceil
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from i2vlib.attention import Query, frame_read, grid_side, query_maps
from i2vlib.show.clips import pictures

COLUMNS = 8  # frames in a row of the page: 16 and 32 take 2 and 4 rows and stay legible
LEFT, RIGHT, TOP, LINE, GAP = 1.25, 1.0, 0.34, 0.22, 0.08  # inches: labels, colour bar, title, a line, between pictures
OTHER, OWN = "#0072B2", "0.35"  # a head that reads another frame, and one that reads its own: blue and grey
COLOUR = "#D55E00"  # vermilion of Okabe and Ito; with blue told apart by all colour-blind eyes
RAMP = ListedColormap(np.column_stack([np.tile(to_rgb(COLOUR), (128, 1)), np.linspace(0, 0.92, 128)]))  # from transparent
LEAST = 240  # pixels: the shorter side of an animation of a bare clip, whose frames may be no larger than an icon


def attention(clip: Tensor, weights: Sequence[Tensor | None], *, layer: int, heads: int | Sequence[int] | None = None,
              query: Query = "class", offsets: Sequence[int] = (), t: int | Sequence[int] | None = None, title: str | None = None,
              size: float = 1.15) -> Figure:
    """What a query looks at: for each frame t the map of every head, drawn on the frame t+δ that the head reads.

    clip: (T,H,H,3) uint8 or (T,3,H,H) float, what the model sees and so square; weights: of this one clip, (1,T',h,N,N) a block,
    as attention.attention_weights gives them; layer: the block, counted from 0, from the end if negative. heads: one row each,
    all if left out. query: "class", or (row, column) of a patch, which is framed on its own frame. offsets: one int a head, () =
    all spatial. t: query frames to draw, all if left out. With T' < T behind sites of compression each picture is the average of
    the T/T' frames that are fused there. size: width of a frame, inches. One scale for all of a head, over all frames of the
    clip, drawn or not: from 0 to its most, which stands at its row. Returns the figure, closed. Raises ValueError where clip,
    weights and offsets do not fit.
    """
    block = _block(weights, layer)
    frames, count = block.shape[:2]
    shown = _fused(clip, frames)
    chosen = _numbers(heads, count, "heads")
    times = _numbers(t, frames, "t")
    if offsets and len(offsets) != count:
        raise ValueError(f"{len(offsets)} offsets: allowed is one a head, {count}, or none")
    offsets = tuple(offsets) or (0,) * count
    maps, each = query_maps(block, query).numpy(), len(clip) // frames  # (T,h,H,W)
    columns, step = min(len(times), COLUMNS), size - GAP + LINE + 0.05
    page = _Page(ceil(len(times) / columns), columns, (1 + len(chosen)) * step, size, _title(title, layer, weights, query))
    for row, start in enumerate(range(0, len(times), columns)):
        for column, now in enumerate(times[start:start + columns]):
            axis = page.picture(row, column, len(chosen) * step, shown[now], f"query {_time(now, each)}")
            if query != "class":
                _mark(axis, query, maps.shape[-1], shown.shape[1])
            if column == 0:
                _label(axis, "frames", "black")
            for r, head in enumerate(chosen, 1):
                read, most = frame_read(now, offsets[head], frames), float(maps[:, head].max()) or 1.0
                axis = page.picture(row, column, (len(chosen) - r) * step, _grey(shown[read]), f"reads {_time(read, each)}",
                                    OTHER if read != now else OWN)
                _lay(axis, maps[now, head] / most, shown.shape[1])
                if query != "class" and read == now:
                    _mark(axis, query, maps.shape[-1], shown.shape[1])
                if column == 0:
                    _label(axis, f"head {head}, {_offset(offsets[head])}\nmost {_share(most)}", OTHER if offsets[head] else OWN)
    page.bar("share of the query's attention\n(1: the head's most)", min(2.4, 2 * step - LINE - 0.05), LINE + 0.05)
    return page.done()


def rollout_map(clip: Tensor, shares: Tensor, *, title: str = "", size: float = 1.15) -> Figure:
    """Where rollout leads back to: the frames with the share of each patch, and under each the total of the frame as a bar.

    clip as in `attention`; shares (T,N) or (1,T,N), as attention.rollout gives them for this clip. A bar has the share of the
    patches below and of the class token above; all bars sum to 1, and the dashed line is the same share for every frame. A bar's
    height tells of the offsets and of the sites' weights, not of what attention looks at (see rollout); for which frame matters
    ask evidence.occlude_frames. Returns the figure, closed. Raises ValueError where the two do not fit.
    """
    shares = (shares[0] if shares.ndim == 3 and len(shares) == 1 else shares).detach().cpu().float()
    if shares.ndim != 2 or len(shares) != len(clip):
        raise ValueError(f"clip of {len(clip)} frames with shares {tuple(shares.shape)}: allowed is (T, N) or (1, T, N)")
    side, shown, tall = grid_side(shares.shape[1]), _fused(clip, len(clip)), 0.9
    maps, own, patches = shares[:, 1:].unflatten(1, (side, side)).numpy(), shares[:, 0].numpy(), shares[:, 1:].sum(1).numpy()
    most = float(maps.max()) or 1.0
    columns, top = min(len(shown), COLUMNS), 1.28 * max(float((own + patches).max()), 1 / len(shown))
    page = _Page(ceil(len(shown) / columns), columns, size + LINE + tall + GAP, size, title,
                 note="share of the frame: patches (full colour) and its class token (pale); dashed: every frame alike")
    for row, start in enumerate(range(0, len(shown), columns)):
        times = np.arange(start, min(start + columns, len(shown)))
        for column, now in enumerate(times):
            _lay(page.picture(row, column, LINE + tall + GAP, _grey(shown[now])), maps[now] / most, shown.shape[1])
        axis = page.axes(row, 0, LINE, tall, across=len(times))
        axis.bar(times, patches[times], width=0.6, color=COLOUR)
        axis.bar(times, own[times], width=0.6, bottom=patches[times], color=COLOUR, alpha=0.4)
        axis.axhline(1 / len(shown), color="black", lw=0.8, ls="--")
        for now in times:
            total = own[now] + patches[now]
            axis.annotate(_share(total), (now, total), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        axis.set(xlim=(times[0] - 0.5, times[-1] + 0.5), ylim=(0, top), xticks=times, xticklabels=[f"t = {x}" for x in times])
        axis.locator_params(axis="y", nbins=3)
        axis.tick_params(length=0, labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylabel("share of\nthe frame", fontsize=9)
        axis.yaxis.set_label_coords(-0.55 / (size * len(times)), 0.5)
    page.bar(f"rollout: share of the patch\n(1: the most, {_share(most)})", size + tall, GAP)
    return page.done()


def save_animation(frames: Tensor | Sequence[Figure], path: str | Path, *, fps: float = 3, dpi: int = 110) -> Path:
    """A clip, or figures of one size, as a moving picture: .gif, which loops, or .mp4 (H.264, as browsers play it).

    frames: one clip as `film` takes it, enlarged in whole steps where it is small; or figures, such as [attention(..., t=t) for t
    in range(T)]. fps: frames a second; dpi: of figures. Returns the path. Raises ValueError for another suffix, for nothing to
    draw and for figures of different sizes.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise ValueError(f"{path}: allowed is a name that ends in .gif or .mp4")
    if fps <= 0 or not len(frames):
        raise ValueError(f"{len(frames)} frames at {fps} a second: allowed is one or more, and a speed above 0")
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
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, disposal=2)


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


class _Page:
    """Rows of pictures at exact places in inches, `tall` for each row; a layout engine would give bars and pictures different
    columns. The title stands above, a note below, the colour bar at the right."""

    def __init__(self, rows: int, columns: int, tall: float, size: float, title: str, note: str = ""):
        foot, head = 0.3 if note else 0.05, TOP if title else 0.08
        self.size, self.tall, self.columns, self.rows, self.foot = size, tall, columns, rows, foot
        self.wide = max(LEFT + columns * size + RIGHT, 0.3 + 0.088 * len(title), 0.3 + 0.066 * len(note))
        self.high = foot + rows * tall + (rows - 1) * LINE + head
        fixed = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)  # "none" lasts until the first savefig
        self.figure = plt.figure(figsize=(self.wide, self.high), layout=fixed)
        self.figure.suptitle(title, x=0.1 / self.wide, y=1 - 0.07 / self.high, ha="left", va="top", fontsize=11)
        self.figure.text(0.1 / self.wide, 0.07 / self.high, note, fontsize=8.5, color="0.3")

    def axes(self, row: int, column: float, up: float, height: float, across: int = 1, width: float | None = None) -> Axes:
        """Axes `up` inches above the row's foot, over `across` columns or `width` inches wide."""
        foot = self.foot + (self.rows - 1 - row) * (self.tall + LINE) + up
        return self.figure.add_axes(((LEFT + column * self.size) / self.wide, foot / self.high,
                                     (width or across * self.size) / self.wide, height / self.high))

    def picture(self, row: int, column: int, up: float, picture: np.ndarray, caption: str = "", edge: str = "") -> Axes:
        inner = self.size - GAP
        axis = self.axes(row, column + GAP / 2 / self.size, up, inner, width=inner)
        axis.imshow(picture)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(visible=bool(edge), color=edge or "black", linewidth=1.6 if edge == OTHER else 0.6)
        axis.set_title(caption, fontsize=8.5, loc="center", pad=2.5, color=edge or "black")
        return axis

    def bar(self, label: str, height: float, down: float) -> None:
        """The scale of all maps, `down` inches below the top of the first row, on the grey that they lie on."""
        axis = self.axes(0, self.columns + 0.08, self.tall - down - height, height, width=0.13)
        bar = self.figure.colorbar(plt.cm.ScalarMappable(Normalize(0, 1), RAMP), cax=axis, ticks=[0, 0.5, 1])
        axis.set_facecolor("0.75")
        bar.outline.set_visible(False)
        axis.tick_params(length=0, labelsize=8)
        bar.set_label(label, fontsize=8.5)

    def done(self) -> Figure:
        plt.close(self.figure)
        return self.figure


def _block(weights: Sequence[Tensor | None], layer: int) -> Tensor:
    """(T,h,N,N) float32 of one block and one clip."""
    if not -len(weights) <= layer < len(weights) or weights[layer] is None:
        there = ", ".join(str(i) for i, w in enumerate(weights) if w is not None)
        raise ValueError(f"layer = {layer}: allowed is a block that has weights: {there or 'none has'}")
    block = weights[layer]
    if block.ndim != 5 or len(block) != 1:
        raise ValueError(f"weights of block {layer} {tuple(block.shape)}: allowed is one clip, (1, T, h, N, N)")
    return block[0].detach().cpu().float()


def _fused(clip: Tensor, frames: int) -> np.ndarray:
    """(frames,S,S,3) uint8: the clip, or the averages of its groups of frames."""
    shown = pictures(clip).cpu().numpy()
    if shown.shape[1] != shown.shape[2]:
        raise ValueError(f"frames of {shown.shape[1]}x{shown.shape[2]}: allowed is the square that the model sees")
    if not frames or len(shown) % frames:
        raise ValueError(f"clip of {len(shown)} frames with weights for {frames}: allowed is as many, or a divisor of them")
    if len(shown) == frames:
        return shown
    return shown.reshape(frames, -1, *shown.shape[1:]).mean(1).round().astype(np.uint8)


def _numbers(chosen: int | Sequence[int] | None, count: int, name: str) -> list[int]:
    numbers = list(range(count)) if chosen is None else [chosen] if isinstance(chosen, int) else list(chosen)
    if not numbers or any(not 0 <= number < count for number in numbers):
        raise ValueError(f"{name} = {chosen}: allowed is 0 to {count - 1}, one or more")
    return numbers


def _grey(picture: np.ndarray) -> np.ndarray:
    """A frame without colour, a little paler, so that the map's colour is the only one."""
    luma = picture @ np.array([0.299, 0.587, 0.114])
    return np.repeat((110 + 0.55 * luma)[..., None], 3, axis=2).astype(np.uint8)


def _lay(axis: Axes, values: np.ndarray, side: int) -> None:
    axis.imshow(values, cmap=RAMP, norm=Normalize(0, 1), extent=(-0.5, side - 0.5, side - 0.5, -0.5))


def _mark(axis: Axes, query: tuple[int, int], grid: int, side: int) -> None:
    """A frame around the query's patch, dark in light: seen on every ground."""
    patch = side / grid
    for colour, width in (("white", 3.0), ("black", 1.4)):
        axis.add_patch(Rectangle((query[1] * patch - 0.5, query[0] * patch - 0.5), patch, patch, fill=False, ec=colour, lw=width))


def _label(axis: Axes, text: str, colour: str) -> None:
    axis.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8.5, color=colour)


def _time(t: int, each: int) -> str:
    return f"t = {t}" if each == 1 else f"t = {t * each}–{(t + 1) * each - 1}"


def _offset(offset: int) -> str:
    return f"δ = {offset:+d}".replace("-", "−") if offset else "spatial"


def _share(value: float) -> str:
    return f"{value:.3f}".lstrip("0") if value < 0.1 else f"{value:.2f}".removeprefix("0")


def _title(title: str | None, layer: int, weights: Sequence, query: Query) -> str:
    if title is not None:
        return title
    asks = "the class token asks" if query == "class" else f"the patch in row {query[0]}, column {query[1]} asks"
    return f"Block {layer % len(weights) + 1} of {len(weights)}: {asks}"
