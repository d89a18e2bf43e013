"""Cut-outs of photographs that move over photographs: tasks of real texture, rendered to H.264 on first use.

The photographs come out of installed packages; PHOTOS names each with its licence. Every one is cut in two by a straight line:
the left part is training's, and the right one belongs to validation or, for the other half of the photographs, to test, with a
strip between them that nobody sees. So no pixel is in two splits, validation and test share no photograph, and each split still
has six or twelve sources. What is new in test is the pixels, not the kind: its gravel is the same heap's. Whole photographs held
out would leave training half of these twelve. The label is a motion, and every piece is used in all motions and backwards.

One cut-out, a piece under a random smooth mask, moves as the label says, seen in the picture: the panning camera of some tasks
slides the background alone, in a random direction. Where there are two cut-outs, the label is that of the one which is the larger
in every frame and passes in front; the other's motion is one of the six, drawn independently of the label. Every clip has a
reversed twin (i2vlib.data.rendered). Everything is a function of a seed, and of how the machine decodes JPEG.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from i2vlib.data import rendered
from i2vlib.data.drawing import uniform
from i2vlib.places import kept_in

VERSION = 2  # a change to anything that is drawn or stored raises it, and old caches are rendered anew
SIZE = 112  # pixels a side of what the model sees: an 8x8 grid of 14x14 patches
PATCH = 14
WIDE = 128  # pixels across a clip, which is wider than the model looks, as videos are
MARGIN = 14  # pixels that the background has to spare on each side, for the camera to pan
CUTOUT = 96  # pixels a side of a piece that is to be cut out
NOISE = 1.5  # standard deviation of the camera's noise, of the range 0..255
SHARE, STRIP = 0.6, 16  # of a photograph's width: training's part; pixels beside it that no split has


class Photo(NamedTuple):
    """One photograph of an installed package. split: "val" or "test", whose its right part is."""

    package: str
    path: str
    sha256: str  # the first 16 digits
    split: str
    licence: str
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom of what is used, if not all


PHOTOS: dict[str, Photo] = {
    "astronaut": Photo("skimage", "data/astronaut.png", "88431cd9653ccd53", "val", "public domain (NASA)"),
    "brick": Photo("skimage", "data/brick.png", "7966caf324f6ba84", "val", "CC0 (CC0Textures)"),
    "camera": Photo("skimage", "data/camera.png", "b0793d2adda0fa6a", "test", "CC0 (Lav Varshney)"),
    "chelsea": Photo("skimage", "data/chelsea.png", "596aa1e7cb875eb7", "test", "CC0 (Stefan van der Walt)"),
    "china": Photo("sklearn", "datasets/images/china.jpg", "8378025ad2519d64", "test", "CC BY 2.0 (danielbuechele, Flickr)"),
    "coffee": Photo("skimage", "data/coffee.png", "cc02f8ca188b167c", "test", "CC0 (Rachel Michetti)"),
    "flower": Photo("sklearn", "datasets/images/flower.jpg", "a77f6ec41e353afd", "val", "CC BY 2.0 (vultilion, Flickr)"),
    "grass": Photo("skimage", "data/grass.png", "b6b6022426b38936", "val", "CC0 (linolafett, DeviantArt)"),
    "gravel": Photo("skimage", "data/gravel.png", "c48615b451bf1e60", "test", "CC0 (CC0Textures)"),
    "hubble": Photo("skimage", "data/hubble_deep_field.jpg", "3a19c5dd8a927a93", "test", "public domain (NASA)"),
    "retina": Photo("skimage", "data/retina.jpg", "38a07f36f27f095e", "val", "CC0 (Mikael Häggström)", (230, 230, 1180, 1180)),
    "rocket": Photo("skimage", "data/rocket.jpg", "c2dd0de7c538df8d", "val", "public domain (SpaceX)"),
}


@dataclass(frozen=True)
class PhotoTask(rendered.RenderedTask):
    """One task of moving cut-outs. A clip is 112x128 pixels, of which the model sees the middle 112 columns."""

    test: int  # clips
    movers: int
    pan: bool
    step: tuple[float, float]  # pixels from frame to frame, lowest and highest

    version = VERSION
    splits = ("train", "val", "test")

    def draw(self, split: str, first: int, n: int, g: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        kind = torch.arange(first, first + n) % (self.classes // 2)
        paths = [mover_path(self, kind, torch.ones(n), None, g)]
        if self.movers == 2:
            sign = torch.randint(2, (n,), generator=g) * 2.0 - 1
            within = paths[0][..., 2].amin(1)
            paths.insert(0, mover_path(self, torch.randint(self.classes // 2, (n,), generator=g), sign, within, g))
        back, cutouts = _pieces(split, n, self.movers, g)
        image = background(back, self._pan(n, g))
        for path, cut in zip(paths, cutouts, strict=True):  # the labelled one last: it passes in front
            image, cover = paste(image, cut, path)
        image = image + NOISE * torch.randn(image.shape, generator=g)
        side = (WIDE - SIZE) // 2
        place = avg_pool2d(cover[..., side:-side], PATCH) >= 0.1
        return image.round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous(), kind * 2, {"place": place}

    def _pan(self, n: int, g: torch.Generator) -> Tensor:
        """Where the camera looks, pixels from the background's middle: (n,T,2), x and y."""
        angle, step = uniform(0, 2 * math.pi, (n, 1), g), uniform(4, 2 * MARGIN / (self.frames - 1), (n, 1), g)
        time = torch.arange(self.frames) - (self.frames - 1) / 2
        return torch.stack([angle.cos(), angle.sin()], -1) * (step * time)[..., None] * self.pan


