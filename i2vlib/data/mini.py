"""The embedded data: a drawn world of one object before a wall, as images with captions and as H.264 clips.

Pre-training images and video frames come from the same `draw`, so that an image tower trained on the former meets
nothing new in the latter but time. Everything is a function of a seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from i2vlib.data.video import write_clip

VERSION = 2  # a change to anything that is drawn or stored raises it, and old caches are rendered anew
SIZE = 48  # pixels a side: an 8x8 grid of 6x6 patches
WIDE = 64  # clips are wider than the model looks, as videos are; decord 0.6 cannot read clips 48 pixels wide
REACH = 0.68  # the object's centre stays in -REACH..REACH; the frame is -1..1
NOISE = 0.03  # standard deviation of the pixel noise, of the range 0..1
CHUNK = 64  # clips drawn from one random state, and the unit of work of a process

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


@dataclass(frozen=True)
class MiniTask:
    """One embedded task. twins: clips 2k and 2k+1 hold the same frames in opposite order; their labels are 2j, 2j+1."""

    name: str
    frames: int
    class_names: tuple[str, ...]
    train: int  # clips
    val: int
    twins: bool

    @property
    def classes(self) -> int:
        return len(self.class_names)


_DIRECTIONS = ("moves left", "moves right", "moves up", "moves down")
_OBJECTS = tuple(f"{c} {s}" for s in ATTRIBUTES["shape"] for c in ATTRIBUTES["colour"])
TASKS: dict[str, MiniTask] = {t.name: t for t in (
    MiniTask("motion", 4, (*_DIRECTIONS, "goes away", "comes closer"), 4096, 384, True),
    MiniTask("appearance", 4, _OBJECTS, 2048, 384, False),
    MiniTask("blink", 8, _DIRECTIONS, 4096, 384, True),
)}


# ---- drawing ----

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


def _generator(*key: object) -> torch.Generator:
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _uniform(low: float | Tensor, high: float | Tensor, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=g)


def _scene(words: Tensor, g: torch.Generator) -> dict[str, Tensor]:
    """A scene for each row of words (n,6): what the words leave open is random."""
    n = len(words)
    shape, colour, texture, x, y, size = words.unbind(1)

    def place(bin: Tensor, bins: int) -> Tensor:  # a tenth of a bin on each side stays free: no doubtful captions
        return (bin + _uniform(0.1, 0.9, (n,), g)) * (2 * REACH / bins) - REACH

    return {
        "shape": shape, "texture": texture,
        "colour": PALETTE[colour] + _uniform(-0.07, 0.07, (n, 3), g),
        "wall": _uniform(0.3, 0.7, (n, 1), g) + _uniform(-0.06, 0.06, (n, 3), g),
        "slope": _uniform(-0.12, 0.12, (n, 2), g),
        "x": place(x, len(ATTRIBUTES["x"])), "y": place(y, len(ATTRIBUTES["y"])),
        "radius": _uniform(RADII[size, 0], RADII[size, 1], (n,), g), "visible": torch.ones(n),
    }


def _words(n: int, g: torch.Generator) -> Tensor:
    return torch.stack([torch.randint(len(v), (n,), generator=g) for v in ATTRIBUTES.values()], 1)


def image_batch(seed: int, n: int) -> dict[str, Tensor]:
    """n captioned images for contrastive pre-training: a function of the seed.

    images: float32 (n,3,48,48) in 0..1. captions: long (n,6), one word's index for each of ATTRIBUTES in order.
    """
    g = _generator("images", seed)
    words = _words(n, g)
    return {"images": draw(_scene(words, g), g).float() / 255, "captions": words}


# ---- clips ----

def _clips(task: MiniTask, first: int, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips number first..first+n: uint8 (n,T,48,64,3) and labels (n,). With twins: the ones of even label."""
    T, words = task.frames, _words(n, g)
    kind = torch.arange(first, first + n) % (task.classes // 2 if task.twins else task.classes)
    if task.name == "appearance":
        words[:, 0], words[:, 1] = kind // len(ATTRIBUTES["colour"]), kind % len(ATTRIBUTES["colour"])
        words[:, 5] = words[:, 5].clamp(min=1)  # not small: the task is to name the shape, not to find it
    scene = _scene(words, g)
    time = torch.linspace(-0.5, 0.5, T)
    path = {k: scene[k][:, None].repeat(1, T) for k in ("x", "y", "radius")}
    if task.twins:
        span = _uniform(0.6, 0.85, (n, 1), g) * 2 * REACH  # travelled from the first frame to the last
        middle = _uniform(-1, 1, (n, 1), g) * (REACH - span / 2)
        for i, axis in enumerate(("x", "y")):
            path[axis] = torch.where((kind == i)[:, None], middle - span * time, path[axis])
        growth = _uniform(0.75, 1.1, (n, 1), g)  # of log radius: to 1/2 or 1/3 of the size
        path["radius"] = torch.where((kind == 2)[:, None], 0.29 * torch.exp(-growth * time), path["radius"])
    else:  # the object is somewhere else in every frame: what it is can be seen in each, where it goes means nothing
        path |= {k: _uniform(-REACH, REACH, (n, T), g) for k in ("x", "y")}
    for k in ("x", "y"):
        path[k] = path[k] + 0.012 * torch.randn(n, T, generator=g)  # a quarter of a pixel: no frame is a plain copy
    visible = torch.ones(n, T)
    if task.name == "blink":
        phase = torch.randint(2, (n, 1), generator=g)
        visible = ((torch.arange(T) + phase) % 2 == 0).float()
    scene = {k: v.repeat_interleave(T, 0) for k, v in scene.items()}
    scene.update({k: v.flatten() for k, v in path.items()}, visible=visible.flatten())
    frames = draw(scene, g, WIDE).permute(0, 2, 3, 1).reshape(n, T, SIZE, WIDE, 3)
    return frames, kind * 2 if task.twins else kind


# ---- files ----

def _write_chunk(task: MiniTask, folder: Path, split: str, seed: int, first: int) -> list[str]:
    """Write clips first..first+CHUNK (each with its twin) and return their lines of the list file."""
    each = 2 if task.twins else 1
    count = min(CHUNK, getattr(task, split) // each - first)
    clips, labels = _clips(task, first, count, _generator(seed, task.name, split, first))
    lines = []
    for i, (clip, label) in enumerate(zip(clips, labels.tolist(), strict=True), first):
        for twin in range(each):
            path = f"{split}/{i * each + twin:05d}.mp4"
            write_clip(folder / path, clip.flip(0) if twin else clip)
            lines.append(f"{path} {label + twin}")
    return lines


def _complete(folder: Path, manifest: dict) -> bool:
    try:
        found = json.loads((folder / "manifest.json").read_text())
        return found == manifest and all(len(os.listdir(folder / s)) == manifest[s] for s in ("train", "val"))
    except (OSError, ValueError):
        return False


def render(task: str, root: str | Path, seed: int = 0, progress: bool = True) -> Path:
    """Write the clips and list files of an embedded task into root/<task> and return that folder.

    Files: {train,val}.txt with `relative/path label` a line, classes.txt with one name a line, {train,val}/*.mp4 and
    manifest.json. A folder that is already complete is kept; any other is replaced at once when the new one is whole,
    so that no reader ever meets half a data set. Raises ValueError for an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"there is no embedded task {task!r}: allowed are {', '.join(TASKS)}")
    spec, folder = TASKS[task], Path(root) / task
    manifest = {"version": VERSION, "seed": seed, **json.loads(json.dumps(asdict(spec)))}
    if _complete(folder, manifest):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{task}-", dir=folder.parent))
    try:
        _write(spec, work, seed, progress)
        (work / "manifest.json").write_text(json.dumps(manifest, indent=1))
        _install(work, folder, manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _write(task: MiniTask, folder: Path, seed: int, progress: bool) -> None:
    each = 2 if task.twins else 1
    bar = tqdm(total=task.train + task.val, desc=f"rendering {task.name} clips", unit="clip", disable=not progress)
    with bar, ThreadPoolExecutor(2) as pool:  # drawing and encoding let go of Python's lock
        for split in ("train", "val"):
            (folder / split).mkdir()
            starts = range(0, getattr(task, split) // each, CHUNK)
            lines: list[str] = []
            for chunk in pool.map(lambda first, s=split: _write_chunk(task, folder, s, seed, first), starts):
                lines += chunk
                bar.update(len(chunk))
            (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("\n".join(task.class_names) + "\n")


def _install(work: Path, folder: Path, manifest: dict) -> None:
    """Put the finished folder in its place; where another process was first with the same, keep that one."""
    for _ in range(10):
        try:
            os.chmod(work, 0o755)  # mkdtemp makes it private
            return os.rename(work, folder)
        except OSError:
            if _complete(folder, manifest):
                return None
            if folder.exists():  # of another version or seed, or damaged
                old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
                os.rename(folder, old / "old")
                shutil.rmtree(old)
    raise OSError(f"{folder}: cannot be replaced by the newly rendered clips in {work}")


def mini_data(task: str, root: str | Path | None = None, seed: int = 0) -> Path:
    """The folder of an embedded task, rendered on first use.

    root: default is data/mini beside the package in a clone of the repository, else ~/.cache/i2vlib.
    """
    if root is None:
        repository = Path(__file__).resolve().parents[2]
        inside = (repository / "notebooks").is_dir()
        root = repository / "data" / "mini" if inside else Path.home() / ".cache" / "i2vlib"
    return render(task, root, seed)
