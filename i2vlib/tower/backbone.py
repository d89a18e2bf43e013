"""VideoViT: CLIP's image tower fed with frames, one feature a frame.

The image part has the key names and shapes of open_clip's visual tower, so that CLIP's weights load without a table of
names and a merged model loads back into an unmodified open_clip tower. What a model adds lives under keys of its own:
`temporal_embedding`, `temporal_stem`, `adapters`, `temporal` and `compression` (ADDED). Plain ViTs of other origins are brought
to the same form (i2vlib.tower.families): what they lack, such as ln_pre, is left out; registers lie under a key that open_clip
does not have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import stochastic_depth

from i2vlib.adaptation.block import beside, in_front, make_adapters, on_stream
from i2vlib.compression.pooling import make_site
from i2vlib.compression.tokens import Merging
from i2vlib.config import DROPPING, HALVING, ConfigError, ModelConfig, SwinConfig
from i2vlib.layers import QuickGELU, as_clips, through
from i2vlib.temporal.evl import EVLDecoder
from i2vlib.temporal.shifts import patch_offsets, shift_class_token
from i2vlib.temporal.uniformerv2 import GlobalBranch, LocalModule, TemporalStem
from i2vlib.tower.attention import Attention

# parts of keys that no image tower has
ADDED = frozenset(("temporal_embedding", "temporal_stem", "adapters", "temporal", "compression"))


class MLP(nn.Sequential):
    """c_proj(gelu(c_fc(x))), with what stands beside either weight."""

    def forward(self, x: Tensor, adapters: Mapping[str, nn.Module] | None = None) -> Tensor:
        adapters = adapters or {}
        x = self.gelu(beside(adapters, "mlp_in", x, self.c_fc(x)))
        return beside(adapters, "mlp_out", x, self.c_proj(x))


class Block(nn.Module):
    """x + A_out(attention(A_in(LN1 x))), then x + M_out(MLP(M_in(LN2 x))); without adapters the plain ViT block.

    With UniFormerV2's local modules or the class-token shift one stands before each of the two; with ToMe tokens merge between.
    """

    def __init__(self, config: ModelConfig, drop: float = 0.0):
        super().__init__()
        self.drop, tower = drop, config.tower
        width, hidden, temporal = tower.width, int(tower.width * tower.mlp_ratio), config.temporal
        self.ln_1 = nn.LayerNorm(width, tower.norm_eps)
        self.attn = Attention(width, tower.heads, temporal.offsets, queries=temporal.queries, shift=temporal.shift,
                              folds=temporal.folds,
                              patches=patch_offsets(tower.grid, tower.registers) if temporal.shift == "patch" else None)
        self.ln_2 = nn.LayerNorm(width, tower.norm_eps)
        self.mlp = MLP(OrderedDict(
            c_fc=nn.Linear(width, hidden), gelu=QuickGELU() if tower.quick_gelu else nn.GELU(),
            c_proj=nn.Linear(hidden, width)))
        self.adapters = make_adapters(config)
        self.temporal = nn.ModuleList(LocalModule(width) for _ in range(2 * temporal.local))

    def forward(self, x: Tensor, frames: int, merging: Merging | None = None, seen: list[Tensor] | None = None) -> Tensor:
        if self.temporal:
            x = self.dropped(x, self.temporal[0](x, frames), frames)
        x = on_stream(self.adapters, "qkv", self.shift(x, frames), frames)
        mixed = self.attn(x, frames, self.adapters, merging, self.ln_1, seen)
        x = self.dropped(x, x + self.behind("attn_out", mixed, frames), frames)
        if merging is not None:
            x = merging.apply(x, merging.keys)
        if self.temporal:
            x = self.dropped(x, self.temporal[1](x, frames), frames)
        x = on_stream(self.adapters, "mlp_in", self.shift(x, frames), frames)
        entered = through(x, self.ln_2, *in_front(self.adapters, "mlp_in"))
        return self.dropped(x, x + self.behind("mlp_out", self.mlp(entered, self.adapters), frames), frames)

    def dropped(self, x: Tensor, grown: Tensor, frames: int) -> Tensor:
        """x + branch, given as `grown`; in training a share `drop` of the clips has no branch, the others 1/(1-drop) of it."""
        if not (self.drop and self.training):
            return grown
        return x + stochastic_depth(as_clips(grown - x, frames), self.drop, "row").flatten(0, 1)

    def shift(self, x: Tensor, frames: int) -> Tensor:
        return shift_class_token(x, frames, self.attn.folds) if self.attn.shift == "class_token" else x

    def behind(self, place: str, x: Tensor, frames: int) -> Tensor:
        """What a sublayer gives, through the adapter that stands behind its last weight."""
        return on_stream(self.adapters, place, through(x, *in_front(self.adapters, place)), frames)


class AIMBlock(Block):
    """x + T(over time(A(LN1 x))), then x + S(attention(LN1 x)), then x + MLP(LN2 x) + J(LN2 x)   (AIM, arXiv 2302.03024).

    T and J are branches that are 0 at the start, A and S GELU adapters, each where `places` has it: time_out, mlp, time_in,
    attn_out. The attention over time has the weights of the one within frames. Only T and J are dropped in drop_path.
    """

    def forward(self, x: Tensor, frames: int, merging: Merging | None = None, seen: list[Tensor] | None = None) -> Tensor:
        adapters = self.adapters
        if "time_out" in adapters:
            # not by ln_1's own forward: whoever hooks onto it looks for what the attention within frames reads
            entered = F.layer_norm(x, self.ln_1.normalized_shape, self.ln_1.weight, self.ln_1.bias, self.ln_1.eps)
            mixed = self.attn.over_time(through(entered, *in_front(adapters, "time_in")), frames)
            x = self.dropped(x, x + adapters["time_out"](mixed), frames)
        x = x + self.behind("attn_out", self.attn(x, frames, adapters, merging, self.ln_1, seen), frames)
        entered = self.ln_2(x)
        x = x + self.mlp(entered)
        return self.dropped(x, x + adapters["mlp"](entered), frames) if "mlp" in adapters else x


class Transformer(nn.Module):
    """The blocks, in order; between them the compression's sites, beside them UniFormerV2's global branch or EVL's
    decoder, if any."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, tower, temporal = config, config.tower, config.temporal
        plain = ModelConfig(tower, frames=config.frames)  # the blocks below the first that is adapted
        drops = [config.drop_path * i / max(1, tower.layers - 1) for i in range(tower.layers)]
        kind = AIMBlock if config.adaptation.kind == "aim" else Block
        self.resblocks = nn.ModuleList(kind(config, drop) if i >= config.lower else Block(plain) for i, drop in enumerate(drops))
        self.compression = nn.ModuleDict({str(block): make_site(config, block) for block in config.compression.after})
        self.recompute = False  # whether blocks that train keep their input alone for backward: see tower.modes
        shape, self.temporal = (tower.width, tower.heads, temporal.global_blocks or temporal.evl), None
        if temporal.global_blocks:
            self.temporal = GlobalBranch(*shape, config.compression.kind not in DROPPING, temporal.global_dropout)
        elif temporal.evl:
            self.temporal = EVLDecoder(*shape, config.frames, (tower.grid,) * 2, temporal.global_dropout)

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, int, Tensor | None]:
        """(B·T,N,D), the input of the first block that is adapted, -> tokens (B·T',N',D), T' and what the global branch or
        the decoder has read, (B,1,D)."""
        compression, evl, grid = self.config.compression, self.config.temporal.evl, (self.config.tower.grid,) * 2
        merging = Merging(x, compression.remove) if compression.kind == "tome" and compression.remove else None
        query = self.temporal.start(x.shape[0] // frames) if self.temporal else None
        first = len(self.resblocks) - (self.config.temporal.global_blocks or evl)
        again = self.recompute and self.training and torch.is_grad_enabled() and not evl  # which has no block that trains
        for i, block in enumerate(self.resblocks[self.config.lower:], self.config.lower):
            seen = [] if evl and i >= first else None
            x = checkpoint(block, x, frames, use_reentrant=False) if again else block(x, frames, merging, seen)
            if str(i + 1) in self.compression:
                x = self.compression[str(i + 1)](x, frames)
                frames = frames // 2 if compression.kind in HALVING else frames
            if query is not None and i >= first:
                query = self.temporal.read(i - first, query, x, frames, *(seen or (grid,)))
        return x, frames, query


class VideoViT(nn.Module):
    """A CLIP image tower on video: (B,T,3,H,W) float -> (B,T',D), ln_post of each frame's class token.

    T' = T, or fewer after compression. Where nothing is added it is the image tower, frame by frame. In place of a video each
    method takes what `lower` made of it, (B,T,N,D), which never changes while the upper blocks are trained. Weights are random
    until i2vlib.tower.weights loads some. Raises ValueError for a clip of the wrong shape, ConfigError for a Swin.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, tower = config, config.tower
        if isinstance(tower, SwinConfig):
            raise ConfigError("ModelConfig.tower is a SwinConfig: allowed here is a plain ViT's; build_model takes either")
        scale = tower.width**-0.5
        self.conv1 = nn.Conv2d(3, tower.width, tower.patch_size, tower.patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(tower.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + tower.grid**2, tower.width))
        if tower.registers:
            self.registers = nn.Parameter(scale * torch.randn(tower.registers, tower.width))
        self.ln_pre = nn.LayerNorm(tower.width, tower.norm_eps) if tower.ln_pre else nn.Identity()
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(tower.width, tower.norm_eps)
        if tower.output_dim:
            self.proj = nn.Parameter(scale * torch.randn(tower.width, tower.output_dim))
        if config.temporal.embedding:
            self.temporal_embedding = nn.Parameter(torch.zeros(1, config.frames_at(0), tower.width))
        if config.temporal.stem:
            self.temporal_stem = TemporalStem(tower.width, tower.patch_size)

    def forward(self, video: Tensor) -> Tensor:
        return self.ln_post(self.tokens(video)[:, :, 0])

    def clip_feature(self, video: Tensor) -> Tensor:
        """(B,T,3,H,W) -> (B,D): the mean over frames of ln_post of the class tokens; with a global branch ln_post of the blend
        of what it read with the mean class token (UniFormerV2); with EVL's decoder what that has read."""
        x, frames, query = self.transformer(self.start(video), self.frames_in(video))
        class_tokens = x[:, 0].unflatten(0, (-1, frames))  # (B,T',D)
        if query is None:
            return self.ln_post(class_tokens).mean(1)
        if self.config.temporal.evl:
            return self.transformer.temporal.finish(query)
        return self.ln_post(self.transformer.temporal.blend(query, class_tokens))

    def tokens(self, video: Tensor) -> Tensor:
        """All tokens after the last block (B,T',N',D), before ln_post."""
        x, frames, _ = self.transformer(self.start(video), self.frames_in(video))
        return x.unflatten(0, (-1, frames))

    def lower(self, video: Tensor) -> Tensor:
        """(B,T,3,H,W) -> tokens (B,T,N,D) before the first block that is adapted: the image model's, frame by frame."""
        self.check(video)
        if not self.config.upper:
            raise ValueError("all blocks of this model are adapted: ModelConfig.upper says how many last ones are")
        x = self.embed(video)
        for block in self.transformer.resblocks[:self.config.lower]:
            x = block(x, video.shape[1])
        return x.unflatten(0, (-1, video.shape[1]))

    def start(self, video: Tensor) -> Tensor:
        """The input (B·T, N, D) of the first block that is adapted; `video` may be what `lower` gave."""
        if not self.config.upper:
            return self.embed(video)
        x = self.lower(video) if video.ndim == 5 else self.check_lower(video)
        return self.with_places(x.flatten(0, 1), x.shape[1])

    def embed(self, video: Tensor) -> Tensor:
        """The input of the first block (B·T, N, D): patches, class token, positions, registers, frame places, ln_pre."""
        self.check(video)
        x = self.conv1(video[:, ::2 if self.config.temporal.stem else 1].flatten(0, 1))
        if self.config.temporal.stem:
            x = x + self.temporal_stem(video)
        x = x.flatten(2).transpose(1, 2)  # (B·T, P, D)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)  # (B·T, 1+P, D)
        x = x + self.positional_embedding.to(x.dtype)
        if self.config.tower.registers:
            x = torch.cat([x, self.registers.to(x.dtype).expand(x.shape[0], -1, -1)], dim=1)  # (B·T, N, D)
        return self.ln_pre(x if self.config.upper else self.with_places(x, self.frames_in(video)))

    def frames_in(self, video: Tensor) -> int:
        """T in the first block: half of the video's with UniFormerV2's stem."""
        return (video.shape[1] + 1) // 2 if self.config.temporal.stem else video.shape[1]

    def with_places(self, x: Tensor, frames: int) -> Tensor:
        """x (B·T, N, D) with each frame's temporal embedding added, if the model has any."""
        if not self.config.temporal.embedding:
            return x
        return (as_clips(x, frames) + self.temporal_embedding.to(x.dtype)[0, :, None]).flatten(0, 1)

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (B,3,H,W) -> (B, output_dim) in the space shared with text, not normalised: CLIP's own image feature."""
        return self.ln_post(self.tokens(images[:, None])[:, 0, 0]) @ self.proj

    def image_state(self) -> dict[str, Tensor]:
        """The weights that an open_clip visual tower has, under its names: all but what is ADDED.

        They load strict into open_clip's tower whatever the model is. Its outputs are this model's only where nothing is added,
        no offset is other than 0 and nothing is shifted, and with the same activation: i2vlib.open_clip_state refuses the others.
        """
        return {k: v for k, v in self.state_dict().items() if not ADDED & set(k.split("."))}

    def check_lower(self, tokens: Tensor) -> Tensor:
        tower = self.config.tower
        if tokens.ndim != 4 or tokens.shape[2:] != (tower.tokens, tower.width):
            raise ValueError(f"tokens {tuple(tokens.shape)}: allowed is (B, T, {tower.tokens}, {tower.width}), as lower() gives "
                             "them, or a video")
        self.check_frames(tokens)
        return tokens

    def check(self, video: Tensor) -> None:
        size = self.config.tower.image_size
        if video.ndim != 5 or video.shape[2] != 3 or video.shape[3:] != (size, size):
            raise ValueError(f"video {tuple(video.shape)}: allowed is (B, T, 3, {size}, {size})")
        self.check_frames(video)

    def check_frames(self, video: Tensor) -> None:
        fixed = {"a temporal embedding": self.config.temporal.embedding, "an EVL decoder": self.config.temporal.evl,
                 "compression sites": self.config.compression.kind in HALVING}
        if any(fixed.values()) and video.shape[1] != self.config.frames:
            has = next(name for name, there in fixed.items() if there)
            raise ValueError(f"video of {video.shape[1]} frames: this model has {has} for {self.config.frames}")
