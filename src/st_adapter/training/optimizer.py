"""The optimizer and its learning rate, as the paper trains, and an average over its steps."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from st_adapter.config import TrainConfig
from st_adapter.model.classifier import VideoClassifier


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
    return AdamW([group for group in groups if group["params"]], fused=True)


def clip_gradient(model: VideoClassifier, config: TrainConfig) -> Tensor:
    """Clip the gradient where the configuration says so; return the norm that it had."""
    largest = config.clip_gradient or math.inf
    return clip_grad_norm_(model.trainable_parameters(), largest)


def make_step(
    model: VideoClassifier, config: TrainConfig, parts: Sequence[Tensor]
) -> Callable[[], None]:
    """A training step to be timed: micro-batches `parts`, clipped gradient, optimizer step.

    Every clip counts as one of the first class: the cost is the same.
    """
    optimizer = make_optimizer(model, config)

    def step() -> None:
        for clips in parts:
            target = torch.zeros(len(clips), dtype=torch.long, device=clips.device)
            F.cross_entropy(model(clips), target).backward()
        clip_gradient(model, config)
        optimizer.step()
        optimizer.zero_grad()

    return step


def learning_rate_factor(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Fraction of the peak rate at a step: linear warm-up, then a cosine to zero.

    A run of one step takes the peak rate: warm-up would start, and end, at zero.
    """
    if config.epochs * steps_per_epoch == 1:
        return 1.0
    epoch = step / steps_per_epoch
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return epoch / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (epoch - warmup) / (config.epochs - warmup))


class MovingAverage:
    """An exponential moving average of the trained parameters, which can stand in for them.

    Args:
        parameters: the trained parameters, by name.
        decay: share of the average that a step keeps, in [0, 1); early steps keep less, so that
            what the parameters were at first is soon forgotten.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.tensors = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters as they are after `step` steps.

        Early steps count as in TensorFlow's ExponentialMovingAverage with `num_updates`.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.tensors[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a saved average."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average where the parameters are, for as long as the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.tensors[name] = self.tensors[name], parameter.data
