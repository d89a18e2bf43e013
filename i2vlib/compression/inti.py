"""InTI, inter-frame token interpolation: two neighbouring frames become one, place by place (InTI eq. 6-13).

Letters: B clips, T frames, P = T/2 pairs (frames 0 and 1, 2 and 3, ...), N tokens a frame (the class token, then H·W patches),
C width. A weight map (B,T,N) holds one number for each token that goes in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.config import LEVELS, CompressionConfig
from i2vlib.layers import as_clips, grid_conv


def interpolate(x: Tensor, weights: Tensor) -> Tensor:
    """y_t,i = w_2t,i x_2t,i + w_2t+1,i x_2t+1,i   (InTI eq. 6-7, frames counted from 0).

    x (B,T,N,C), any float dtype; weights (B,T,N), one for each token. Returns (B,T/2,N,C). Raises ValueError for an odd T or
    weights of another shape.
    """
    if x.ndim != 4 or weights.shape != x.shape[:3] or x.shape[1] % 2:
        raise ValueError(f"x {tuple(x.shape)} with weights {tuple(weights.shape)}: allowed are (B, T, N, C) with an even T and "
                         "(B, T, N)")
    (a, b), (w_a, w_b) = (z.unflatten(1, (-1, 2)).unbind(2) for z in (x, weights.to(x.dtype).unsqueeze(-1)))
    return torch.addcmul(a * w_a, b, w_b)


class Interpolation(nn.Module):
    """Any compression by weighted pairs: x (B·T,N,C) -> (B·T/2,N,C), with weights from `self.predictor`: (B,T,N,C) -> (B,T,N).

    A class of its own so that the weights of InTI, LinearPooling and the mean are read at one place (compression/weights.py).
    """

    def __init__(self, predictor: nn.Module):
        super().__init__()
        self.predictor = predictor

    def forward(self, x: Tensor, frames: int) -> Tensor:
        x = self.place(paired_clips(x, frames))
        return interpolate(x, self.predictor(x)).flatten(0, 1)

    def place(self, x: Tensor) -> Tensor:
        """What tells the frames' places apart, if anything does."""
        return x


