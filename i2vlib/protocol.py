"""How a run reads, augments, trains and tests: frozen dataclasses that check themselves and go to and from JSON.

A run is a model (i2vlib.config), the way clips are cut from videos (ClipConfig) and the way it is trained (TrainConfig).
"""

from __future__ import annotations

from dataclasses import dataclass

from i2vlib.checked import Config, ConfigError
from i2vlib.config import CLIP_MEAN, CLIP_STD, TowerConfig

SCALING_TOLERANCE = 1e-3  # how far two means or two stds may lie apart and still be the same: sources round them


@dataclass(frozen=True)
class ClipConfig(Config):
    """How frames are taken from a video and turned into a tensor, in training and in testing."""

    frames: int = 8  # T
    sampling: str = "uniform"  # uniform: one frame from each of T equal segments | dense: every `stride`-th frame
    stride: int = 16  # dense only
    size: int = 224  # side of the square that the model sees, pixels
    short_side: int = 256  # training: frames are scaled to this before the random crop
    test_short_side: int = 224
    random_crop: bool = True  # RandomResizedCrop in training; False: centre crop, for the embedded clips
    flip: float = 0.5  # probability of a horizontal flip of the whole clip
    flip_pairs: tuple[tuple[int, int], ...] = ()  # labels that a flip exchanges, such as SSv2's left and right
    rand_augment: tuple[int, int] = (0, 0)  # (n operations, magnitude m), the same for all frames of a clip
    augmenter: str = "pytorchvideo"  # whose RandAugment: pytorchvideo (ZeroI2V) | timm (UniFormerV2); i2vlib.data.augment
    augment_last: bool = False  # RandAugment behind crop and flip
    erasing: float = 0.0  # probability of random erasing
    erasing_fill: str = "grey"  # grey (128) | noise, new in each frame
    colour_jitter: float = 0.0  # probability of other brightness, contrast, saturation and hue; transforms.py has the ranges
    grey: float = 0.0  # probability that a clip loses its colours
    test_clips: int = 1  # temporal views
    test_crops: int = 1  # spatial views: 1 (centre) or 3 (along the longer side)
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def check(self) -> None:
        for name in ("frames", "stride", "size", "short_side", "test_short_side", "test_clips"):
            self.need(getattr(self, name) >= 1, name, "1 or more")
        self.need(self.sampling in ("uniform", "dense"), "sampling", "uniform or dense")
        self.need(self.test_crops in (1, 3), "test_crops", "1 or 3")
        self.need(self.test_short_side >= self.size, "test_short_side", f"at least size {self.size}")
        for name in ("flip", "erasing", "colour_jitter", "grey"):
            self.need(0 <= getattr(self, name) <= 1, name, "a probability, 0 to 1")
        self.need(min(self.std) > 0, "std", "three numbers above 0")
        self.need(self.augmenter in ("pytorchvideo", "timm"), "augmenter", "pytorchvideo or timm")
        self.need(self.erasing_fill in ("grey", "noise"), "erasing_fill", "grey or noise")
        self.need(self.rand_augment[0] >= 0 and 0 <= self.rand_augment[1] <= 10, "rand_augment",
                  "(0 or more operations, magnitude 0 to 10)")
        flipped = [label for pair in self.flip_pairs for label in pair]
        self.need(len(set(flipped)) == len(flipped), "flip_pairs", "pairs of labels, each label in one pair")


def clip_for(tower: TowerConfig, **fields) -> ClipConfig:
    """A ClipConfig with the size, mean and std that a tower needs: clip_for(model.config.tower, frames=8, flip=0.0).

    fields: of ClipConfig; the sides that frames are scaled to are as 256 (training) and 224 (testing) to 224. Raises ConfigError.
    """
    size = tower.image_size
    own = {"size": size, "short_side": round(size * 256 / 224), "test_short_side": size, "mean": tower.mean, "std": tower.std}
    return ClipConfig(**own | fields)


def check_scaling(tower: TowerConfig, clip: ClipConfig) -> None:
    """Raise ConfigError where clips are normalised with another mean or std than the tower's weights were trained with."""
    for name in ("mean", "std"):
        own, needed = getattr(clip, name), getattr(tower, name)
        if not same_scaling(own, needed):
            raise ConfigError(f"ClipConfig.{name} = {own}: this model's tower needs {needed} (TowerConfig.{name}): i2v.clip_for("
                              "tower, ...) gives a ClipConfig that fits, and dataclasses.replace makes one fit")


