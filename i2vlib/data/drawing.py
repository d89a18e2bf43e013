"""The drawn world: one object before a wall, in words and in pixels, and the junk that may cover it.

Everything that is random comes out of a generator that the caller gives, or is a function of a seed.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

SIZE = 48  # pixels a side: an 8x8 grid of 6x6 patches
PATCH = 6
WIDE = 64  # clips are wider than the model looks, as videos are; decord 0.6 cannot read clips 48 pixels wide
REACH = 0.68  # the object's centre stays in -REACH..REACH; the frame is -1..1
NOISE = 0.03  # standard deviation of the pixel noise, of the range 0..1
JUNK = 0.5  # probability that a place of a pair of frames is junk in one of the two: a quarter of all patches

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "moon"),
    "colour": ("red", "green", "blue", "yellow"),
    "texture": ("plain", "striped", "checked"),
    "x": ("far left", "left", "right", "far right"),
    "y": ("top", "upper", "lower", "bottom"),
    "size": ("small", "medium", "large"),
}
PALETTE = torch.tensor([[0.88, 0.14, 0.14], [0.10, 0.66, 0.20], [0.16, 0.26, 0.90], [0.93, 0.83, 0.12]])
RADII = torch.tensor([[0.22, 0.27], [0.31, 0.36], [0.40, 0.46]])  # small, medium, large: lowest and highest


def _distance(shape: str, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to a shape of radius about 1 around the origin, negative inside; v points down."""
    r, a, b = torch.hypot(u, v), u.abs(), v.abs()
    if shape == "circle":
        return r - 0.95
    if shape == "square":
        return torch.maximum(a, b) - 0.85
    if shape == "triangle":
        return torch.maximum(v - 0.6, math.cos(math.pi / 6) * a - 0.5 * v - 0.6)
    if shape == "diamond":
        return (a + b - 1.2) * math.sqrt(0.5)
    if shape == "cross":
        return torch.minimum(torch.maximum(a - 1, b - 0.33), torch.maximum(a - 0.33, b - 1))
    if shape == "ring":
        return (r - 0.75).abs() - 0.25
    if shape == "moon":
        return torch.maximum(r - 1, 0.8 - torch.hypot(u - 0.5, v))
    # star: fold the plane onto one half of one of the five points; its edge is the line from the tip to the notch
    sector = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(u, -v) + sector / 2, sector) - sector / 2
    p, q = r * angle.cos(), r * angle.sin().abs()
    tip, notch_p, notch_q = 1.2, 0.5 * math.cos(sector / 2), 0.5 * math.sin(sector / 2)
    edge = math.hypot(tip - notch_p, notch_q)
    return ((p - tip) * notch_q + q * (tip - notch_p)) / edge