class InTI(Interpolation):
    """One compression step T -> T/2 (InTI eq. 6-13): x <- x + α p, then each pair's tokens weighted by a small network.

    x (B·T,N,C) with N = 1 + H·W -> (B·T/2,N,C), any float dtype. frames: T, even; p (T,C) is learned, α starts at 0. grid: (H,W).
    levels, fusion, head: see WeightNetwork. A fresh module is exactly the mean of each pair. Raises ValueError where T is odd
    or the input does not fit, ConfigError for an unknown level, fusion or head.
    """

    def __init__(self, width: int, frames: int, grid: tuple[int, int], *, levels: Sequence[str] = LEVELS, fusion: str = "sep",
                 head: str = "softmax"):
        if frames < 2 or frames % 2:
            raise ValueError(f"frames = {frames}: allowed is an even number, pairs of frames are fused")
        super().__init__(WeightNetwork(width, grid, levels, fusion, head))
        self.frames = frames
        self.alpha = nn.Parameter(torch.zeros(()))
        self.temporal_embedding = nn.Parameter(torch.empty(frames, width))
        nn.init.trunc_normal_(self.temporal_embedding, std=0.02)  # with α and p both at zero neither would ever move

    def place(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.frames:
            raise ValueError(f"clips of {x.shape[1]} frames: this InTI has a temporal embedding for {self.frames}")
        return x + (self.alpha * self.temporal_embedding).unsqueeze(1)  # eq. 8


class WeightNetwork(nn.Module):
    """The weights of each pair from four contexts (InTI eq. 9-13): x (B,T,N,C) -> (B,T,N).

    token   f([x_2t,i ; x_2t+1,i])
    cube    f([c_2t,i ; c_2t+1,i]), c a depth-wise 3x3x3 convolution of the patches
    frame   f([cls_2t ; cls_2t+1]), once a pair
    global  GlobalContext of all class tokens, once a clip
    logits = Linear_{C->2}(GELU(Linear([token ; cube + frame + global])))

    fusion: "sep" as above; "add": the sum of all; "cat": all side by side. head: "softmax" over the pair; "sigmoid" of each
    logit, so that the two need not sum to 1; "attention": logit_k = a · (h ⊙ LN(x_k)), with a learned vector a and h the hidden
    layer [how the two meet is our choice]. The last layer starts at zero: every weight is 1/2. c of the class token and of
    registers is 0 [ours].
    """

    def __init__(self, width: int, grid: tuple[int, int], levels: Sequence[str] = LEVELS, fusion: str = "sep",
                 head: str = "softmax"):
        super().__init__()
        CompressionConfig("inti", (1,), tuple(levels), fusion, head)  # refuses what it does not know
        self.grid, self.fusion, self.head = tuple(grid), fusion, head
        self.token = PairFeature(width) if "token" in levels else None
        self.cube_conv = nn.Conv3d(width, width, 3, padding=1, groups=width) if "cube" in levels else None
        self.cube = PairFeature(width) if "cube" in levels else None
        self.frame = PairFeature(width) if "frame" in levels else None
        self.clip = GlobalContext(width) if "global" in levels else None
        self.hidden = nn.Linear(count_parts(levels, fusion) * width, width)
        self.score = nn.Linear(width, 1, bias=False) if head == "attention" else nn.Linear(width, 2)
        for parameter in self.score.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 1 + self.grid[0] * self.grid[1]:
            raise ValueError(f"{x.shape[2]} tokens a frame: allowed is 1 + {self.grid[0]}·{self.grid[1]}, a class token and the "
                             "grid, and registers behind them")
        logits = self.logits(x)  # (B,P,2,N)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()  # in half precision the weights of a pair would sum to 1 only to some thousandths
        weights = logits.sigmoid() if self.head == "sigmoid" else logits.softmax(2)
        return weights.flatten(1, 2)

    def logits(self, x: Tensor) -> Tensor:
        parts = self.parts(x)
        # the layer on parts side by side, part by part: what is one vector a pair or a clip is multiplied once
        columns = self.hidden.weight.chunk(len(parts), dim=1)
        h = F.linear(parts[0], columns[0], self.hidden.bias)  # (B, P, N or 1, C)
        for part, weight in zip(parts[1:], columns[1:], strict=True):
            h = h + F.linear(part, weight)
        h = F.gelu(h)
        if self.head == "attention":
            tokens = F.layer_norm(x, x.shape[-1:]).unflatten(1, (-1, 2))  # (B,P,2,N,C)
            return self.score(tokens * h.unsqueeze(2)).squeeze(-1)
        return self.score(h).expand(-1, x.shape[1] // 2, x.shape[2], -1).movedim(-1, 2)

    def parts(self, x: Tensor) -> list[Tensor]:
        """What the hidden layer reads: features (B, P or 1, N or 1, C), fused as the config says."""
        token = [self.token(x)] if self.token else []
        context = []
        if self.frame:
            context.append(self.frame(x[:, :, :1]))  # (B,P,1,C)
        if self.clip:
            context.append(self.clip(x[:, :, 0])[:, None, None])  # (B,1,1,C)
        if self.cube:
            context.append(self.cube(self.neighbourhood(x)))  # (B,P,N,C)
        if self.fusion == "cat":
            return token + context
        if self.fusion == "add":
            return [sum(token + context)]
        return token + ([sum(context)] if context else [])

    def neighbourhood(self, x: Tensor) -> Tensor:
        """c: the patch grid through the depth-wise convolution over (T,H,W); zero for class token and registers. (B,T,N,C)."""
        cubes = grid_conv(self.cube_conv, x, self.grid).flatten(2, 3)
        return F.pad(cubes, (0, 0, 1, x.shape[2] - 1 - cubes.shape[2]))


class PairFeature(nn.Module):
    """f(z) = GELU(Linear_{2C->C}(LN(z))), z the two tokens of a pair side by side (InTI eq. 9): (B,T,n,C) -> (B,P,n,C)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(2 * width)
        self.linear = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        pair = x.unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)  # (B,P,n,2C)
        return F.gelu(self.linear(self.norm(pair)))


class GlobalContext(nn.Module):
    """All class tokens of a clip as one vector (InTI eq. 12 and its appendix B): (B,T,C) -> (B,C).

    [depth-wise Conv1d(3) -> max-pool(2) -> GELU] twice -> depth-wise Conv1d(3) -> mean over time -> GELU -> Linear_{C->C} [ours].
    Only while more than one frame is left is there something to pool; of an odd number the last is seen through the convolution.
    """

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1, groups=width) for _ in range(3))
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)  # (B,C,T)
        for conv in self.convs[:2]:
            x = conv(x)
            x = F.gelu(F.max_pool1d(x, 2) if x.shape[2] > 1 else x)
        return self.linear(F.gelu(self.convs[2](x).mean(2)))


def count_parts(levels: Sequence[str], fusion: str) -> int:
    """How many vectors of width C the hidden layer reads side by side."""
    return {"sep": min(len(levels), 1 + ("token" in levels)), "add": 1, "cat": len(levels)}[fusion]


def paired_clips(x: Tensor, frames: int) -> Tensor:
    """(B·T,N,C) -> (B,T,N,C) with an even T. Raises ValueError."""
    if frames % 2:
        raise ValueError(f"{x.shape[0]} frames in clips of {frames}: allowed are whole clips of an even number of frames")
    return as_clips(x, frames)
