"""ST-Adapter (arXiv 2206.13559): an adapter whose bottleneck sees the frames before and after. It stays at inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2vlib.config import AdaptationConfig
from i2vlib.layers import as_clips


class STAdapter(nn.Module):
    """A(x) = x + U·conv(V x + b_v) + b_u on the patches; class token and registers pass (ZeroI2V Table 3).

    x (B·T, N, D) and the T of this call -> the same shape. conv: one kernel a channel over three frames, zeros beyond the clip's
    ends; no activation. conv and all biases start at zero: the identity. patches: of a frame. In the released checkpoints fc1 is
    `down`, fc2 `up`, and conv.weight has one more dimension of size 1. Raises ValueError where the batch is not whole clips.
    """

    def __init__(self, width: int, patches: int, config: AdaptationConfig):
        super().__init__()
        bottleneck = max(1, int(width * config.ratio))
        self.patches = patches
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.conv = nn.Conv2d(bottleneck, bottleneck, (3, 1), padding=(1, 0), groups=bottleneck)  # over time; places stay apart
        for zero in (self.conv.weight, self.conv.bias, self.down.bias, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        clips, behind = as_clips(x, frames).shape[0], 1 + self.patches
        z = self.down(x[:, 1:behind]).view(clips, frames, self.patches, -1)  # (B, T, P, rD)
        z = self.conv(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(0, 1)  # (B·T, P, rD)
        return torch.cat([x[:, :1], x[:, 1:behind] + self.up(z), x[:, behind:]], dim=1)


def st_multiply_adds(frames: int, patches: int, width: int, bottleneck: int) -> int:
    """Multiply-adds of one STAdapter on one clip: T·P·(2·D·rD + 3·rD)."""
    return frames * patches * (2 * width * bottleneck + 3 * bottleneck)