_CLASSES = ("moves left", "moves right", "moves up", "moves down", "goes away", "comes closer")
_SLOW, _FAR = (7.0, 12.0), (15.5, 19.0)
_COUNTS, _FEW = (2000, 400, 600), (1000, 60, 240)  # clips to train on, to validate on, to test on
TASKS: dict[str, PhotoTask] = {name: PhotoTask(name, 4, _CLASSES, train, val, True, test, *rest)
                               for name, (train, val, test), *rest in (
    ("photos-one", _COUNTS, 1, False, _SLOW),
    ("photos-two", _COUNTS, 2, False, _SLOW),
    ("photos-pan", _COUNTS, 1, True, _SLOW),
    ("photos-two-pan", _COUNTS, 2, True, _SLOW),
    ("photos-far", _COUNTS, 1, False, _FAR),
    ("photos-few", _FEW, 1, False, _SLOW),  # photos-one in the minutes of a notebook
)}


# ---- where the cut-outs are ----

def mover_path(task: PhotoTask, kind: Tensor, sign: Tensor, within: Tensor | None, g: torch.Generator) -> Tensor:
    """Middle and radius of n cut-outs in each frame, in pixels from the middle of the frame: float (n,T,3), x, y, radius.

    kind (n,): 0 across, 1 down, 2 in size; sign (n,): 1 for left, up and away, -1 for their opposites. within (n,): a radius that
    those of the other cut-outs stay below; None for the labelled ones. Steps are those of task.step, give or take 0.8 pixels at
    most. What changes in size stays where it is but, where steps are longer than a patch, it hops to and fro by a step.

    A clip and its twin begin at opposite ends, so that in a first frame the place and the size say something of the direction.
    It is little where steps are short: sizes vary as much as they change, and a quarter of a cut-out may be out of sight.
    """
    n, T, far = len(kind), task.frames, task.step[0] > PATCH
    time = torch.linspace(-0.5, 0.5, T) * sign[:, None]
    radius = torch.where((kind == 2)[:, None], uniform(1.6, 1.9, (n, 1), g) ** -time, 1.0)
    if within is None:
        radius = radius * (12 if far else 16) * 2 ** uniform(0, 1, (n, 1), g)
    else:
        radius = radius * (within * uniform(0.6, 0.85, (n,), g) / radius.amax(1))[:, None]
    step = uniform(*task.step, (n, 1), g)
    hop = step / 2 * (far & (kind == 2)).float()[:, None]
    reach = SIZE / 2 - radius.amax(1, keepdim=True) / 2 - hop
    angle, swing = uniform(0, 2 * math.pi, (n, 1), g), torch.tensor([1.0, -1.0]).repeat(T)[:T]
    axes = []
    for axis, across in enumerate((angle.cos(), angle.sin())):
        span = step * (T - 1) * (kind == axis).float()[:, None]
        axes.append(uniform(-1, 1, (n, 1), g) * (reach - span / 2) - span * time + hop * across * swing)
    place = torch.stack(axes, -1) + uniform(-0.4, 0.4, (n, T, 2), g)  # no frame is a plain copy
    return torch.cat([place, radius[..., None]], -1)


