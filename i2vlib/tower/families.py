"""Image towers under other people's names, brought to the one form of this library: open_clip's names, nothing beside them.

The tables say what timm, the publishers of DINOv2, DINO, DeiT and MAE, and transformers call the parts of a plain ViT. What such
a file has and this library's tower has not is folded into what it has, in float64, so that the tower computes the same:

    x + γ·(W y + b)  =  x + (diag(γ) W) y + γ·b        LayerScale, into attn.out_proj and mlp.c_proj
    (conv(x) + b) + p  =  conv(x) + (p + b)            the bias of the patches, into their positions
    a register or distillation token + its position    one token; a class token without a position gets a position of 0

What cannot be brought to this form is refused with the reason. Names of tensors do not tell what is computed without any, such as
rotary positions beside learnt ones (timm's *_rope_ape_*): there only the model's name is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Shaped(Protocol):
    shape: torch.Size


@dataclass(frozen=True)
class Form:
    """How one kind of file names an image tower.

    marks: ends of names, all of which only this kind has. names: theirs -> ours, whole parts of dotted names, tried in order.
    left_out: what lies beside the tower under its own prefix and has no place in a video model: heads, poolers, decoders.
    antialias, offset: how its origin makes positions of another grid (see positions.resize_grid).
    """

    marks: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    antialias: bool = True
    offset: float = 0.0
    plain: bool = True  # of timm's or transformers' ViTs: REASONS holds for its names


# timm's VisionTransformer, and the publishers' files, which have timm's names but for the registers
TIMM = {
    "cls_token": "class_embedding", "pos_embed": "positional_embedding", "reg_token": "registers", "register_tokens": "registers",
    "dist_token": "registers", "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "blocks": "transformer.resblocks",
    "norm1": "ln_1", "attn.qkv.weight": "attn.in_proj_weight", "attn.qkv.bias": "attn.in_proj_bias", "attn.proj": "attn.out_proj",
    "gamma_1": "ls_1.gamma", "ls1": "ls_1", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "gamma_2": "ls_2.gamma", "ls2": "ls_2", "norm": "ln_post"}
TIMM_BESIDE = ("head", "head_dist", "pre_logits", "mask_token", "masked_embed", "decoder_embed", "decoder_pos_embed",
               "decoder_blocks", "decoder_norm", "decoder_pred")

# transformers' ViTModel, DeiTModel, ViTMAEModel, Dinov2Model, Dinov2WithRegistersModel: as they are stored, and as version 5
# names them in memory
VIT = {
    "embeddings.cls_token": "class_embedding", "embeddings.position_embeddings": "positional_embedding",
    "embeddings.register_tokens": "registers", "embeddings.distillation_token": "registers",
    "embeddings.mask_token": "mask_token", "embeddings.patch_embeddings.projection": "conv1",
    "encoder.layer": "transformer.resblocks", "layers": "transformer.resblocks",
    "layernorm_before": "ln_1", "norm1": "ln_1", "layernorm_after": "ln_2", "norm2": "ln_2",
    "attention.attention.query": "attn.q_proj", "attention.attention.key": "attn.k_proj",
    "attention.attention.value": "attn.v_proj", "attention.output.dense": "attn.out_proj",
    "attention.q_proj": "attn.q_proj", "attention.k_proj": "attn.k_proj", "attention.v_proj": "attn.v_proj",
    "attention.o_proj": "attn.out_proj", "intermediate.dense": "mlp.c_fc", "output.dense": "mlp.c_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj", "layer_scale1.lambda1": "ls_1.gamma", "layer_scale2.lambda1": "ls_2.gamma", "layernorm": "ln_post"}
VIT_BESIDE = ("mask_token", "pooler", "classifier", "cls_classifier", "distillation_classifier", "decoder")

# transformers' CLIPModel and CLIPVisionModel. Its q, k, v lie apart and its projection is stored the other way round
CLIP = {
    "vision_model": "visual", "embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding": "conv1",
    "embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre", "pre_layernorm": "ln_pre",
    "post_layernorm": "ln_post", "encoder.layers": "transformer.resblocks", "self_attn": "attn", "layer_norm1": "ln_1",
    "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}

OPEN_CLIP = Form(plain=False)  # our own names
FORMS = (  # the first whose marks are all there; some have the names of another and differ in what is done with positions
    Form(("embeddings.patch_embedding.weight",), CLIP, plain=False),
    Form(("embeddings.patch_embeddings.projection.weight", "embeddings.register_tokens"), VIT, VIT_BESIDE),  # as DINOv2's own
    Form(("embeddings.patch_embeddings.projection.weight",), VIT, VIT_BESIDE, antialias=False),
    Form(("patch_embed.proj.weight", "decoder_pred.weight"), TIMM, TIMM_BESIDE, antialias=False),  # MAE with its decoder
    Form(("patch_embed.proj.weight", "register_tokens"), TIMM, TIMM_BESIDE),  # DINOv2's own, with registers
    Form(("patch_embed.proj.weight", "mask_token"), TIMM, TIMM_BESIDE, antialias=False, offset=0.1),  # and without
    Form(("patch_embed.proj.weight",), TIMM, TIMM_BESIDE))

# what names tell that a plain ViT has not
ROTARY = "rotary positions (RoPE): queries and keys are turned by their places"
GATED = "a gated MLP (SwiGLU)"
REASONS = {
    r"layers\.\d+\.blocks\.\d": "attention within windows, and fewer tokens from stage to stage (Swin)",
    r"blocks_token_only|class_attn|\.proj_l\.": "class attention, or heads that mix (CaiT)",
    r"\brope|rotary|inv_freq|\.periods$": ROTARY,
    r"relative_position|rel_pos": "relative position biases, which are added to every attention",
    r"attn_pool|(^|\.)head\.(probe|attention)": "a head that pools by attention (SigLIP): its feature is no class token's",
    r"\.fc_norm\.|^fc_norm\.": "a mean over patches, which a norm of its own reads (fc_norm): its feature is no class token's",
    r"mlp\.(w12|w3|weights_in|weights_out|fc1_g|fc1_x|gate_proj)\b": GATED,
    r"\.(q_norm|k_norm|norm_q|norm_k)\.": "norms of queries and keys (qk-norm)",
    r"attn\.norm\.|mlp\.norm\.": "norms inside attention or MLP",
    r"\.(attns|ffns)\.\d|blocks\.\d+\.(in_proj|mlp_out_proj|attn_out_proj)\.": "attention and MLP side by side (parallel blocks)",
    r"patch_embed\.(backbone|conv|stem|norm|proj\.\d)|embeddings\.(patch_embeddings\.backbone|norm|convolution)":
        "a stem of several layers in place of one patch convolution (hybrid)",
}
NO_CLASS = "no class token: its feature is made of patches"
NO_PLACES = "no position embeddings of its own: its positions are rotary (RoPE: EVA02, DINOv3), relative (BEiT) or computed"


def form_of(names: Iterable[str]) -> Form:
    """The form whose marks all stand at the ends of `names`; OPEN_CLIP where none's do."""
    dotted = [f".{name}" for name in names]
    return next((form for form in FORMS if all(any(name.endswith(f".{mark}") for name in dotted) for mark in form.marks)),
                OPEN_CLIP)


