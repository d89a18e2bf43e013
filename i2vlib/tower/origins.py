"""Where plain ViTs and Swins come from by name, timm's models and repositories of the Hugging Face hub, and which config each
needs.

What a name says of its tower is read off its own source: timm's model, built without memory, and the configurations that lie
beside the weights on the hub.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import timm
import torch
from timm.layers import LayerScale, Mlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

from i2vlib.config import ConfigError, ModelConfig, SwinConfig, TowerConfig
from i2vlib.tower.archives import WeightsError
from i2vlib.tower.families import NO_CLASS, ROTARY, refusal
from i2vlib.tower.swin import VideoSwin, swin_part

ACTIVATIONS = {"GELU": False, "QuickGELU": True, "gelu": False, "quick_gelu": True}  # quick_gelu of timm's classes, hub's names
HUB = {"vit": 0, "vit_mae": 0, "dinov2": 0, "dinov2_with_registers": 0, "deit": 1}  # kinds of model: registers that all have
HUB_REASONS = {
    "swin": "attention within windows (Swin; timm's models of that name load)", "swinv2": "attention within windows (Swin V2)",
    "dinov3_vit": ROTARY, "beit": "relative position biases", "siglip": NO_CLASS, "siglip2": NO_CLASS,
    "siglip_vision_model": NO_CLASS, "ijepa": NO_CLASS, "vit_hybrid": "a stem of several layers (hybrid)"}


def tower_config(name: str, image_size: int | None = None, **changes) -> TowerConfig:
    """The TowerConfig, or SwinConfig, that the weights of a name need: shapes, activation, epsilon, registers, mean and std.

    name: a model of timm with or without its tag ("vit_small_patch14_dinov2.lvd142m", "timm/vit_base_patch16_224.mae"), or a
    repository of the hub with a ViT, DeiT, ViT-MAE or DINOv2 of transformers ("facebook/dinov2-small", read from its config.json
    and preprocessor_config.json: downloads them; a folder with these files will do). image_size: pixels, for pictures of another
    side than the weights were trained at; build_model then needs resize_positions=True. changes: what timm.create_model takes,
    such as depth=4. Raises WeightsError for an unknown name and, with the reason, for a tower that is no plain ViT with a class
    token and no Swin; ConfigError for a size that is no multiple of the patches.
    """
    if is_timm(name):
        found = described(timm_model(name, **changes), name)
    elif is_hub(name) and not changes:
        found = _from_hub(name)
    else:
        raise WeightsError(f"{name!r}: neither a model of timm nor a repository of the hub (owner/name)")
    return TowerConfig.from_dict(found.to_dict() | ({"image_size": image_size} if image_size else {}))


def is_timm(name: str | Path) -> bool:
    return timm.is_model(_timm_name(str(name)).partition(".")[0])


def is_hub(name: str | Path) -> bool:
    """Whether it may be a repository of the hub, owner/name, or is a folder like one."""
    return (Path(name).expanduser() / "config.json").is_file() or bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)))


def timm_model(name: str, **changes) -> nn.Module:
    """timm's own model of that name, on the meta device: it holds no memory. Raises WeightsError for an unknown tag."""
    try:
        with torch.device("meta"):
            return timm.create_model(_timm_name(name), pretrained=False, **changes)
    except RuntimeError as error:  # an unknown tag
        arch = _timm_name(name).partition(".")[0]
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{arch}.*")]
        raise WeightsError(f"timm's {name}: {error} Its tags are: {', '.join(tags)}") from error


def described(model: nn.Module, name: str) -> TowerConfig:
    """The TowerConfig of a model of timm. Raises WeightsError, with the reason, where no tower of ours can be it."""
    if type(model) is SwinTransformer:
        return _described_swin(model, name)
    reason = _timm_reason(model)
    if reason:
        raise WeightsError(f"{name}: a tower that VideoViT cannot be: it has {reason}")
    block, patches, width = model.blocks[0], model.patch_embed, model.embed_dim
    hidden = block.mlp.fc1.out_features
    ratio = hidden / width
    ratio = ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)
    says, pre = model.pretrained_cfg, isinstance(model.norm_pre, nn.LayerNorm)
    # the head of CLIP's towers leads to the space of text, unless it was fine-tuned to name classes
    output = model.num_classes if pre and "_ft_in" not in (says.get("tag") or "") else 0
    return TowerConfig(patches.img_size[0], patches.patch_size[0], width, len(model.blocks), block.attn.num_heads, ratio, output,
                       ACTIVATIONS[type(block.mlp.act).__name__], pre, model.norm.eps, model.num_prefix_tokens - 1,
                       tuple(says["mean"]), tuple(says["std"]))