def same_scaling(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= SCALING_TOLERANCE for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class TrainConfig(Config):
    """One run of AdamW with linear warm-up and cosine decay."""

    epochs: int = 40
    steps: int = 0  # more than 0: train for so many optimiser steps instead of whole epochs
    batch_size: int = 64  # clips an optimiser step, over all devices and accumulated micro-batches
    repeats: int = 1  # repeated augmentation: a step takes each of its clips so often, each time cropped and augmented
    # anew: batch_size · repeats crops go through the model, and a pass over the set has as many steps as without
    accumulate: int = 1  # micro-batches an optimiser step
    lr: float = 3e-4
    backbone_lr: float = 1.0  # factor on lr in the tower and its adapters; the head and all else that is new keep lr
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05  # not on norms and embeddings
    decay_biases: bool = False  # weight decay on biases too, those of norms left out
    warmup: float = 0.0625  # share of all steps; 2.5 of 40 epochs
    warmup_start: float = 0.1  # first learning rate as a share of lr
    # behind: a cosine over the steps behind the warm-up | whole: one over all steps, the warm-up stands in for its beginning
    # times: one over all epochs, a stair an epoch, times the warm-up
    cosine: str = "behind"
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of the Beta distribution that the share of a clip in a blend is drawn from; 0: off
    cutmix: float = 0.0  # the same for a box out of another clip; with both on, each micro-batch draws one of them
    clip_norm: float = 0.0  # 0: gradients are not clipped
    precision: str = "auto"  # auto: bf16 on a GPU that has it, else fp16 there; fp32 on CPU | no | bf16 | fp16
    recompute: bool = False  # keep the input of each block alone for backward: a tenth of the memory, 1.4 times the seconds
    workers: int = 4  # processes that decode; 0 decodes in the training process and may cache small data
    save_every: int = 500  # steps between checkpoints of a run
    max_unreadable: float = 0.5  # share of a set that may be unreadable: a run with more stops, and writes no model
    validate_every: int = 0  # steps between evaluations of the validation set; 0: after each pass, with `steps` at the end only
    seed: int = 0
    lr_end: float = 0.0  # what the cosine falls to, as a share of lr

    def check(self) -> None:
        for name in ("batch_size", "repeats", "accumulate", "save_every"):
            self.need(getattr(self, name) >= 1, name, "1 or more")
        for name in ("mixup", "cutmix"):
            self.need(getattr(self, name) >= 0, name, "0 (off) or more")
        self.need(self.validate_every >= 0, "validate_every", "0 (after each pass) or more")
        self.need(self.epochs >= 1 or self.steps >= 1, "epochs", "1 or more, or set steps")
        self.need(self.steps >= 0, "steps", "0 or more")
        self.need(self.batch_size % self.accumulate == 0, "accumulate", f"a divisor of batch_size {self.batch_size}")
        self.need(self.lr > 0, "lr", "more than 0")
        self.need(self.backbone_lr >= 0, "backbone_lr", "0 or more")
        self.need(all(0 <= b < 1 for b in self.betas), "betas", "two numbers from 0 to below 1")
        self.need(0 <= self.warmup_start <= 1, "warmup_start", "a share of lr, from 0 to 1")
        self.need(0 <= self.warmup < 1, "warmup", "a share of the run, from 0 to below 1")
        self.need(self.cosine in ("behind", "whole", "times"), "cosine", "behind, whole or times")
        self.need(0 <= self.lr_end <= 1, "lr_end", "a share of lr, from 0 to 1")
        self.need(0 <= self.label_smoothing < 1, "label_smoothing", "from 0 to below 1")
        self.need(self.precision in ("auto", "no", "bf16", "fp16"), "precision", "auto, no, bf16 or fp16")
        self.need(self.workers >= 0, "workers", "0 or more")
        self.need(0 <= self.max_unreadable <= 1, "max_unreadable", "a share of the clips, from 0 to 1")
        self.need(self.weight_decay >= 0, "weight_decay", "0 or more")
        self.need(self.clip_norm >= 0, "clip_norm", "0 (off) or more")


@dataclass(frozen=True)
class Protocol(Config):
    """How a data set is sampled, augmented, trained on and tested."""

    clip: ClipConfig
    train: TrainConfig
