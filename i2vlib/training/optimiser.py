"""AdamW with the paper's parameter groups, and the learning rate of every step."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from i2vlib.config import ConfigError
from i2vlib.protocol import TrainConfig


def make_optimiser(model: nn.Module, config: TrainConfig, steps: int) -> tuple[AdamW, LambdaLR]:
    """The optimiser over what requires gradients, and its schedule over so many steps."""
    optimiser = AdamW(parameter_groups(model, config), betas=config.betas)
    return optimiser, LambdaLR(optimiser, lambda step: lr_factor(step, steps, config))


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """AdamW's groups over what requires gradients: lr · backbone_lr in the backbone, lr in the head and in what compression and
    modules over time add; no weight decay on norms, embeddings and tables of position biases, and on biases if asked. Raises
    ConfigError if nothing trains.
    """
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            small = parameter.ndim < 2 and not (config.decay_biases and _is_bias(name))
            plain = small or name.endswith(("embedding", "bias_table"))
            new = {"head", "compression", "temporal"} & set(name.split("."))
            rate = config.lr * (1.0 if new else config.backbone_lr)
            key = (rate, 0.0 if plain else config.weight_decay)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise ConfigError("nothing trains: no parameter of the model requires gradients. ModelConfig.classes above 0 "
                          "gives it a head that does")
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]


def _is_bias(name: str) -> bool:
    """Whether a parameter is the bias of a layer that is no norm."""
    *_, layer, kind = name.split(".")
    return kind.endswith("bias") and not layer.startswith(("ln_", "norm"))


def lr_factor(step: int, total: int, config: TrainConfig) -> float:
    """The learning rate of a step, 0 to total - 1, as a share of lr: a line from warmup_start to 1, a cosine to lr_end.

    cosine "behind" is UniFormerV2's: the cosine begins where the line ends. "whole" is timm's, and so ViFi-CLIP's, which InTI
    follows: the cosine runs over all steps, and the line is taken instead while it lasts. "times" is that of MMEngine's two
    schedulers side by side, ZeroI2V's: the line ends with the last step of the warm-up, and the cosine goes by whole epochs out
    of config.epochs from the first step on; a run that is counted in steps has one for each.
    """
    warm = round(config.warmup * total)
    line = config.warmup_start + (1 - config.warmup_start) * step / max(1, warm - (config.cosine == "times"))
    if config.cosine == "times":
        epochs = total if config.steps else config.epochs
        return min(1.0, line) * _cosine(step * epochs // total / epochs, config.lr_end)
    if step < warm:
        return line
    done, of = (step, total) if config.cosine == "whole" else (step - warm, total - warm)
    return _cosine(done / max(1, of), config.lr_end)


def _cosine(share: float, end: float) -> float:
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
