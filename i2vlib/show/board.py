"""A board to draw on in a few milliseconds: frames, heat on frames, weight maps, bars. What the explorers' pictures are made of.

Matplotlib takes 100 ms and more for a figure of this kind, and a slider should answer at once.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from i2vlib.show.interpolation import WEIGHT_MAP
from i2vlib.show.page import BLUE, VERMILION, grey

SHARP = 2  # pixels drawn for each that is asked for: screens have two
HEAT, FIRST, SECOND, INK, PALE = VERMILION, BLUE, "#009E73", "#222222", "#C8C8C8"  # of Okabe and Ito but the greys
STRENGTH = 0.85  # opacity of the most heat


class Board:
    """A white page; x, y, sizes in points of the screen, y downwards."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width * SHARP, height * SHARP), "white")
        self.pen = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, words: str, size: int = 11, colour: str = INK, anchor: str = "la") -> None:
        """anchor: as Pillow's; the first letter l, m or r, the second a (top), m (middle) or s (baseline)."""
        self.pen.text((x * SHARP, y * SHARP), words, colour, _font(size * SHARP), anchor)

    def picture(self, pixels: np.ndarray, x: float, y: float, side: float, outline: str = "") -> None:
        """(H,W,3) uint8 as a square, its pixels kept sharp; outline: a colour for a frame around it."""
        shown = Image.fromarray(pixels).resize((round(side * SHARP),) * 2, Image.Resampling.NEAREST)
        self.image.paste(shown, (round(x * SHARP), round(y * SHARP)))
        if outline:
            self.box(x - 2, y - 2, side + 4, side + 4, outline, 2)

    def box(self, x: float, y: float, width: float, height: float, outline: str = "", line: int = 1, fill: str = "") -> None:
        corners = [x * SHARP, y * SHARP, (x + width) * SHARP - 1, (y + height) * SHARP - 1]
        self.pen.rectangle(corners, fill or None, outline or None, line * SHARP)

    def line(self, points: Sequence[tuple[float, float]], colour: str = INK, width: float = 1) -> None:
        self.pen.line([(x * SHARP, y * SHARP) for x, y in points], colour, round(width * SHARP), joint="curve")

    def patch(self, x: float, y: float, side: float, grid: int, place: int, colour: str) -> None:
        """Mark patch number `place` of a picture that lies at x, y."""
        row, column = divmod(place, grid)
        self.box(x + column * side / grid - 1, y + row * side / grid - 1, side / grid + 2, side / grid + 2, "white", 3)
        self.box(x + column * side / grid - 1, y + row * side / grid - 1, side / grid + 2, side / grid + 2, colour, 2)

    def film(self, frames: np.ndarray, x: float, y: float, width: float, most: float = 72,
             outlines: dict[int, str] | None = None, labels: str = "t = {}") -> tuple[float, list[float]]:
        """Frames in a row with time below; side and the x of each are returned. outlines: {frame: colour}."""
        step = min(most + 8, width / len(frames))
        side, left = step - min(8, step / 6), [x + i * step for i in range(len(frames))]
        for t, (pixels, at) in enumerate(zip(frames, left, strict=True)):
            self.picture(pixels, at, y, side, (outlines or {}).get(t, ""))
            if labels:
                self.text(at + side / 2, y + side + 5, labels.format(t) if side > 34 else str(t), 10, anchor="ma")
        return side, left

    def bars(self, x: float, y: float, width: float, rows: Sequence[tuple[str, float, float | None]],
             limits: tuple[float, float], title: str = "", label: float = 96) -> float:
        """Horizontal bars around 0, the longest in another colour, beside each a tick where it stood; the y below them.

        rows: (name, value, where it stood or None); limits: what both ends of the room stand for.
        """
        low, high = min(limits[0], 0.0), max(limits[1], 0.0)
        room, top = width - label - 34, max(value for _, value, _ in rows)
        if title:
            self.text(x, y, title, 11)
            y += 20

        def place(value: float) -> float:
            return x + label + (min(max(value, low), high) - low) / ((high - low) or 1) * room

        for name, value, before in rows:
            self.text(x + label - 8, y + 7, name if len(name) < 17 else name[:15] + "…", 10, anchor="rm")
            ends = sorted((place(0.0), place(value)))
            self.box(ends[0], y, max(ends[1] - ends[0], 1), 14, fill=HEAT if value == top else FIRST)
            if before is not None:
                self.line([(place(before), y - 2), (place(before), y + 16)], INK, 1.5)
            self.text(x + width, y + 7, f"{value:.1f}".replace("-", "−"), 10, anchor="rm")
            y += 20
        self.line([(place(0.0), y - 20 * len(rows) - 3), (place(0.0), y - 3)], PALE)
        return y

    def colour_bar(self, x: float, y: float, height: float, colours: np.ndarray, labels: Sequence[tuple[float, str]],
                   title: str = "") -> None:
        """A scale, (n,3) uint8 from bottom to top; labels: (share of the height, words)."""
        self.image.paste(Image.fromarray(colours[::-1, None]).resize((12 * SHARP, round(height * SHARP))),
                         (round(x * SHARP), round(y * SHARP)))
        for share, words in labels:
            self.text(x + 17, y + (1 - share) * height, words, 10, anchor="lm")
        self.text(x, y - 16, title, 10)

    def png(self) -> bytes:
        file = io.BytesIO()
        self.image.save(file, "PNG", compress_level=1)  # a fifth of the time of 6, and the file stays on this machine
        return file.getvalue()


def compact(png: bytes) -> bytes:
    """The same picture in 256 colours: a third of the bytes and four times the time, for pictures that are kept."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along: it knows δ, → and −."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def rgb(colour: str) -> np.ndarray:
    """"#D55E00" as three numbers 0 to 255."""
    return np.array(ImageColor.getrgb(colour), float)


def heat(frame: np.ndarray, values: np.ndarray, most: float) -> np.ndarray:
    """A frame (S,S,3) uint8 in pale grey with heat on its patches: values (g,g), `most` of them as strong as heat gets."""
    scale = frame.shape[0] // values.shape[0]
    share = np.clip(values / (most or 1), 0, 1).repeat(scale, 0).repeat(scale, 1)[..., None] * STRENGTH
    return (grey(frame) * (1 - share) + rgb(HEAT) * share).round().astype(np.uint8)


def heat_scale() -> np.ndarray:
    """The colours of `heat` on a middle grey, none to most: (64,3) uint8."""
    share = np.linspace(0, STRENGTH, 64)[:, None]
    return (180 * (1 - share) + rgb(HEAT) * share).round().astype(np.uint8)


def weight_colours(weights: np.ndarray, neutral: float = 0.5) -> np.ndarray:
    """Weights 0 to 1 in the colours of show.interpolation: white at `neutral`, purple above, orange below. (..., 3) uint8."""
    share = np.where(weights < neutral, 0.5 * weights / neutral, 0.5 + 0.5 * (weights - neutral) / (1 - neutral))
    return weight_table()[np.clip(share * 256, 0, 255).astype(int)]


@lru_cache(maxsize=1)
def weight_table() -> np.ndarray:
    """The colours of weights from 0 to 1: (256,3) uint8."""
    return (matplotlib.colormaps[WEIGHT_MAP](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
