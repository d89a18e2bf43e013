"""Our checkpoints: one safetensors file that alone rebuilds its model. Nothing runs code from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import safetensors
import safetensors.torch
from torch import Tensor

from i2vlib.config import ModelConfig
from i2vlib.files import whole_file
from i2vlib.protocol import ClipConfig, check_scaling
from i2vlib.tower.archives import WeightsError, hash_tensors, read_tensors
from i2vlib.tower.classifier import LIMIT_GIB, VideoClassifier, build_fitting, freeze
from i2vlib.tower.names import check_finite, check_sound, remedy
from i2vlib.tower.wrappers import unwrapped

FORMAT = "i2vlib 1"
TOLD = {"config": dict, "clip": (dict, type(None)), "class_names": list}  # what a file says of itself, as JSON


def save_checkpoint(model: VideoClassifier, path: str | Path, *, clip: ClipConfig | None = None,
                    class_names: tuple[str, ...] = ()) -> None:
    """Write one safetensors file that alone rebuilds the model: its weights, and its config as JSON in the metadata.

    clip and class_names travel along where given (see checkpoint_info), and a hash of it all, by which load_checkpoint knows
    damage. The model may be compiled or wrapped for several processes: the file is the same. It is replaced by a whole one or
    not at all. Raises WeightsError for weights that are not finite, ConfigError for a clip with another mean or std than the
    tower's, OSError where the file cannot be written.
    """
    model, path = unwrapped(model), Path(path).expanduser()
    if clip:
        check_scaling(model.config.tower, clip)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    check_finite(state, f"{path} is not written")
    metadata = {"format": FORMAT, "config": model.config.to_json(), "clip": json.dumps(clip.to_dict() if clip else None),
                "class_names": json.dumps(list(class_names))}
    data = safetensors.torch.save(state, metadata | {"hash": content_hash(state, metadata)})
    with whole_file(path) as file:
        file.write(data)


def load_checkpoint(path: str | Path, *, limit_gib: float = LIMIT_GIB) -> VideoClassifier:
    """The model of a file that save_checkpoint wrote, in eval mode. Runs no code from it.

    Before any memory is taken the configuration must agree with the file's own list of tensors, and the model stay within
    limit_gib. Raises WeightsError for that, for another kind of file, for weights that are not finite, and for damage: the
    hash of all content is compared where the file has one.
    """
    path = Path(path).expanduser()
    metadata, shapes = _header(path)
    try:
        config = ModelConfig.from_dict(_told(metadata, path)["config"])
    except (ValueError, TypeError, AttributeError, OverflowError) as error:  # ConfigError is a ValueError
        raise WeightsError(f"{path}: its configuration does not fit this version: {error}") from error
    model = build_fitting(config, shapes, str(path), limit_gib)
    # copied out of the file's buffer, where tensors lie at any address: kernels round by alignment, and the loaded model's
    # scores shall be the saved one's to the last bit
    state = {k: v.clone() for k, v in safetensors.torch.load_file(path).items()}
    if metadata.get("hash", now := content_hash(state, metadata)) != now:
        raise WeightsError(f"{path}: damaged, or changed by another program: its content is not what save_checkpoint wrote (by "
                           "the hash in it). Copy or download it anew")
    check_sound(state, model.state_dict(), str(path))
    model.load_state_dict(state, assign=True)  # each tensor keeps its dtype
    return freeze(model).eval()


def checkpoint_info(path: str | Path) -> dict:
    """What a checkpoint says of itself: config (dict), clip (dict or None), class_names (list). Raises WeightsError."""
    path = Path(path).expanduser()
    return _told(_header(path)[0], path)


def content_hash(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of every tensor's name, dtype, shape and bytes, and of what the metadata tell."""
    return hash_tensors(state, json.dumps([metadata.get(name) for name in TOLD]).encode())


def _header(path: Path) -> tuple[dict[str, str], dict[str, SimpleNamespace]]:
    """Metadata, and the shape of every tensor, of a file that save_checkpoint wrote; no tensor is read."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: SimpleNamespace(shape=tuple(file.get_slice(name).get_shape())) for name in file.keys()}
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint: {error}{_remedy(path)}") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: not written by save_checkpoint of this version (format {metadata.get('format')!r})"
                           f"{remedy(shapes)}")
    return metadata, shapes


def _remedy(path: Path) -> str:
    try:
        return remedy(read_tensors(path))
    except WeightsError:
        return ""


def _told(metadata: Mapping[str, str], path: Path) -> dict:
    try:
        told = {name: json.loads(metadata[name]) for name in TOLD}
    except (KeyError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged metadata ({type(error).__name__}: {error})") from error
    wrong = [name for name, kind in TOLD.items() if not isinstance(told[name], kind)]
    if wrong or not all(isinstance(name, str) for name in told["class_names"]):
        raise WeightsError(f"{path}: damaged metadata ({(wrong or ['class_names'])[0]} is of another kind)")
    tower, clip = told["config"].get("tower"), told["clip"]
    if isinstance(tower, dict) and clip and "mean" not in tower:  # a file of before towers said what their clips need
        tower |= {name: clip[name] for name in ("mean", "std") if name in clip}
    return told
