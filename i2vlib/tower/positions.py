"""Position embeddings at another image size than they were trained at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from i2vlib.tower.archives import WeightsError


def resize_grid(positions: Tensor, grid: int, antialias: bool = True, offset: float = 0.0) -> Tensor:
    """Position embeddings (1+g², D) of a g x g grid -> (1+grid², D), class token kept, bicubic.

    antialias: as open_clip and timm do; towers that were trained through another rule need that one (transformers' ViTs: none).
    offset: the step from place to place is g/(grid+offset), .1 in DINOv2's own code, else 0. Raises WeightsError for anything but
    a class token and a square grid.
    """
    old = round((len(positions) - 1) ** 0.5) if positions.ndim == 2 and len(positions) else 0
    if positions.ndim != 2 or len(positions) != old**2 + 1:
        raise WeightsError(f"positional_embedding is {tuple(positions.shape)}: allowed is (1+g², D), a class token and a square "
                           "grid")
    if old == grid:
        return positions
    patches = positions[1:].float().unflatten(0, (old, old)).permute(2, 0, 1)[None]  # (1, D, g, g)
    if offset:
        patches = F.interpolate(patches, scale_factor=(grid + offset) / old, mode="bicubic", antialias=antialias)
    else:
        patches = F.interpolate(patches, (grid, grid), mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([positions[:1].float(), patches[0].flatten(1).T]).to(positions.dtype)