# ---- pieces of photographs ----

def part_of(name: str, split: str, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The pixels of a photograph of this width and height that a split may use: left, top, right, bottom; None for none."""
    left, top, right, bottom = PHOTOS[name].box or (0, 0, *size)
    cut = left + round(SHARE * (right - left))
    if split == "train":
        return left, top, cut, bottom
    return (cut + STRIP, top, right, bottom) if split == PHOTOS[name].split else None


def open_photo(name: str) -> Image.Image:
    """A photograph, RGB. Raises FileNotFoundError where its package is not installed and ValueError where it is another file."""
    photo = PHOTOS[name]
    spec = find_spec(photo.package)
    path = Path(spec.submodule_search_locations[0]) / photo.path if spec else Path(photo.package) / photo.path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such photograph; pip install scikit-image scikit-learn bring it")
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(photo.sha256):
        raise ValueError(f"{path}: is not the photograph that it was (SHA-256 {photo.sha256}...)")
    return Image.open(path).convert("RGB")


@lru_cache(3)
def parts(split: str) -> tuple[Image.Image, ...]:
    """What a split may use of the photographs: cut off, so that no filter reaches beyond the cut."""
    found = []
    for name in PHOTOS:
        photo = open_photo(name)
        if box := part_of(name, split, photo.size):
            found.append(photo.crop(box))
    return tuple(found)


def piece(part: Image.Image, width: int, height: int, g: torch.Generator) -> Tensor:
    """A random piece of a part, turned, mirrored and tinted: float (3,height,width), 0..255."""
    turns, mirror = torch.randint(4, (1,), generator=g).item(), torch.rand(1, generator=g).item() < 0.5
    w, h = (height, width) if turns % 2 else (width, height)
    most = min(part.width / w, part.height / h)
    scale, x, y = torch.rand(3, generator=g).tolist()
    low = min(most, max(0.8, most / 2))
    scale = low + (most - low) * scale
    x, y = x * (part.width - scale * w), y * (part.height - scale * h)
    box = (x, y, min(x + scale * w, part.width), min(y + scale * h, part.height))
    pixels = torch.from_numpy(np.array(part.resize((w, h), Image.Resampling.LANCZOS, box))).float().permute(2, 0, 1)
    pixels = torch.rot90(pixels, turns, (1, 2))
    return (pixels.flip(2) if mirror else pixels) * uniform(0.85, 1.15, (3, 1, 1), g) + uniform(-20, 20, (1, 1, 1), g)


def backdrop(part: Image.Image, g: torch.Generator) -> Tensor:
    """Of three pieces of a part the most textured, as a background: float (3,140,156)."""
    return max([piece(part, WIDE + 2 * MARGIN, SIZE + 2 * MARGIN, g) for _ in range(3)], key=Tensor.std)


def cutout(sources: Sequence[Image.Image], back: Tensor, g: torch.Generator) -> Tensor:
    """Of a piece of each source the one that is the more textured and of another colour than its background, so that what moves
    is to be seen: float (4,96,96), the last channel its mask."""
    tries = [piece(part, CUTOUT, CUTOUT, g) for part in sources]
    best = max(tries, key=lambda p: p.std() + (p.mean((1, 2)) - back.mean((1, 2))).abs().mean().clamp(max=40))
    return torch.cat([best.clamp(0, 255), mask(g)[None]])


def _pieces(split: str, n: int, movers: int, g: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """Backgrounds (n,3,140,156) and for each mover its cut-outs (n,4,96,96). A clip's pieces come from different photographs."""
    source, backs, cutouts = parts(split), [], [[] for _ in range(movers)]
    for _ in range(n):
        order = torch.randperm(len(source), generator=g).tolist()
        backs.append(backdrop(source[order[0]], g))
        for k in range(movers):
            cutouts[k].append(cutout([source[order[1 + k + movers * i]] for i in range(2)], backs[-1], g))
    return torch.stack(backs).clamp(0, 255), [torch.stack(c) for c in cutouts]


def mask(g: torch.Generator) -> Tensor:
    """A smooth random blob with a soft edge: float (96,96), 0..1. Its radius is one on average, if the square is 2.6 wide."""
    line = (torch.arange(CUTOUT) + 0.5 - CUTOUT / 2) * (2.6 / CUTOUT)
    r, angle = torch.hypot(line, line[:, None]), torch.atan2(line[:, None].expand(CUTOUT, -1), line.expand(CUTOUT, -1))
    wave = torch.arange(2, 6)[:, None, None]
    size, phase = uniform(0.02, 0.13, (4, 1, 1), g) / wave.sqrt(), uniform(0, 2 * math.pi, (4, 1, 1), g)
    edge = 1 + (size * (wave * angle + phase).cos()).sum(0)
    return ((edge - r) * 14 + 0.5).clamp(0, 1)


# ---- pictures ----

def background(back: Tensor, pan: Tensor) -> Tensor:
    """What the camera sees of backgrounds (n,3,140,156), looking at pan (n,T,2): (n,T,3,112,128)."""
    n, T = pan.shape[:2]
    size = torch.tensor([back.shape[3], back.shape[2]])
    theta = torch.zeros(n * T, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = WIDE / back.shape[3], SIZE / back.shape[2]
    theta[:, :, 2] = (pan * 2 / size).flatten(0, 1)
    grid = affine_grid(theta, [n * T, 3, SIZE, WIDE], align_corners=False)
    return grid_sample(back.repeat_interleave(T, 0), grid, align_corners=False).unflatten(0, (n, T))


def paste(image: Tensor, cut: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Lay cut-outs (n,4,96,96) over images (n,T,3,112,128) along paths (n,T,3); return the images and the cover (n,T,112,128)."""
    layers = []
    for x, y, radius in path.permute(1, 2, 0):  # a frame at a time: the fine grid is large
        theta = torch.zeros(len(x), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = WIDE / 2 / (1.3 * radius), SIZE / 2 / (1.3 * radius)
        theta[:, :, 2] = -torch.stack([x, y], 1) / (1.3 * radius)[:, None]
        fine = affine_grid(theta, [len(x), 4, 2 * SIZE, 2 * WIDE], align_corners=False)
        layer = grid_sample(cut, fine, align_corners=False)
        layer = torch.cat([layer[:, :3] * layer[:, 3:], layer[:, 3:]], 1)
        layers.append(avg_pool2d(layer, 2))  # twice as fine and averaged: a small cut-out does not flicker
    layer = torch.stack(layers, 1)
    paint, cover = layer[:, :, :3], layer[:, :, 3]
    return image * (1 - cover[:, :, None]) + paint, cover


# ---- files ----

def photo_data(task: str, root: str | Path | None = None, seed: int = 0) -> Path:
    """The folder of a task, rendered on first use (see i2vlib.data.rendered), with {train,val,test}_place.npy (see `place_map`).

    root: default is data/photos of the repository, or of ~/.cache/i2vlib where that cannot be written (i2vlib.places). Raises
    ValueError for an unknown task, FileNotFoundError and ValueError where a photograph is missing or another.
    """
    return rendered.render(TASKS, task, root or kept_in(f"data/photos/{task}").parent, seed, progress=True)


def place_map(folder: str | Path, split: str) -> Tensor:
    """Where the labelled cut-out is: bool (clips,T,8,8), True where it covers a tenth or more of that frame's patch.

    Row i is the clip of line i of <split>.txt. The 8x8 places are the 14x14 patches of the middle 112 columns, which is what the
    model sees. split: "train", "val" or "test". Raises FileNotFoundError where the folder holds no such file, and ValueError for
    another split or a damaged file.
    """
    return rendered.read_truth(folder, split, "place", TASKS["photos-one"], "only the tasks of photographs have one")
