"""The optimizer and its learning rate, as the paper trains."""

import math

from torch.optim import AdamW

from st_adapter.config import TrainConfig
from st_adapter.model import VideoClassifier


def make_optimizer(model: VideoClassifier, config: TrainConfig) -> AdamW:
    """AdamW over the trained parameters, without weight decay on biases and norms."""
    parameters = model.trainable_parameters()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.peak_lr())


def learning_rate_factor(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Fraction of the peak rate at a step: linear warm-up, then a cosine to zero."""
    epoch = step / steps_per_epoch
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return epoch / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (epoch - warmup) / (config.epochs - warmup))
