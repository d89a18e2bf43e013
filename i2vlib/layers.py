"""What the layers of every axis build on: CLIP's activation, what backward keeps, frames folded into clips, float32 or wider.

The other modules import this one; it imports none of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class QuickGELU(nn.Module):
    """x·σ(1.702 x), the activation that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return F.silu(1.702 * x).mul_(1 / 1.702)  # keeps one tensor for backward, where x·σ(1.702 x) keeps two
        return torch.sigmoid(1.702 * x).mul_(x)  # one temporary fewer


def through(x: Tensor, *modules: nn.Module) -> Tensor:
    """x through the modules, one after the other. Where several train, only x is kept for backward, which computes the rest anew:
    what a norm and an adapter give is quickly computed and long to keep. A compiler decides for itself what it keeps."""
    def run(x: Tensor) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    if len(modules) > 1 and modules[-1].training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return checkpoint(run, x, use_reentrant=False)
    return run(x)


def as_clips(x: Tensor, frames: int) -> Tensor:
    """x (B·T, N, D) -> a view (B, T, N, D), T = `frames`. Raises ValueError where the batch is not whole clips of T frames."""
    if x.ndim != 3 or not x.shape[1]:
        raise ValueError(f"x {tuple(x.shape)}: allowed is (B·T, N, D) with a class token in front")
    check_whole_clips(x, frames)
    return x.unflatten(0, (-1, frames))


def check_whole_clips(x: Tensor, frames: int) -> None:
    """Raises ValueError where the batch of x (B·T, ...) is not whole clips of T frames."""
    batch = x.shape[0]  # not len(x): that is a plain int, which freezes the batch of whatever example is traced
    if frames < 1 or batch % frames:
        raise ValueError(f"{batch} frames do not make whole clips of {frames} frames")


def patch_grid(x: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """The patch tokens of x (B, T, N, D) on their grid, a view (B, D, T, H, W): those behind the class token and before the
    registers, if any. Raises ValueError where there are fewer than H·W."""
    if grid is None or grid[0] * grid[1] > x.shape[2] - 1:
        raise ValueError(f"grid {grid} for {x.shape[2]} tokens a frame, the class token among them: allowed is (H, W) with "
                         f"H·W = {x.shape[2] - 1}, or less where registers stand behind the patches")
    # channels lie innermost, as PyTorch's channels-last convolution wants them: 4 times as fast as on a contiguous copy
    return x[:, :, 1:1 + grid[0] * grid[1]].unflatten(2, tuple(grid)).permute(0, 4, 1, 2, 3)


def grid_conv(conv: nn.Conv3d, x: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """A depth-wise convolution over (T, H, W) of the patch tokens of x (B, T, N, D), on their grid: (B, T, H, W, D).

    On a CPU half precision is widened for it: PyTorch 2.14 fills the bfloat16 weight gradient of two frames, channels innermost,
    with whatever memory holds, and is slower than float32. Raises ValueError as patch_grid does.
    """
    cubes = patch_grid(x, grid)
    if x.device.type == "cpu" and (torch.is_autocast_enabled("cpu") or x.dtype in (torch.float16, torch.bfloat16)):
        with torch.autocast("cpu", enabled=False):
            weight, bias = wide(conv.weight), None if conv.bias is None else wide(conv.bias)
            out = F.conv3d(wide(cubes), weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups).to(x.dtype)
    else:
        out = conv(cubes)
    return out.permute(0, 2, 3, 4, 1)


def wide(x: Tensor) -> Tensor:
    """x in float32 or wider: half precision would round sums, sizes and small differences; NumPy has no bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
