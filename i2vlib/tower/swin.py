"""VideoSwin: Swin's image tower (arXiv 2103.14030) fed with frames, with ZeroI2V's relocated heads and linear adapters.

The second family of towers: where ModelConfig.tower is a SwinConfig, build_model gives a VideoClassifier around a VideoSwin, and
training, the merge, checkpoints, evaluation and export are those of every other model. The image part has the key names and
shapes of timm's SwinTransformer, so that its weights load as they are and a merged model loads strict into timm's unmodified
class. What a Swin cannot have here ModelConfig refuses with the reason.

A relocated head meets the keys and values of the same window in another frame. All frames have the same windows, so heads are
relocated by the very function that plain ViTs use, on whole frames, before these are cut into windows.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from i2vlib.adaptation.block import in_front
from i2vlib.adaptation.linear import GELUAdapter, LinearAdapter
from i2vlib.config import AdaptationConfig, ModelConfig, SwinConfig
from i2vlib.layers import through
from i2vlib.temporal.heads import relocate_heads
from i2vlib.tower.archives import WeightsError
from i2vlib.tower.backbone import Block

FAR = -100.0  # Swin's own, on logits of pairs that are no neighbours in the picture; e^-100 of them is left
PATCHES = "patch_embed.proj.weight"  # the one weight whose shape depends on the frames of a patch


class WindowAttention(nn.Module):
    """softmax(q[t]·k[t+δ]^T / sqrt(d) + bias)·v[t+δ] within windows of w·w patches; δ is each head's offset (ZeroI2V eq. 7-9).

    x (B·T, N, D), N = grid², -> the same shape. bias: one learnt number a head for each way from one patch to another. shift:
    patches by which the windows are moved, 0 or half a window; what then lies in one window but apart in the picture does not
    meet. offsets: one int a head, () = all spatial. Raises ValueError where the batch is not whole clips of `frames` frames.
    """

    def __init__(self, width: int, heads: int, grid: int, window: int, shift: int, offsets: tuple[int, ...]):
        super().__init__()
        self.heads, self.grid, self.window, self.shift, self.offsets = heads, grid, window, shift, tuple(offsets)
        self.relative_position_bias_table = nn.Parameter(0.02 * torch.randn((2 * window - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("ways", ways(window), persistent=False)
        self.register_buffer("apart", FAR * regions_differ(grid, window, shift).float()[:, None], persistent=False)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        qkv = relocate_heads(self.qkv(x), frames, self.offsets)
        q, k, v = self.windows(qkv)
        bias = self.relative_position_bias_table[self.ways].permute(2, 0, 1) + self.apart  # (windows, h, w², w²)
        return self.proj(self.whole(F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1)[None].to(q.dtype))))

    def windows(self, qkv: Tensor) -> Tensor:
        """(B·T, N, 3D) -> q, k, v, each (B·T, windows·h, w², d): the windows of a frame lie beside its heads."""
        x = qkv.unflatten(1, (self.grid, self.grid))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        side = (self.grid // self.window, self.window)
        x = x.unflatten(2, side).unflatten(1, side).unflatten(-1, (3, self.heads, -1))  # (B·T, G, w, G, w, 3, h, d)
        return x.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 4)

    def whole(self, x: Tensor) -> Tensor:
        """(B·T, windows·h, w², d) -> (B·T, N, D), every patch where it was."""
        count = self.grid // self.window
        x = x.unflatten(2, (self.window, self.window)).unflatten(1, (count, count, self.heads))  # (B·T, G, G, h, w, w, d)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)  # (B·T, H, W, D)
        return (x.roll((self.shift, self.shift), (1, 2)) if self.shift else x).flatten(1, 2)


def ways(window: int) -> Tensor:
    """(w², w²) int64: which of the (2w-1)² ways leads from the patch of each column to that of each row."""
    place = torch.arange(window**2)
    row, column = (p[:, None] - p + window - 1 for p in (place // window, place % window))
    return row * (2 * window - 1) + column


def regions_differ(grid: int, window: int, shift: int) -> Tensor:
    """(windows, w², w²) bool: which pairs of a window are no neighbours, as the picture's last `shift` rows or columns come to
    lie behind its first. (windows, 1, 1) and False without a shift."""
    if not shift:
        return torch.zeros((grid // window) ** 2, 1, 1, dtype=torch.bool)
    wrapped = (torch.arange(grid) >= grid - shift).long()
    cells = (2 * wrapped[:, None] + wrapped).unflatten(1, (-1, window)).unflatten(0, (-1, window))  # (G, w, G, w)
    cells = cells.transpose(1, 2).flatten(2).flatten(0, 1)  # (windows, w²)
    return cells[:, :, None] != cells[:, None]


class SwinBlock(nn.Module):
    """x + A_out(attention(A_in(LN1 x))), then x + M_out(MLP(M_in(LN2 x))), attention within windows; x (B·T, N, D)."""

    dropped = Block.dropped  # drop path of whole clips

    def __init__(self, attention: WindowAttention, tower: SwinConfig, adaptation: AdaptationConfig, drop: float):
        super().__init__()
        width, self.drop = attention.proj.out_features, drop
        hidden = int(width * tower.mlp_ratio)
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width, tower.norm_eps), attention, nn.LayerNorm(width, tower.norm_eps)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, width)))
        kind = GELUAdapter if adaptation.kind == "gelu" else LinearAdapter
        self.adapters = nn.ModuleDict({place: kind(width, adaptation) for place in adaptation.places})

    def forward(self, x: Tensor, frames: int) -> Tensor:
        mixed = self.attn(through(x, self.norm1, *in_front(self.adapters, "qkv")), frames)
        x = self.dropped(x, x + through(mixed, *in_front(self.adapters, "attn_out")), frames)
        grown = self.mlp(through(x, self.norm2, *in_front(self.adapters, "mlp_in")))
        return self.dropped(x, x + through(grown, *in_front(self.adapters, "mlp_out")), frames)


class PatchMerging(nn.Module):
    """LN and a linear map of each 2x2 patches, side by side: (B·T, N, D) -> (B·T, N/4, 2D)."""

    def __init__(self, width: int, grid: int, eps: float):
        super().__init__()
        self.grid, self.norm, self.reduction = grid, nn.LayerNorm(4 * width, eps), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.grid // 2, 2, self.grid // 2, 2)).permute(0, 1, 3, 4, 2, 5)  # column in a square, then row
        return self.reduction(self.norm(x.flatten(3).flatten(1, 2)))


class Stage(nn.Module):
    """Blocks on one grid, the windows of every second one moved; in all stages but the first behind a merging of patches."""

    def __init__(self, config: ModelConfig, stage: int, drops: list[float]):
        super().__init__()
        tower, scale = config.tower, 2**stage
        width, heads, grid = tower.width * scale, tower.heads * scale, tower.grid // scale
        offsets = stage_offsets(config)[stage]
        moved = tower.window // 2 if grid > tower.window else 0  # one window is the whole picture
        self.downsample = PatchMerging(width // 2, 2 * grid, tower.norm_eps) if stage else nn.Identity()
        self.blocks = nn.ModuleList(
            SwinBlock(WindowAttention(width, heads, grid, tower.window, moved * (i % 2), offsets), tower, config.adaptation, drop)
            for i, drop in enumerate(drops))


class VideoSwin(nn.Module):
    """A Swin on video: (B,T,3,H,W) float -> (B,T',D), the mean over patches of the last norm of each frame.

    T' = T, or T/2 with temporal.stem, where a patch is 4x4 pixels of two frames, as in Video Swin (arXiv 2106.13230), whose 32
    frames become 16 (ZeroI2V's appendix 6.1.1). Its convolution starts as the image model's on the mean of the two: a still pair
    is the image, no frame is preferred, and it is how Video Swin starts. Where nothing is added it is the image tower, frame by
    frame. Weights are random until i2vlib.tower.weights loads some. Raises ValueError for a clip of the wrong shape.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config, tower = config, config.tower
        drops = [config.drop_path * i / max(1, tower.layers - 1) for i in range(tower.layers)]
        self.pair = 2 if config.temporal.stem else 1  # frames of a patch
        self.patch_embed = nn.ModuleDict({
            "proj": nn.Conv2d(3 * self.pair, tower.width, tower.patch_size, tower.patch_size),  # the frames' colours side by side
            "norm": nn.LayerNorm(tower.width, tower.norm_eps)})
        firsts = [sum(tower.depths[:stage]) for stage in range(len(tower.depths))]
        self.layers = nn.ModuleList(Stage(config, stage, drops[first:first + depth])
                                    for stage, (first, depth) in enumerate(zip(firsts, tower.depths, strict=True)))
        self.norm = nn.LayerNorm(tower.features, tower.norm_eps)
        self.recompute = False  # as in backbone.Transformer

    def forward(self, video: Tensor) -> Tensor:
        return self.norm(self.tokens(video)).mean(2)

    def clip_feature(self, video: Tensor) -> Tensor:
        """(B,T,3,H,W) -> (B,D): the mean over frames."""
        return self(video).mean(1)

    def tokens(self, video: Tensor) -> Tensor:
        """All tokens after the last block (B,T',N',D), before the last norm."""
        self.check(video)
        x, frames = video.unflatten(1, (-1, self.pair)).flatten(2, 3).flatten(0, 1), video.shape[1] // self.pair
        x = self.patch_embed["norm"](self.patch_embed["proj"](x).flatten(2).transpose(1, 2))  # (B·T', N, D)
        again = self.recompute and self.training and torch.is_grad_enabled()
        for stage in self.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = checkpoint(block, x, frames, use_reentrant=False) if again else block(x, frames)
        return x.unflatten(0, (-1, frames))

    def image_state(self) -> dict[str, Tensor]:
        """The weights that timm's SwinTransformer has without a head, under its names: all but adapters.

        They load strict whatever the model is; timm computes what this model does where i2vlib.timm_state says so. Of patches of
        two frames it is what they make of a still pair: the sum of both frames' weights.
        """
        state = {k: v for k, v in self.state_dict().items() if ".adapters." not in k}
        if self.pair > 1:
            state[PATCHES] = state[PATCHES].unflatten(1, (self.pair, 3)).sum(1)
        return state

    @torch.no_grad()
    def load_image(self, state: Mapping[str, Tensor]) -> None:
        """Copy weights as image_state gives them; a patch of two frames takes the mean of what it makes of each."""
        for name, value in self.state_dict().items():  # shares the module's memory
            if name in state:
                value.copy_(state[name].repeat(1, self.pair, 1, 1) / self.pair if name == PATCHES else state[name])

    def check(self, video: Tensor) -> None:
        size = self.config.tower.image_size
        if video.ndim != 5 or video.shape[2] != 3 or video.shape[3:] != (size, size):
            raise ValueError(f"video {tuple(video.shape)}: allowed is (B, T, 3, {size}, {size})")
        if video.shape[1] % self.pair:
            raise ValueError(f"video of {video.shape[1]} frames: this model's patches are of two: allowed is an even number")


def stage_offsets(config: ModelConfig) -> list[tuple[int, ...]]:
    """The offsets of each stage's heads; () where all heads are spatial."""
    tower, offsets = config.tower, config.temporal.offsets
    starts = [tower.heads * (2**stage - 1) for stage in range(len(tower.depths) + 1)]  # h, 2h, 4h, ... heads
    return [offsets[a:b] for a, b in zip(starts, starts[1:], strict=False)]


# ---- weights in, and what it costs ----

# place -> where its weight lies, as in adaptation.block
LAYERS = {"qkv": ("attn.qkv.", None), "attn_out": ("attn.proj.", None), "mlp_in": ("mlp.fc1.", None),
          "mlp_out": ("mlp.fc2.", None)}
MADE = ("relative_position_index", "attn_mask")  # what publishers keep in files and every model makes for itself


def swin_part(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of the one Swin in `state`, whatever prefix they lie under, under timm's names and without a head.

    Takes the files of timm, new and old, and Microsoft's: there a stage ends with the merging of patches that here the next one
    begins with. Raises WeightsError where there is no Swin, or more than one.
    """
    found = [name[:-len(PATCHES)] for name in state if f".{name}".endswith(f".{PATCHES}")]
    if len(found) != 1 or not any(re.search(r"layers\.\d+\.blocks\.\d", name) for name in state):
        raise WeightsError(f"{source}: not the weights of one Swin in the names of timm or of its authors, with "
                           f"layers.0.blocks.0 and one {PATCHES}, of which it has {len(found)}")
    part = {k[len(found[0]):]: v for k, v in state.items() if k.startswith(found[0])}
    part = {k: v for k, v in part.items() if k.partition(".")[0] != "head" and not k.endswith(MADE)}
    if "layers.0.downsample.reduction.weight" in part:
        part = {re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", k): v
                for k, v in part.items()}
    return part


def swin_multiply_adds(config: ModelConfig) -> int:
    """Multiply-adds of one clip by hand: T times patches, merging of patches (4·(D/2)·D a patch that is left), and per block and
    patch 4 projections, both products with the w² of its window, MLP, adapters; then the head."""
    tower, adaptation, T = config.tower, config.adaptation, config.frames_at(0)
    total = T * tower.grid**2 * (3 * (1 + config.temporal.stem)) * tower.patch_size**2 * tower.width
    for stage, depth in enumerate(tower.depths):
        D, N = tower.width * 2**stage, (tower.grid // 2**stage) ** 2
        adapters = len(adaptation.places) * 2 * D * max(1, int(D * adaptation.ratio))
        block = 4 * D * D + 2 * tower.window**2 * D + 2 * D * int(D * tower.mlp_ratio) + adapters
        total += T * N * (depth * block + (2 * D * D if stage else 0))
    return total + tower.features * config.classes
