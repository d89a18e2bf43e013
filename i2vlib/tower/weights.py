"""Image weights into a tower: where they come from, which activation they need, whether they fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import open_clip
import torch

from i2vlib.config import CLIP_MEAN, CLIP_STD, ModelConfig, TowerConfig
from i2vlib.protocol import same_scaling
from i2vlib.tower.archives import WeightsError, read_tensors
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.families import form_of
from i2vlib.tower.fetched import FETCHED, find_fetched, told
from i2vlib.tower.names import check_fit, check_sound, remedy, tower_part
from i2vlib.tower.origins import find_file, is_hub, is_timm, tower_config
from i2vlib.tower.positions import resize_grid
from i2vlib.tower.swin import VideoSwin, swin_part

MINI_TOWER = Path(__file__).resolve().parents[1] / "assets" / "mini_tower.safetensors"
OPENAIS = {"input_resolution", "context_length", "vocab_size"}  # OpenAI's own files carry these: trained with QuickGELU
TOWER_KEYS = {"image_size", "patch_size", "layers", "width", "head_width", "mlp_ratio"}  # a plain open_clip vision_cfg


def load_image_weights(backbone: VideoViT | VideoSwin, weights: str | Path, *, resize_positions: bool = False) -> None:
    """Copy image weights into the tower; every key and shape is accounted for before anything is copied.

    weights: "mini" (shipped), a name of FETCHED (`python -m i2vlib.fetch` brings it), an open_clip tag that exists for this
    tower's shape ("openai", "laion2b_s34b_b88k"), a model of timm or a repository of the hub (see origins.tower_config, which
    gives the tower that such a name needs; these three download), or a file: safetensors, torch.save or OpenAI's TorchScript
    archive, in which one image tower lies under whatever prefix and in whatever dicts, with the names of open_clip, timm,
    transformers or the publishers of DINOv2, DINO, DeiT and MAE (families.py). resize_positions: interpolate position embeddings
    of another grid, as the file's origin does; a Swin, whose files swin.swin_part knows, has none. Raises WeightsError, also
    where the name says that the tower needs to be another.
    """
    tower = backbone.config.tower
    _check_origin(weights, tower)
    raw = read_tensors(find_weights(tower, weights))
    if isinstance(backbone, VideoSwin):
        state, want = swin_part(raw, str(weights)), backbone.image_state()
        check_fit(state, want, str(weights), remedy(raw))
        check_sound(state, want, str(weights))
        return backbone.load_image(state)
    state = tower_part(raw, str(weights))
    if resize_positions and "positional_embedding" in state:
        form = form_of(raw)
        state["positional_embedding"] = resize_grid(state["positional_embedding"], tower.grid,
                                                    form.antialias and not _as_transformers(weights), form.offset)
    want = backbone.image_state()
    check_fit(state, want, str(weights), remedy(dict.fromkeys(state.keys() - want.keys())))
    check_sound(state, want, str(weights))
    with torch.no_grad():
        for name, value in want.items():  # state_dict shares the module's memory
            value.copy_(state[name])


def resolve_activation(config: ModelConfig, weights: str | Path | None) -> ModelConfig:
    """The config with tower.quick_gelu decided by where the weights come from.

    Raises WeightsError in doubt, and where the weights need another tower than the config's.
    """
    tower = config.tower
    if weights is not None:
        _check_origin(weights, tower)
    quick = tower.quick_gelu
    if quick is None:
        quick = origin_of(tower, weights).get("quick_gelu") if weights is not None else False
    if quick is None and not tower.ln_pre:
        quick = False  # of the ViTs that are not CLIP's none has QuickGELU
    if quick is None:
        raise WeightsError(f"{weights}: the file does not say whether it was trained with QuickGELU: set "
                           "tower.quick_gelu (True for OpenAI's CLIP, False for most others)")
    return replace(config, tower=replace(tower, quick_gelu=quick))


def origin_of(tower: TowerConfig, weights: str | Path) -> dict[str, object]:
    """The fields of TowerConfig that a name, or a file that says so, settles for weights of this tower. Raises WeightsError."""
    name, path = str(weights), _file(weights)
    if name == "mini":
        return {"quick_gelu": False}
    if name in FETCHED:
        return _settled(FETCHED[name].tower)
    if path:
        if "tower" in (says := told(path)):
            return _settled(TowerConfig.from_json(says["tower"]))
        names = {name.rpartition(".")[2] for name in read_tensors(path)}
        return {"quick_gelu": True} if OPENAIS <= names else {}
    if tag := clip_tags(tower).get(name):
        entry = open_clip.get_pretrained_cfg(tag, name)
        quick = bool(entry.get("quick_gelu", False) or open_clip.get_model_config(tag).get("quick_gelu", False))
        return {"quick_gelu": quick, "mean": tuple(entry.get("mean", CLIP_MEAN)), "std": tuple(entry.get("std", CLIP_STD))}
    if is_timm(name) or is_hub(name):
        return _settled(tower_config(name))
    what = "a folder, not a file," if Path(name).expanduser().is_dir() else "neither a file"
    raise WeightsError(f"weights {name!r}: {what} nor an open_clip tag for this tower; its tags are: "
                       f"{', '.join(sorted(clip_tags(tower))) or 'none'}. Models of timm and repositories of the hub "
                       "(owner/name) load as well")


def _settled(tower: TowerConfig) -> dict[str, object]:
    """All but what may be another with the same weights: the size of the picture, and whether proj is kept."""
    return {name: value for name, value in tower.to_dict().items() if name not in ("image_size", "output_dim")}


def _check_origin(weights: str | Path, tower: TowerConfig) -> None:
    for name, needed in origin_of(tower, weights).items():
        own = getattr(tower, name, None)  # a plain ViT has no windows
        if name == "quick_gelu" and own not in (None, needed):
            raise WeightsError(f"{weights}: trained with {'QuickGELU' if needed else 'GELU'}, but tower.quick_gelu is {own}: "
                               f"allowed is {needed}, or None for build_model to decide it")
        if name != "quick_gelu" and not _alike(own, needed):
            raise WeightsError(f"{weights}: TowerConfig.{name} = {own}: these weights need {needed}")


def _alike(own: object, needed: object) -> bool:
    if isinstance(needed, (tuple, list)):
        return isinstance(own, tuple) and len(own) == len(needed) and same_scaling(own, needed)
    return own is not None and math.isclose(own, needed, rel_tol=1e-6)


def find_weights(tower: TowerConfig, weights: str | Path) -> Path:
    """The file behind a name, downloaded where it has to be. Raises WeightsError saying what there is."""
    name, path = str(weights), _file(weights)
    if name == "mini":
        return MINI_TOWER
    if name in FETCHED:
        return find_fetched(name)
    if path:
        return path
    tag = clip_tags(tower).get(name)
    if tag is None:
        origin_of(tower, name)  # raises where there is no such name
        return find_file(name)
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(tag, name)))
    except Exception as error:  # the hub's clients raise many kinds
        raise WeightsError(f"weights {name!r} could not be downloaded ({type(error).__name__}): connect, or give the path "
                           "of a file") from error


def _as_transformers(weights: str | Path) -> bool:
    """Whether a file in our own names was trained in transformers' way, where positions are not smoothed as they shrink."""
    path = _file(weights)
    return str(weights) in FETCHED or bool(path and told(path))


def _file(weights: str | Path) -> Path | None:
    """The file of that name, if there is one; a folder hides no tag."""
    path = Path(weights).expanduser()
    return path if path.is_file() else None


def clip_tags(tower: TowerConfig) -> dict[str, str]:
    """open_clip's tags for this tower, and the architecture of each; of several image sizes the tower's own, else the first."""
    known: dict[str, str] = {}
    for arch, name in open_clip.list_pretrained():
        if _same_shape(arch, tower) and (name not in known or _image_size(arch) == tower.image_size):
            known[name] = arch
    return known


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
