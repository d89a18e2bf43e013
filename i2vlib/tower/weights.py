"""Image weights into a tower: where they come from, which activation they need, whether they fit."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import open_clip
import torch

from i2vlib.config import CLIP_MEAN, ModelConfig, TowerConfig
from i2vlib.tower.archives import WeightsError, read_tensors
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.fetched import FETCHED, find_fetched, told
from i2vlib.tower.names import check_fit, check_sound, remedy, tower_part
from i2vlib.tower.positions import resize_grid

MINI_TOWER = Path(__file__).resolve().parents[1] / "assets" / "mini_tower.safetensors"
TOWER_KEYS = {"image_size", "patch_size", "layers", "width", "head_width", "mlp_ratio"}  # a plain open_clip vision_cfg


def load_image_weights(backbone: VideoViT, weights: str | Path, *, resize_positions: bool = False) -> None:
    """Copy image weights into the tower; every key and shape is accounted for before anything is copied.

    weights: "mini" (shipped), a name of FETCHED (`python -m i2vlib.fetch` brings it), an open_clip tag that exists for this
    tower's shape ("openai", "laion2b_s34b_b88k"; downloads), or a file: safetensors, torch.save or OpenAI's TorchScript archive,
    in which one image tower lies under whatever prefix and in whatever dicts, with open_clip's names or transformers'.
    resize_positions: interpolate position embeddings of another grid (bicubic, as open_clip does; FETCHED without antialiasing,
    as they were trained). Raises WeightsError.
    """
    tower = backbone.config.tower
    _check_activation(weights, activation_of(tower, weights), bool(tower.quick_gelu))
    state = tower_part(read_tensors(find_weights(tower, weights)), str(weights))
    if resize_positions and "positional_embedding" in state:
        state["positional_embedding"] = resize_grid(state["positional_embedding"], tower.grid, antialias(weights))
    want = backbone.image_state()
    check_fit(state, want, str(weights), remedy(dict.fromkeys(state.keys() - want.keys())))
    check_sound(state, want, str(weights))
    with torch.no_grad():
        for name, value in want.items():  # state_dict shares the module's memory
            value.copy_(state[name])


def resolve_activation(config: ModelConfig, weights: str | Path | None) -> ModelConfig:
    """The config with tower.quick_gelu decided by where the weights come from. Raises WeightsError on contradiction or doubt."""
    asked, origin = config.tower.quick_gelu, None
    if weights is not None:
        origin = activation_of(config.tower, weights)
        if origin is None and asked is None:
            raise WeightsError(f"{weights}: the file does not say whether it was trained with QuickGELU: set "
                               "tower.quick_gelu (True for OpenAI's CLIP, False for most others)")
        if asked is not None:
            _check_activation(weights, origin, asked)
    quick = next((q for q in (asked, origin) if q is not None), False)
    return replace(config, tower=replace(config.tower, quick_gelu=quick))


def _check_activation(weights: str | Path, origin: bool | None, asked: bool) -> None:
    if origin not in (None, asked):
        raise WeightsError(f"{weights}: trained with {'QuickGELU' if origin else 'GELU'}, but tower.quick_gelu is {asked}: "
                           f"allowed is {origin}, or None for build_model to decide it")


def activation_of(tower: TowerConfig, weights: str | Path) -> bool | None:
    """True: QuickGELU, False: GELU, None: the file does not say."""
    if str(weights) == "mini":
        return False
    if str(weights) in FETCHED:
        return FETCHED[str(weights)].tower.quick_gelu
    path = _file(weights)
    if path is None:
        arch, entry = _tag(tower, str(weights))
        return bool(entry.get("quick_gelu", False) or open_clip.get_model_config(arch).get("quick_gelu", False))
    if "tower" in (says := told(path)):
        return json.loads(says["tower"])["quick_gelu"]
    names = {name.rpartition(".")[2] for name in read_tensors(path)}
    return True if {"input_resolution", "context_length", "vocab_size"} <= names else None  # OpenAI's own files carry these


def find_weights(tower: TowerConfig, weights: str | Path) -> Path:
    """The file behind a name. Downloads an open_clip tag. Raises WeightsError saying what there is."""
    if str(weights) == "mini":
        return MINI_TOWER
    if str(weights) in FETCHED:
        return find_fetched(str(weights))
    path = _file(weights)
    if path is not None:
        return path
    _, entry = _tag(tower, str(weights))
    if any(abs(a - b) > 0.01 for a, b in zip(entry.get("mean", CLIP_MEAN), CLIP_MEAN, strict=True)):
        warnings.warn(f"weights {weights!r} saw images scaled with mean {entry['mean']} and std {entry['std']}: set "
                      "ClipConfig.mean and ClipConfig.std to these", stacklevel=2)
    try:
        return Path(open_clip.download_pretrained(entry))
    except Exception as error:  # the hub's clients raise many kinds
        raise WeightsError(f"weights {weights!r} could not be downloaded ({type(error).__name__}): connect, or give the path "
                           "of a file") from error


def antialias(weights: str | Path) -> bool:
    """Whether positions are smoothed as they shrink: not where the weights were trained in transformers' way."""
    path = _file(weights)
    return str(weights) not in FETCHED and not (path and told(path))


def _file(weights: str | Path) -> Path | None:
    """The file of that name, if there is one; a folder hides no tag."""
    path = Path(weights).expanduser()
    return path if path.is_file() else None


def _tag(tower: TowerConfig, tag: str) -> tuple[str, dict]:
    """open_clip's architecture and entry for a tag of this tower; of several image sizes the tower's own, else the first."""
    known: dict[str, str] = {}
    for arch, name in open_clip.list_pretrained():
        if _same_shape(arch, tower) and (name not in known or _image_size(arch) == tower.image_size):
            known[name] = arch
    if tag not in known:
        there = ", ".join(sorted(known)) or "none"
        what = "a folder, not a file," if Path(tag).expanduser().is_dir() else "neither a file"
        raise WeightsError(f"weights {tag!r}: {what} nor an open_clip tag for this tower; its tags are: {there}")
    return known[tag], open_clip.get_pretrained_cfg(known[tag], tag)


def _image_size(arch: str) -> int:
    return open_clip.get_model_config(arch)["vision_cfg"].get("image_size", 224)


def _same_shape(arch: str, tower: TowerConfig) -> bool:
    config = open_clip.get_model_config(arch) or {}
    vision = config.get("vision_cfg", {})
    if not isinstance(vision, dict) or not {"width", "layers", "patch_size"} <= set(vision) <= TOWER_KEYS:
        return False  # timm towers, ResNets and towers with parts that VideoViT does not have
    shape = (vision["patch_size"], vision["width"], vision["layers"], vision["width"] // vision.get("head_width", 64),
             config["embed_dim"], vision.get("mlp_ratio", 4.0))
    return shape == (tower.patch_size, tower.width, tower.layers, tower.heads, tower.output_dim, tower.mlp_ratio)
