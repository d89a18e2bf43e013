"""Our checkpoints: one safetensors file that alone rebuilds its model. Nothing runs code from a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file

from i2vlib.config import ClipConfig, ConfigError, ModelConfig
from i2vlib.tower.classifier import VideoClassifier, freeze
from i2vlib.tower.weights import WeightsError, check_fit


def save_checkpoint(model: VideoClassifier, path: str | Path, *, clip: ClipConfig | None = None,
                    class_names: tuple[str, ...] = ()) -> None:
    """Write one safetensors file that alone rebuilds the model: its weights, and its config as JSON in the metadata.

    clip and class_names travel along where given (see checkpoint_info). The file is replaced by a whole one or not at all.
    """
    path = Path(path)
    metadata = {"format": "i2vlib 1", "config": model.config.to_json(),
                "clip": json.dumps(clip.to_dict() if clip else None), "class_names": json.dumps(list(class_names))}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file({k: v.detach().contiguous() for k, v in model.state_dict().items()}, part, metadata)
    with open(part, "rb+") as written:
        os.fsync(written.fileno())
        os.fchmod(written.fileno(), 0o666 & ~_umask())  # safetensors writes private files
    os.replace(part, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_checkpoint(path: str | Path) -> VideoClassifier:
    """The model of a file that save_checkpoint wrote, in eval mode. Runs no code from it. Raises WeightsError."""
    info = checkpoint_info(path)
    # copied out of the file's buffer, where tensors lie at any address: kernels round by alignment, and the loaded model's
    # scores shall be the saved one's to the last bit
    state = {k: v.clone() for k, v in load_file(path).items()}
    try:
        model = VideoClassifier(ModelConfig.from_dict(info["config"]))
    except (ConfigError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: its configuration does not fit this version: {error}") from error
    check_fit(state, model.state_dict(), str(path))
    model.load_state_dict(state, assign=True)  # each tensor keeps its dtype
    return freeze(model).eval()


def checkpoint_info(path: str | Path) -> dict:
    """What a checkpoint says of itself: config (dict), clip (dict or None), class_names (list). Raises WeightsError."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint: {error}") from error
    if metadata.get("format") != "i2vlib 1":
        raise WeightsError(f"{path}: not written by save_checkpoint of this version (format {metadata.get('format')!r})")
    try:
        return {name: json.loads(metadata[name]) for name in ("config", "clip", "class_names")}
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: damaged metadata ({error})") from error
