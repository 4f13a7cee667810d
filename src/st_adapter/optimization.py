"""The optimizer and its learning rate, as the paper trains."""

import math
from typing import Any

from torch.optim import AdamW

from st_adapter.config import TrainConfig
from st_adapter.model import VideoClassifier


def make_optimizer(model: VideoClassifier, config: TrainConfig) -> AdamW:
    """AdamW over the trained parameters, without weight decay on biases and norms.

    Each group of parameters carries its own `peak_lr`.
    """
    head = {id(p) for p in model.head.parameters()}
    groups: list[dict[str, Any]] = []
    for rate in dict.fromkeys((config.peak_lr(), config.head_lr or config.peak_lr())):
        for decay in (config.weight_decay, 0.0):
            groups.append({"params": [], "weight_decay": decay, "lr": rate, "peak_lr": rate})
    for parameter in model.trainable_parameters():
        first = len(groups) - 2 if id(parameter) in head else 0
        groups[first + (parameter.ndim <= 1)]["params"].append(parameter)
    return AdamW([group for group in groups if group["params"]])


def learning_rate_factor(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Fraction of the peak rate at a step: linear warm-up, then a cosine to zero."""
    epoch = step / steps_per_epoch
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return epoch / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (epoch - warmup) / (config.epochs - warmup))