def renamed(state: Mapping[str, Tensor], form: Form) -> dict[str, Tensor]:
    """The state under open_clip's names, whatever prefix they stand behind; q, k, v that lie apart are put together."""
    if form is OPEN_CLIP:
        return dict(state)
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        for theirs, ours in form.names.items():
            name = f".{name}.".replace(f".{theirs}.", f".{ours}.")[1:-1]
        if form.names is CLIP and name.endswith("visual_projection.weight") and value.ndim == 2:
            name, value = name.replace("visual_projection.weight", "visual.proj"), value.T
        if not name.endswith("embeddings.position_ids"):  # 0, 1, 2, ...
            found[name] = value
    for name in [name for name in found if re.search(r"\.q_proj\.(weight|bias)$", name)]:
        three = [name.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
        if all(other in found for other in three):
            found[name.replace(".q_proj.", ".in_proj_")] = torch.cat([found.pop(other) for other in three])
    return found


def refusal(state: Mapping[str, Shaped]) -> str:
    """What tensors of these names and shapes have that cannot be brought to a plain ViT's form, all of it, or ""."""
    found = [reason for pattern, reason in REASONS.items() if any(re.search(pattern, name) for name in state)]
    rows = {name: value.shape[0] for name, value in state.items() if name.endswith("mlp.fc1.weight")}
    if any(count == 2 * state[second].shape[1] for name, count in rows.items()
           if (second := name.replace("fc1", "fc2")) in state):  # timm's gate and its MLP in one layer
        found.append(GATED)
    return "; ".join(dict.fromkeys(found))


def missing_part(names: Iterable[str]) -> str:
    """The same for what is missing among a tower's own names, as `renamed` gives them, without a prefix."""
    names = set(names)
    if "conv1.weight" not in names or {"class_embedding", "positional_embedding"} <= names:
        return ""
    return NO_PLACES if "class_embedding" in names else NO_CLASS


def folded(state: Mapping[str, Tensor], form: Form) -> dict[str, Tensor]:
    """A tower's tensors under open_clip's names -> those that VideoViT has, as the module's head says.

    What is folded comes back in float64, to be cast once; what is not is the tensor that was given.
    """
    heads = {name: value for name, value in state.items() if name.split(".")[0] in form.left_out}
    found = {name: value[0] if name in ("positional_embedding", "registers") and value.ndim == 3 and len(value) == 1 else value
             for name, value in state.items() if name not in heads}
    if "class_embedding" in found and form.plain:
        found["class_embedding"] = found["class_embedding"].flatten()
    for name in [name for name in found if name.endswith((".ls_1.gamma", ".ls_2.gamma"))]:
        gamma, block = found.pop(name).double(), name.rpartition(".ls_")[0]
        layer = f"{block}.{'attn.out_proj' if '.ls_1.' in name else 'mlp.c_proj'}"
        for part in (f"{layer}.weight", f"{layer}.bias"):
            if part in found:
                found[part] = found[part].double() * gamma.reshape(-1, *[1] * (found[part].ndim - 1))
    if form.plain:
        for name in [name for name in found if name.endswith(".in_proj_weight")]:  # q, k, v without biases
            found.setdefault(name.replace("_weight", "_bias"), torch.zeros_like(found[name][:, 0]))
        _fold_positions(found)
    bias = heads.get("head.bias")
    if "ln_pre.weight" in found and "head.weight" in heads and (bias is None or not bias.any()):
        found["proj"] = heads["head.weight"].T  # a classifier's bias is not 0
    return found


def _fold_positions(state: dict[str, Tensor]) -> None:
    """Patch bias and the positions of class token and registers, in place. Positions of another shape stay as they are."""
    positions, registers = state.get("positional_embedding"), state.get("registers")
    bias = state.pop("conv1.bias", None)
    extra = 0 if registers is None else len(registers)
    if positions is None or positions.ndim != 2:
        return
    # in front of the patches' positions: the class token's, none, or the class token's and one a register
    leading = next((n for n in (1, 0, 1 + extra) if _is_square(len(positions) - n)), None)
    if leading is None:
        return
    own, patches = positions[:leading].double(), positions[leading:].double()
    if leading > 1:
        state["registers"] = registers.double() + own[1:]
    if leading == 0:
        own = torch.zeros_like(patches[:1])
    if bias is not None:
        patches = patches + bias.double()
    state["positional_embedding"] = torch.cat([own[:1], patches])


def _is_square(count: int) -> bool:
    return count > 0 and round(count**0.5) ** 2 == count
