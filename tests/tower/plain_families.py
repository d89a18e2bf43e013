"""The families of plain ViTs that the library takes, each by a name of timm's, and timm's models with no weight at its start."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from i2vlib.tower.backbone import VideoViT

FAMILIES = {
    "DINOv2 S": "vit_small_patch14_dinov2.lvd142m", "DINOv2 B": "vit_base_patch14_dinov2.lvd142m",
    "DINOv2 L": "vit_large_patch14_dinov2.lvd142m", "DINOv2 S, registers": "vit_small_patch14_reg4_dinov2.lvd142m",
    "DINOv2 B, registers": "vit_base_patch14_reg4_dinov2.lvd142m", "DINOv2 L, registers": "vit_large_patch14_reg4_dinov2.lvd142m",
    "DINO S": "vit_small_patch16_224.dino", "DINO B": "vit_base_patch8_224.dino", "DeiT S": "deit_small_patch16_224.fb_in1k",
    "DeiT S, distilled": "deit_small_distilled_patch16_224.fb_in1k", "DeiT III S": "deit3_small_patch16_224.fb_in22k_ft_in1k",
    "MAE B": "vit_base_patch16_224.mae", "IN21K B": "vit_base_patch16_224.augreg_in21k",
    "CLIP B, OpenAI": "vit_base_patch16_clip_quickgelu_224.openai", "CLIP B, LAION": "vit_base_patch16_clip_224.laion2b",
    "CLIP L, LAION": "vit_large_patch14_clip_224.laion2b", "CLIP B, fine-tuned": "vit_base_patch16_clip_224.openai_ft_in12k_in1k",
    "IN21K B, no q, k, v bias": "vit_base_patch16_224_miil.in21k", "TIPSv2 B": "vit_base_patch14_reg1_tipsv2"}
REFUSED = {
    "EVA02": ("eva02_base_patch14_224", "RoPE"), "DINOv3": ("vit_small_patch16_dinov3", "RoPE"),
    "SigLIP": ("vit_base_patch16_siglip_224", "pools by attention"),
    "ViT without a class token": ("vit_medium_patch16_gap_256", "no class token"),
    "BEiT": ("beit_base_patch16_224", "relative position"), "Swin V2": ("swinv2_tiny_window8_256", "windows"),
    "DINOv2 g": ("vit_giant_patch14_dinov2", "SwiGLU"), "EVA L, mean of patches": ("eva_large_patch14_196", "fc_norm"),
    "CaiT": ("cait_s24_224", "class attention"), "parallel blocks": ("vit_base_patch16_18x2_224", "parallel blocks"),
    "qk-norm": ("vit_base_patch16_xp_224", "qk-norm"), "ResNet stem": ("vit_base_r50_s16_224", "hybrid"),
    "a ResNet": ("resnet50", "no plain VisionTransformer")}


@torch.no_grad()
def stirred(model: nn.Module) -> nn.Module:
    """The model in eval mode with no parameter where it starts: epsilons of LayerScale, zeros of biases."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 0.4 if name.endswith("gamma") else 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5 / 2
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype))
    return model.eval()


def timm_features(model: nn.Module, images: Tensor) -> Tensor:
    """forward_features with the tokens in our order: class, patches, registers."""
    tokens, leading = model.forward_features(images), model.num_prefix_tokens
    return torch.cat([tokens[:, :1], tokens[:, leading:], tokens[:, 1:leading]], 1)


def our_features(backbone: VideoViT, images: Tensor) -> Tensor:
    return backbone.ln_post(backbone.tokens(images[:, None]))[:, 0]


def small(name: str, **changes) -> nn.Module:
    """timm's model of that name with tiny shapes, without a head unless changes say so."""
    torch.manual_seed(0)
    return stirred(timm.create_model(name, pretrained=False, **(TINY | {"num_classes": 0} | changes)))


TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 4, "img_size": 16}
