"""What an image tower is, as a config: a plain ViT or a Swin; and the towers of the papers' tables by name.

i2vlib.config, which has the rest of a model, and i2vlib.presets offer these names too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from i2vlib.checked import Config

CLIP_MEAN = (122.769 / 255, 116.74 / 255, 104.04 / 255)
CLIP_STD = (68.493 / 255, 66.63 / 255, 70.321 / 255)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TowerConfig(Config):
    """The image transformer: the shapes of an open_clip VisionTransformer, and what plain ViTs of other origins lack or add."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    output_dim: int = 512  # columns of `proj`, into the space shared with text; 0: the tower has no proj
    quick_gelu: bool | None = None  # None: the weights' origin decides (OpenAI's CLIP needs True)
    ln_pre: bool = True  # a LayerNorm before the first block, as in CLIP; DINO, DeiT, MAE and ImageNet's ViTs have none
    norm_eps: float = 1e-5  # of every LayerNorm; 1e-6 in most towers that are not CLIP's
    registers: int = 0  # tokens without a patch beside the class token: registers (DINOv2), the distillation token (DeiT)
    mean: tuple[float, float, float] = CLIP_MEAN  # what the tower's pictures were normalised with: ClipConfig has to agree
    std: tuple[float, float, float] = CLIP_STD

    def check(self) -> None:
        for name in ("image_size", "patch_size", "width", "layers", "heads"):
            self.need(getattr(self, name) >= 1, name, "1 or more")
        self.need(self.output_dim >= 0, "output_dim", "0 (no proj) or more")
        self.need(self.image_size % self.patch_size == 0, "image_size", f"a multiple of patch_size {self.patch_size}")
        self.need(self.width % self.heads == 0, "width", f"a multiple of heads {self.heads}")
        self.need(self.mlp_ratio > 0, "mlp_ratio", "more than 0")
        self.need(self.norm_eps > 0, "norm_eps", "more than 0")
        self.need(self.registers >= 0, "registers", "0 or more")
        self.need(min(self.std) > 0, "std", "three numbers above 0")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """N: the class token, the patches of one frame, then the registers."""
        return 1 + self.grid**2 + self.registers

    @property
    def features(self) -> int:
        """D of what the tower gives for a frame."""
        return self.width

    @property
    def all_heads(self) -> int:
        """The heads that TemporalConfig.offsets has an entry for: the same ones in every block."""
        return self.heads

    @classmethod
    def from_dict(cls, data: dict) -> TowerConfig:
        """A SwinConfig where `data` has stages."""
        kind = SwinConfig if cls is TowerConfig and "depths" in data else cls
        return super(TowerConfig, kind).from_dict(data)


@dataclass(frozen=True)
class SwinConfig(TowerConfig):
    """Swin (arXiv 2103.14030), attention within windows of a grid that halves from stage to stage; the defaults are Swin-B.

    width and heads are those of the first stage, each next one has twice as many. Fields that speak of a class token, of CLIP's
    projection or activation keep what they are here. Raises ConfigError where windows do not tile the grid of every stage.
    """

    patch_size: int = 4
    width: int = 128
    layers: int = 24  # blocks of all stages
    heads: int = 4
    output_dim: int = 0
    quick_gelu: bool | None = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    depths: tuple[int, ...] = (2, 2, 18, 2)  # blocks of each stage
    window: int = 7  # patches along one side; every second block has its windows moved by half of it, rounded down

    def check(self) -> None:
        super().check()
        self.need(len(self.depths) >= 1 and min(self.depths) >= 1, "depths", "one or more stages of 1 or more blocks")
        self.need(self.layers == sum(self.depths), "layers", f"{sum(self.depths)}, the blocks of depths {self.depths}")
        self.need(self.window >= 2, "window", "2 or more")
        tile = self.patch_size * self.window * 2 ** (len(self.depths) - 1)
        self.need(self.image_size % tile == 0, "image_size", f"a multiple of {tile}: windows tile the grid of every stage")
        for name, only in (("output_dim", 0), ("quick_gelu", False), ("ln_pre", True), ("registers", 0)):
            self.need(getattr(self, name) == only, name, f"{only!r}, as all Swins have it")

    @property
    def tokens(self) -> int:
        """N in the first stage: its patches; there is no class token."""
        return self.grid**2

    @property
    def features(self) -> int:
        return self.width * 2 ** (len(self.depths) - 1)

    @property
    def all_heads(self) -> int:
        """The first stage's heads, then the second's, and so on."""
        return sum(self.heads * 2**stage for stage in range(len(self.depths)))


VIT_S14 = TowerConfig(112, 14, 384, 12, 6, 4.0, 0, False, ln_pre=False, norm_eps=1e-6, mean=IMAGENET_MEAN, std=IMAGENET_STD)
TOWERS = {
    "ViT-B-32": TowerConfig(224, 32, 768, 12, 12, 4.0, 512),
    "ViT-B-16": TowerConfig(224, 16, 768, 12, 12, 4.0, 512),
    "ViT-L-14": TowerConfig(224, 14, 1024, 24, 16, 4.0, 768),
    "ViT-L-14-336": TowerConfig(336, 14, 1024, 24, 16, 4.0, 768),
    "mini": TowerConfig(48, 6, 64, 4, 8, 4.0, 64),  # shipped with its weights: 8x8 patches, 0.2M parameters
    # real pre-training on photographs, fetched by `python -m i2vlib.fetch`; made for 518 pixels, here of 8x8 patches: tower_at
    "dinov2-s14": VIT_S14, "saliency-vit-s14": VIT_S14,
    # of ZeroI2V's Tables 13 and 14
    "IN21K-B-16": TowerConfig(output_dim=0, quick_gelu=False, ln_pre=False, norm_eps=1e-6, mean=(0.5,) * 3, std=(0.5,) * 3),
    "Swin-B": SwinConfig(),
    # without weights, for pictures of the embedded tasks: 16x16 patches, then 8x8
    "mini-swin": SwinConfig(48, 3, 32, 4, 4, depths=(2, 2), window=4, mean=CLIP_MEAN, std=CLIP_STD),
}
# what build_model loads into towers that are no CLIP's: timm's names
WEIGHTS = {"IN21K-B-16": "vit_base_patch16_224.augreg_in21k", "Swin-B": "swin_base_patch4_window7_224.ms_in22k"}


def tower_at(name: str, image_size: int) -> TowerConfig:
    """The tower of that name for square pictures of image_size pixels: its weights load with resize_positions=True.

    Raises KeyError for an unknown name, ConfigError for a size that is no multiple of its patches.
    """
    return replace(TOWERS[name], image_size=image_size)
