"""Weights in and out: image weights into a tower, our checkpoints, the authors' ZeroI2V checkpoints.

Nothing here runs code from a file: safetensors, torch.load(weights_only=True), and for OpenAI's TorchScript archives a
reader that takes the tensors and leaves the program where it is.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from i2vlib.config import CLIP_MEAN, ModelConfig, TowerConfig
from i2vlib.tower.backbone import VideoViT

MINI_TOWER = Path(__file__).resolve().parents[1] / "assets" / "mini_tower.safetensors"
TOWER_KEYS = {"image_size", "patch_size", "layers", "width", "head_width", "mlp_ratio"}  # a plain open_clip vision_cfg
STORAGES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
            "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32}


class WeightsError(ValueError):
    """Weights that cannot be found, read, or do not fit the model."""


# ---- image weights ---------------------------------------------------------------------------------------------------

def load_image_weights(backbone: VideoViT, weights: str | Path, *, resize_positions: bool = False) -> None:
    """Copy image weights into the tower; every key and shape is accounted for before anything is copied.

    weights: "mini" (shipped), an open_clip tag that exists for this tower's shape ("openai", "laion2b_s34b_b88k"; downloads),
    or a file: full CLIP or visual tower only, .safetensors, torch.save or OpenAI's TorchScript archive. resize_positions:
    interpolate position embeddings of another grid (bicubic, as open_clip does). Raises WeightsError.
    """
    tower = backbone.config.tower
    _check_activation(weights, activation_of(tower, weights), bool(tower.quick_gelu))
    state = _visual_part(read_tensors(find_weights(tower, weights)))
    if resize_positions and "positional_embedding" in state:
        state["positional_embedding"] = resize_grid(state["positional_embedding"], tower.grid)
    want = backbone.image_state()
    check_fit(state, want, str(weights))
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
    if not Path(weights).exists():
        arch, entry = _tag(tower, str(weights))
        return bool(entry.get("quick_gelu", False) or open_clip.get_model_config(arch).get("quick_gelu", False))
    names = set(read_tensors(Path(weights)))
    return True if {"input_resolution", "context_length", "vocab_size"} <= names else None  # OpenAI's own files carry these


def find_weights(tower: TowerConfig, weights: str | Path) -> Path:
    """The file behind a name. Downloads an open_clip tag. Raises WeightsError saying what there is."""
    if str(weights) == "mini":
        return MINI_TOWER
    if Path(weights).exists():
        return Path(weights)
    _, entry = _tag(tower, str(weights))
    if any(abs(a - b) > 0.01 for a, b in zip(entry.get("mean", CLIP_MEAN), CLIP_MEAN, strict=True)):
        warnings.warn(f"weights {weights!r} saw images scaled with mean {entry['mean']} and std {entry['std']}: set "
                      "ClipConfig.mean and ClipConfig.std to these", stacklevel=2)
    try:
        return Path(open_clip.download_pretrained(entry))
    except Exception as error:  # the hub's clients raise many kinds
        raise WeightsError(f"weights {weights!r} could not be downloaded ({type(error).__name__}): connect, or give the path "
                           "of a file") from error


def _tag(tower: TowerConfig, tag: str) -> tuple[str, dict]:
    """open_clip's architecture and entry for a tag of this tower; of several image sizes the tower's own, else the first."""
    known: dict[str, str] = {}
    for arch, name in open_clip.list_pretrained():
        if _same_shape(arch, tower) and (name not in known or _image_size(arch) == tower.image_size):
            known[name] = arch
    if tag not in known:
        there = ", ".join(sorted(known)) or "none"
        raise WeightsError(f"weights {tag!r}: neither a file nor an open_clip tag for this tower; its tags are: {there}")
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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file under its own name, on the CPU, without running code from it. Raises WeightsError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path) and any(n.endswith("/constants.pkl") for n in zipfile.ZipFile(path).namelist()):
            return _read_torchscript(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any of the three readers in many ways
        reason = str(error).split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path}: not a readable weights file: {reason}") from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
        raise WeightsError(f"{path}: holds a {type(state).__name__}: allowed is a dict of tensors, or one under 'state_dict'")
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


class _Node:
    """Stands for any object of a TorchScript archive; its attributes are the module's parameters and children."""


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive (OpenAI's .pt files). Its program is neither compiled nor run."""
    archive = torch._C.PyTorchFileReader(str(path))

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            if module.startswith("__torch__"):
                return _Node
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return torch._utils._rebuild_tensor_v2
            if module == "collections" and name == "OrderedDict":
                return dict
            if module == "torch" and name in STORAGES:
                return STORAGES[name]
            raise WeightsError(f"{path}: holds a {module}.{name}: allowed are tensors only")

        def persistent_load(self, reference):
            _, dtype, key, _, count = reference
            storage = archive.get_storage_from_record(f"data/{key}", count, dtype).untyped_storage()
            return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)

    found: dict[str, Tensor] = {}

    def walk(node, prefix):
        for name, value in vars(node).items():
            if isinstance(value, _Node):
                walk(value, f"{prefix}{name}.")
            elif isinstance(value, Tensor):
                found[prefix + name] = value

    walk(Reader(io.BytesIO(archive.get_record("data.pkl"))).load(), "")
    return found


def _visual_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The visual tower's tensors under the tower's own names."""
    state = {k.removeprefix("module."): v for k, v in state.items()}
    if any(k.startswith("visual.") for k in state):
        return {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    return state


def check_fit(state: Mapping[str, Tensor], want: Mapping[str, Tensor], source: str) -> None:
    wrong = [f"missing {k}" for k in want if k not in state] + [f"unexpected {k}" for k in state if k not in want]
    wrong += [f"{k} is {tuple(state[k].shape)}, the model's is {tuple(want[k].shape)}"
              for k in want if k in state and state[k].shape != want[k].shape]
    if not wrong:
        return
    if len(wrong) == 1 and wrong[0].startswith("positional_embedding is"):
        wrong[0] += " (another image size: resize_positions=True interpolates)"
    more = f"\n  ... and {len(wrong) - 20} more" if len(wrong) > 20 else ""
    raise WeightsError(f"{source}: {len(wrong)} tensors do not fit the model:\n  " + "\n  ".join(wrong[:20]) + more)


def resize_grid(positions: Tensor, grid: int) -> Tensor:
    """Position embeddings (1+g², D) of a g x g grid -> (1+grid², D), class token kept, bicubic with antialiasing."""
    old = round((len(positions) - 1) ** 0.5)
    if old == grid:
        return positions
    patches = positions[1:].float().unflatten(0, (old, old)).permute(2, 0, 1)[None]  # (1, D, g, g)
    patches = F.interpolate(patches, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1].float(), patches[0].flatten(1).T]).to(positions.dtype)