def _described_swin(model: SwinTransformer, name: str) -> SwinConfig:
    """Read off the first block; a Swin whose other blocks do not follow from it (S3's windows differ) has other shapes."""
    patches, block, says = model.patch_embed, model.layers[0].blocks[0], model.pretrained_cfg
    depths = tuple(len(stage.blocks) for stage in model.layers)
    try:
        found = SwinConfig(patches.img_size[0], patches.patch_size[0], model.embed_dim, sum(depths), block.attn.num_heads,
                           block.mlp.fc1.out_features / model.embed_dim, norm_eps=block.norm1.eps, mean=tuple(says["mean"]),
                           std=tuple(says["std"]), depths=depths, window=block.attn.window_size[0])
        with torch.device("meta"):
            ours = VideoSwin(ModelConfig(found, frames=1)).image_state()
    except ConfigError as error:
        raise WeightsError(f"{name}: a Swin that VideoSwin cannot be: {error}") from error
    theirs = swin_part(model.state_dict(), name)
    other = sorted(k for k in ours.keys() | theirs.keys() if k not in ours or k not in theirs or ours[k].shape != theirs[k].shape)
    if other or {type(b.mlp.act) for stage in model.layers for b in stage.blocks} != {nn.GELU}:
        raise WeightsError(f"{name}: a Swin that VideoSwin cannot be: its stages differ in more than their width and depth, in "
                           f"{', '.join(other[:3]) or 'activations'}")
    return found


def _timm_reason(model: nn.Module) -> str:
    """What a model of timm has that a plain ViT with a class token has not, or ""."""
    reasons = [ROTARY] if getattr(model, "rope", None) is not None else []
    if by_name := refusal(model.state_dict()):
        reasons.append(by_name)
    if reasons:
        return "; ".join(reasons)
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        return f"parts of its own: timm's {type(model).__name__} is no plain VisionTransformer"
    if not model.has_class_token:
        return NO_CLASS
    parts = {type(part) for block in model.blocks for part in (block, *block.children())}
    if other := parts - {Block, Attention, Mlp, LayerScale, nn.LayerNorm, nn.Identity} - set(nn.LayerNorm.__subclasses__()):
        return f"blocks of another kind, with {', '.join(sorted(kind.__name__ for kind in other))}"
    if model.global_pool != "token" or not isinstance(model.norm, nn.LayerNorm):
        return f"a feature that is no class token's behind a last norm (it pools by {model.global_pool!r})"
    acts = {type(block.mlp.act).__name__ for block in model.blocks}
    if not acts <= set(ACTIVATIONS) or len(acts) > 1:
        return f"the activation {', '.join(sorted(acts))}: allowed is GELU or QuickGELU"
    norms = {(norm.eps, norm.elementwise_affine) for norm in model.modules() if isinstance(norm, nn.LayerNorm)}
    if len(norms) > 1 or not all(affine for _, affine in norms):
        return f"norms of several kinds: {sorted(norms)}"
    if model.patch_embed.proj.weight.shape[1] != 3 or len({*model.patch_embed.img_size}) > 1 or len(
            {*model.patch_embed.patch_size}) > 1:
        return "pictures or patches that are no squares of three colours"
    return "" if model.pos_embed is not None else "no position embeddings"


def find_file(name: str) -> Path:
    """The weights of a name, downloaded where the cache does not have them. Raises WeightsError."""
    if not is_timm(name):
        return _hub_file(name, "model.safetensors", "pytorch_model.bin")
    says = timm_model(name).pretrained_cfg
    if not says.get("hf_hub_id"):
        raise WeightsError(f"timm's {name}: has no weights on the hub: give the path of a file")
    return _hub_file(says["hf_hub_id"], says.get("hf_hub_filename") or "model.safetensors", "pytorch_model.bin")


def _from_hub(name: str) -> TowerConfig:
    says = json.loads(_hub_file(name, "config.json").read_text(encoding="utf-8"))
    kind = says.get("model_type")
    reason = HUB_REASONS.get(kind) or ("a gated MLP (SwiGLU)" if says.get("use_swiglu_ffn") else "")
    if reason:
        raise WeightsError(f"{name}: a tower that VideoViT cannot be: it has {reason}")
    if kind not in HUB:
        raise WeightsError(f"{name}: its config.json is of a model of the kind {kind!r}: allowed are {', '.join(HUB)}; CLIP's "
                           "towers load by open_clip's tags, or from a file")
    if says.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise WeightsError(f"{name}: the activation {says['hidden_act']}: allowed is gelu or quick_gelu")
    pictures = json.loads(_hub_file(name, "preprocessor_config.json").read_text(encoding="utf-8"))
    try:
        width = says["hidden_size"]
        registers = HUB[kind] + (says["num_register_tokens"] if kind == "dinov2_with_registers" else 0)
        ratio = says["mlp_ratio"] if "mlp_ratio" in says else says["intermediate_size"] / width
        return TowerConfig(says["image_size"], says["patch_size"], width, says["num_hidden_layers"], says["num_attention_heads"],
                           ratio, 0, ACTIVATIONS[says.get("hidden_act", "gelu")], False, says["layer_norm_eps"], registers,
                           tuple(pictures["image_mean"]), tuple(pictures["image_std"]))
    except KeyError as error:
        raise WeightsError(f"{name}: its configuration does not say {error}") from error


def _hub_file(name: str, *files: str) -> Path:
    """The first of these files that the repository, or the folder of that name, has."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        for file in files:
            if (folder / file).is_file():
                return folder / file
        raise WeightsError(f"{name}: the folder has no {' or '.join(files)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        try:
            return Path(hf_hub_download(name, file))
        except Exception as error:  # the hub's client raises many kinds
            absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
            if not (absent and file != files[-1]):
                raise WeightsError(f"{name}: {file} could not be downloaded ({type(error).__name__}): connect, or give the path "
                                   "of a file") from error
    raise AssertionError


def _timm_name(name: str) -> str:
    return re.sub(r"^(hf_hub:|hf-hub:)?(timm/)?", "", name)