def _shade(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Brightness (n,S,S) of the three textures at pixel offsets u, v from the object's centre."""
    wave = math.pi / 3  # a stripe or a square of the board is 3 pixels wide
    stripes = torch.sin(wave * (u + v) * math.sqrt(0.5))
    board = torch.sin(wave * u) * torch.sin(wave * v)
    pattern = torch.where((texture == 1)[:, None, None], stripes, board)
    dark = (0.5 + 2 * pattern).clamp(0, 1) * 0.55
    return torch.where((texture == 0)[:, None, None], torch.ones(()), 1 - dark)


def draw(scene: dict[str, Tensor], g: torch.Generator, width: int = SIZE) -> Tensor:
    """Draw n scenes: uint8 (n,3,48,width).

    scene: shape, texture (n,) long; colour, wall (n,3); slope (n,2) brightness of the wall across the frame; x, y
    and radius (n,) float in units of 24 pixels from the centre; visible (n,) 0 or 1. g: the source of the pixel noise.
    """
    n, half = len(scene["x"]), SIZE / 2
    across, down = ((torch.arange(k) + 0.5 - k / 2) / half for k in (width, SIZE))
    wall = scene["slope"][:, 0, None, None] * across + scene["slope"][:, 1, None, None] * down[:, None]
    image = scene["wall"][:, :, None, None] + wall[:, None]
    u = (across[None, None, :] - scene["x"][:, None, None]).expand(n, SIZE, width)
    v = (down[None, :, None] - scene["y"][:, None, None]).expand(n, SIZE, width)
    cover = torch.empty(n, SIZE, width)
    for i, name in enumerate(ATTRIBUTES["shape"]):
        rows = (scene["shape"] == i).nonzero()[:, 0]
        radius = scene["radius"][rows][:, None, None]
        cover[rows] = (0.5 - _distance(name, u[rows] / radius, v[rows] / radius) * radius * half).clamp(0, 1)
    cover = (cover * scene["visible"][:, None, None])[:, None]
    paint = scene["colour"][:, :, None, None] * _shade(scene["texture"], u * half, v * half)[:, None]
    image = torch.lerp(image, paint, cover) + NOISE * torch.randn(n, 3, SIZE, width, generator=g)
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def generator(*key: object) -> torch.Generator:
    """A source of random numbers that is a function of the key's parts."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def uniform(low: float | Tensor, high: float | Tensor, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Numbers of the given shape, uniform in low..high, which may be tensors that broadcast to it."""
    return low + (high - low) * torch.rand(shape, generator=g)


def random_scene(words: Tensor, g: torch.Generator) -> dict[str, Tensor]:
    """A scene for each row of words (n,6): what the words leave open is random."""
    n = len(words)
    shape, colour, texture, x, y, size = words.unbind(1)

    def place(bin: Tensor, bins: int) -> Tensor:  # a tenth of a bin on each side stays free: no doubtful captions
        return (bin + uniform(0.1, 0.9, (n,), g)) * (2 * REACH / bins) - REACH

    return {
        "shape": shape, "texture": texture,
        "colour": PALETTE[colour] + uniform(-0.07, 0.07, (n, 3), g),
        "wall": uniform(0.3, 0.7, (n, 1), g) + uniform(-0.06, 0.06, (n, 3), g),
        "slope": uniform(-0.12, 0.12, (n, 2), g),
        "x": place(x, len(ATTRIBUTES["x"])), "y": place(y, len(ATTRIBUTES["y"])),
        "radius": uniform(RADII[size, 0], RADII[size, 1], (n,), g), "visible": torch.ones(n),
    }


def random_words(n: int, g: torch.Generator) -> Tensor:
    """n random captions: long (n,6), one word's index for each of ATTRIBUTES in order."""
    return torch.stack([torch.randint(len(v), (n,), generator=g) for v in ATTRIBUTES.values()], 1)


def image_batch(seed: int, n: int) -> dict[str, Tensor]:
    """n captioned images for contrastive pre-training: a function of the seed.

    images: float32 (n,3,48,48) in 0..1. captions: long (n,6), one word's index for each of ATTRIBUTES in order.
    """
    g = generator("images", seed)
    words = random_words(n, g)
    return {"images": draw(random_scene(words, g), g).float() / 255, "captions": words}


def junk_places(n: int, frames: int, g: torch.Generator) -> Tensor:
    """Where the frames of n clips are junk: bool (n,T,8,8), a place for each patch that the model sees.

    Frames 2k and 2k+1 are a pair. At each place of a pair, independently, one of the two is junk with probability
    JUNK, either as likely; never both, so that the pair always holds the whole picture. Raises ValueError for an odd T.
    """
    if frames % 2:
        raise ValueError(f"{frames} frames: allowed is an even number, since junk comes in pairs of frames")
    shape = (n, frames // 2, SIZE // PATCH, SIZE // PATCH)
    hit, second = torch.rand(shape, generator=g) < JUNK, torch.rand(shape, generator=g) < 0.5
    return torch.stack([hit & ~second, hit & second], 2).flatten(1, 2)


def junk_patches(n: int, g: torch.Generator, patch: int = PATCH) -> Tensor:
    """n patches of junk: uint8 (n,patch,patch,3), four shards, each a quarter and of a random colour of the palette.

    Colours and noise are those of objects, so that junk misleads about the colour. The two shards of a row are of
    different colours: no clean patch holds two colours of the palette, so that junk can be told from what is clean.
    """
    left = torch.randint(len(PALETTE), (n, 2, 1), generator=g)
    right = (left + torch.randint(1, len(PALETTE), (n, 2, 1), generator=g)) % len(PALETTE)
    shards = PALETTE[torch.cat([left, right], 2)]  # (n,2,2,3)
    shards = shards + uniform(-0.07, 0.07, tuple(shards.shape), g)
    image = shards.repeat_interleave(patch // 2, 1).repeat_interleave(patch // 2, 2)
    image = image + NOISE * torch.randn(image.shape, generator=g)
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def corrupt(frames: Tensor, junk: Tensor, g: torch.Generator) -> Tensor:
    """A copy of frames uint8 (n,T,H,W,3) with junk patches where junk, bool (n,T,8,8), is True.

    The grid is that of the model: the middle H of the W columns, H/8 pixels a place. What is outside of them stays.
    """
    frames, size, side = frames.clone(), frames.shape[2], (frames.shape[3] - frames.shape[2]) // 2
    seen, patch = frames[:, :, :, side:side + size], size // junk.shape[2]  # a view: written to in place
    grid = seen.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).transpose(3, 4)  # (n,T,8,8,patch,patch,3)
    grid[junk] = junk_patches(int(junk.sum()), g, patch)
    return frames
