"""Make the shipped miniature tower: CLIP's contrast of images with captions, on drawn images (Radford et al. 2021).

    python -m i2vlib.course.pretrain [--steps 2600] [--seed 0] [--out i2vlib/assets/mini_tower.safetensors]

One file holds the image tower (`visual.*`, an open_clip visual tower's names) and the caption encoder (`text.*`); the recipe
and the measured zero-shot accuracy are in its metadata.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from i2vlib.config import CLIP_MEAN, CLIP_STD, ModelConfig
from i2vlib.data.drawing import ATTRIBUTES, image_batch
from i2vlib.files import whole_file
from i2vlib.presets import TOWERS
from i2vlib.tower.backbone import VideoViT
from i2vlib.tower.weights import MINI_TOWER, load_image_weights, resolve_activation

RECIPE = {"batch": 128, "lr": 2e-3, "weight_decay": 0.05, "warmup": 100, "clip_norm": 1.0, "temperature": 0.1,
          "position_scale": 0.5}
SIZES = [len(words) for words in ATTRIBUTES.values()]
FIRST_TEST_SEED = 10**9  # image batches from here on are never trained on


class CaptionEncoder(nn.Module):
    """Captions (n,6), one word's index an attribute, -> (n, width): the sum of their word vectors through an MLP."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.register_buffer("first", torch.tensor([0, *SIZES[:-1]]).cumsum(0), persistent=False)
        self.words = nn.Embedding(sum(SIZES), width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, captions: Tensor) -> Tensor:
        return F.normalize(self.mlp(self.words(captions + self.first).sum(-2)), dim=-1)


def sincos_positions(grid: int, width: int, base: float = 100.0) -> Tensor:
    """Fixed 2-D sine-cosine positions (1+grid², width): half the channels for x, half for y, zero for the class token."""
    frequency = base ** (-torch.arange(width // 4) / (width // 4))
    angle = torch.arange(grid)[:, None] * frequency  # (grid, width/4)
    line = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, width/2)
    patches = torch.cat([line[None].expand(grid, -1, -1), line[:, None].expand(-1, grid, -1)], dim=-1)
    return torch.cat([torch.zeros(1, width), patches.flatten(0, 1)])


def new_tower(seed: int) -> VideoViT:
    """A tower with random weights at the start of pre-training: also the control that shows what pre-training gives."""
    torch.manual_seed(seed)
    config = TOWERS["mini"]
    tower = VideoViT(resolve_activation(ModelConfig(config, frames=1), None))
    with torch.no_grad():
        tower.positional_embedding.copy_(RECIPE["position_scale"] * sincos_positions(config.grid, config.width))
    return tower


def normalise(images: Tensor) -> Tensor:
    return (images - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def swapped_words(captions: Tensor, generator: torch.Generator) -> Tensor:
    """Six hard negatives a caption (n,6,6): number a has another word for attribute a."""
    wrong = captions[:, None].repeat(1, len(SIZES), 1)
    for a, size in enumerate(SIZES):
        wrong[:, a, a] = (captions[:, a] + torch.randint(1, size, (len(captions),), generator=generator)) % size
    return wrong


def contrast(images: Tensor, texts: Tensor, wrong: Tensor, scale: Tensor, captions: Tensor) -> Tensor:
    """CLIP's symmetric loss; each image is also held against its caption's hard negatives.

    images, texts (n,D) and wrong (n,6,D) are unit vectors; pairs with the same caption are not held against each other.
    """
    same = (captions[:, None] == captions[None]).all(-1) & ~torch.eye(len(captions), dtype=torch.bool)
    logits = (scale * images @ texts.T).masked_fill(same, -torch.inf)
    hard = scale * torch.einsum("nd,nkd->nk", images, wrong)
    target = torch.arange(len(images))
    return (F.cross_entropy(torch.cat([logits, hard], 1), target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def zero_shot(tower: VideoViT, text: CaptionEncoder, images: int = 1024) -> dict[str, float]:
    """Zero-shot top-1 for each attribute on new images: the nearest of all 4,608 captions, read off word by word."""
    batch = image_batch(FIRST_TEST_SEED, images)
    features = F.normalize(tower.embed_images(normalise(batch["images"])), dim=-1)
    captions = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
    nearest = captions[(features @ text(captions).T).argmax(1)]
    return dict(zip(ATTRIBUTES, (nearest == batch["captions"]).float().mean(0).tolist(), strict=True))


def pretrain(steps: int, seed: int) -> tuple[VideoViT, CaptionEncoder]:
    tower = new_tower(seed)
    text, scale = CaptionEncoder(), nn.Parameter(torch.tensor(1 / RECIPE["temperature"]).log())
    named = [*tower.named_parameters(), *text.named_parameters()]
    groups = [{"params": [p for n, p in named if p.ndim >= 2 and "embedding" not in n], "weight_decay": RECIPE["weight_decay"]},
              {"params": [p for n, p in named if p.ndim < 2 or "embedding" in n] + [scale], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RECIPE["lr"])
    warmup = torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, total_iters=RECIPE["warmup"])
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps - RECIPE["warmup"])
    schedule = torch.optim.lr_scheduler.SequentialLR(optimiser, [warmup, cosine], [RECIPE["warmup"]])
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(range(steps), desc="contrast of images with captions")
    for step in bar:
        batch = image_batch(seed * 10**6 + step, RECIPE["batch"])
        captions = batch["captions"]
        images = F.normalize(tower.embed_images(normalise(batch["images"])), dim=-1)
        loss = contrast(images, text(captions), text(swapped_words(captions, generator)), scale.exp().clamp(max=100), captions)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], RECIPE["clip_norm"])
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return tower.eval(), text.eval()


def load_mini_clip() -> tuple[VideoViT, CaptionEncoder, dict]:
    """The shipped tower, its caption encoder, and what its file says of its making (recipe, zero-shot accuracy)."""
    tower = VideoViT(resolve_activation(ModelConfig(TOWERS["mini"], frames=1), "mini"))
    load_image_weights(tower, "mini")
    text = CaptionEncoder()
    text.load_state_dict({k.removeprefix("text."): v for k, v in load_file(MINI_TOWER).items() if k.startswith("text.")})
    with safetensors.safe_open(MINI_TOWER, "pt") as file:
        return tower.eval(), text.eval(), json.loads(file.metadata()["made"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MINI_TOWER)
    args = parser.parse_args()
    if args.steps <= RECIPE["warmup"]:
        parser.error(f"--steps {args.steps}: allowed is more than the warm-up, {RECIPE['warmup']}")
    tower, text = pretrain(args.steps, args.seed)
    made = {"steps": args.steps, "seed": args.seed, **RECIPE, "zero_shot": zero_shot(tower, text)}
    state = {f"visual.{k}": v for k, v in tower.image_state().items()} | {f"text.{k}": v for k, v in text.state_dict().items()}
    with whole_file(args.out) as file:
        file.write(save({k: v.contiguous() for k, v in state.items()}, {"made": json.dumps(made)}))
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
