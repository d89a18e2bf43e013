"""Clips of a batch blended with one another, and their labels with them.

torchvision's MixUp and CutMix draw one share and one box a batch, here for all frames of all its clips. They pair each
clip with the one before it. Randomness comes from torch's global state, on the CPU whatever the device of the video.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2


def mix_clips(video: Tensor, label: Tensor, weight: Tensor, classes: int, mixup: float = 0.0,
              cutmix: float = 0.0) -> tuple[Tensor, Tensor]:
    """Blend each readable clip with its neighbour: x_i <- λ x_i + (1-λ) x_j, y_i <- λ y_i + (1-λ) y_j, y one-hot.

    MixUp (Zhang et al., 2018) takes the sum of pixels, CutMix (Yun et al., 2019) those of x_j inside a box that leaves
    the share λ of the picture. λ comes from Beta(alpha, alpha), alpha = mixup or cutmix, 0 = off; with both on, one of
    them is drawn, each with probability 1/2. Clips of weight 0 stay as they are and are blended into no other.

    video float (B,T,3,H,W), label int64 (B,), weight (B,) -> video (B,T,3,H,W), targets float32 (B,classes).
    Raises ValueError for a video of other dimensions, or numbers of labels or weights other than B.
    """
    if video.ndim != 5 or not len(video) == len(label) == len(weight):
        raise ValueError(f"video {tuple(video.shape)}, label {tuple(label.shape)}, weight {tuple(weight.shape)}: allowed is "
                         "(B,T,3,H,W), (B,) and (B,)")
    target = F.one_hot(label, classes).float()
    kinds = [kind(alpha=alpha) for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha]
    rows = torch.nonzero(weight > 0)[:, 0].to(video.device)
    if not kinds or len(rows) < 2:
        return video, target
    mixed, shares = v2.RandomChoice(kinds)(tv_tensors.Video(video[rows]), target[rows])  # a Video may have 5 dimensions
    return video.index_copy(0, rows, mixed), target.index_copy(0, rows, shares)
