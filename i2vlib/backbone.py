"""VideoViT: CLIP's image tower fed with frames, one feature a frame.

The image part has the key names and shapes of open_clip's visual tower, so that CLIP's weights load without a table of
names and a merged model loads back into an unmodified open_clip tower. What a model adds lives under keys of its own:
`temporal_embedding` and `transformer.resblocks.<i>.adapters.<place>`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2vlib.adaptation.linear import ADAPTERS
from i2vlib.config import AdaptationConfig, ModelConfig, TowerConfig
from i2vlib.temporal.heads import relocate_heads


class QuickGELU(nn.Module):
    """x·σ(1.702 x), the activation that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return x * torch.sigmoid(1.702 * x)
        return torch.sigmoid(1.702 * x).mul_(x)  # one temporary fewer


class Attention(nn.Module):
    """Multi-head self-attention within a frame; heads with an offset read another frame (STDHA, ZeroI2V eq. 7-9).

    x (B·T, N, D) -> the same shape. `offsets`: one int a head, or () where all heads are spatial. No parameter and no
    multiply-add depends on them.
    """

    def __init__(self, width: int, heads: int, offsets: tuple[int, ...] = ()):
        super().__init__()
        if offsets and len(offsets) != heads:
            raise ValueError(f"{len(offsets)} offsets: allowed is one a head, {heads}, or none")
        self.heads, self.offsets = heads, tuple(offsets)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, frames: int, adapters: nn.ModuleDict) -> Tensor:
        qkv = relocate_heads(self.project(x, adapters), frames, self.offsets)  # (B·T, N, 3D)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B·T, h, N, d), a view
        x = F.scaled_dot_product_attention(q, k, v)  # (B·T, h, N, d)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B·T, N, D)

    def project(self, x: Tensor, adapters: nn.ModuleDict) -> Tensor:
        """q, k, v of every token (B·T, N, 3D), through the adapters that stand in front of the projection."""
        if "qkv" in adapters:
            x = adapters["qkv"](x)
        if not {"q", "k", "v"} & set(adapters):
            return F.linear(x, self.in_proj_weight, self.in_proj_bias)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        inputs = [adapters[place](x) if place in adapters else x for place in "qkv"]
        return torch.cat([F.linear(*layer) for layer in zip(inputs, weights, biases, strict=True)], dim=-1)


class Block(nn.Module):
    """x + A_out(attention(A_in(LN1 x))), then x + M_out(MLP(M_in(LN2 x))); without adapters the plain ViT block."""

    def __init__(self, tower: TowerConfig, offsets: tuple[int, ...], adaptation: AdaptationConfig):
        super().__init__()
        width, hidden = tower.width, int(tower.width * tower.mlp_ratio)
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, tower.heads, offsets)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict(
            c_fc=nn.Linear(width, hidden), gelu=QuickGELU() if tower.quick_gelu else nn.GELU(),
            c_proj=nn.Linear(hidden, width)))
        self.adapters = nn.ModuleDict({place: ADAPTERS[adaptation.kind](width, adaptation)
                                       for place in adaptation.places})

    def forward(self, x: Tensor, frames: int) -> Tensor:
        x = x + self.adapt("attn_out", self.attn(self.ln_1(x), frames, self.adapters))
        return x + self.adapt("mlp_out", self.mlp(self.adapt("mlp_in", self.ln_2(x))))

    def adapt(self, place: str, x: Tensor) -> Tensor:
        return self.adapters[place](x) if place in self.adapters else x


class Transformer(nn.Module):
    """The blocks, in order. Exists for open_clip's key names."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(config.tower, config.temporal.offsets, config.adaptation)
                                       for _ in range(config.tower.layers))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        for block in self.resblocks:
            x = block(x, frames)
        return x


class VideoViT(nn.Module):
    """A CLIP image tower on video: (B,T,3,H,W) float -> (B,T,D), ln_post of each frame's class token.

    With no offsets, no adapters and no temporal embedding it is the image tower, frame by frame. Weights are random until
    i2vlib.weights loads some. Raises ValueError for a clip of the wrong shape.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, tower = config, config.tower
        scale = tower.width**-0.5
        self.conv1 = nn.Conv2d(3, tower.width, tower.patch_size, tower.patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(tower.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(tower.tokens, tower.width))
        self.ln_pre = nn.LayerNorm(tower.width)
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(tower.width)
        if tower.output_dim:
            self.proj = nn.Parameter(scale * torch.randn(tower.width, tower.output_dim))
        if config.temporal.embedding:
            self.temporal_embedding = nn.Parameter(torch.zeros(1, config.frames, tower.width))

    def forward(self, video: Tensor) -> Tensor:
        return self.ln_post(self.tokens(video)[:, :, 0])

    def tokens(self, video: Tensor) -> Tensor:
        """All tokens after the last block (B,T,N,D), before ln_post."""
        x, frames = self.embed(video), video.shape[1]
        return self.transformer(x, frames).unflatten(0, (-1, frames))

    def embed(self, video: Tensor) -> Tensor:
        """The input of the first block (B·T, N, D): patches, class token, positions, frame places, ln_pre."""
        self.check(video)
        x = self.conv1(video.flatten(0, 1)).flatten(2).transpose(1, 2)  # (B·T, N-1, D)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # (B·T, N, D)
        x = x + self.positional_embedding.to(x.dtype)
        if self.config.temporal.embedding:
            place = self.temporal_embedding.to(x.dtype).expand(len(video), -1, -1)  # (B, T, D)
            x = x + place.flatten(0, 1).unsqueeze(1)
        return self.ln_pre(x)

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (B,3,H,W) -> (B, output_dim) in the space shared with text, not normalised: CLIP's own image feature."""
        return self.ln_post(self.tokens(images[:, None])[:, 0, 0]) @ self.proj

    def image_state(self) -> dict[str, Tensor]:
        """The weights that an open_clip visual tower has, under its names: all but the temporal embedding and adapters."""
        return {k: v for k, v in self.state_dict().items() if k != "temporal_embedding" and ".adapters." not in k}

    def check(self, video: Tensor) -> None:
        size = self.config.tower.image_size
        if video.ndim != 5 or video.shape[2] != 3 or video.shape[3:] != (size, size):
            raise ValueError(f"video {tuple(video.shape)}: allowed is (B, T, 3, {size}, {size})")
        if self.config.temporal.embedding and video.shape[1] != self.config.frames:
            raise ValueError(f"video of {video.shape[1]} frames: this model has a temporal embedding for "
                             f"{self.config.frames}")
