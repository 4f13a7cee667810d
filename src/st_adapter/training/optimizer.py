"""The optimizer, its learning rate schedule, and a moving average of what it trains."""

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
    """Make AdamW for the trained parameters, without weight decay on biases and norms.

    Each parameter group has its own `peak_lr`: the head may use `config.head_lr`.
    """
    head = {id(p) for p in model.head.parameters()}
    groups: list[dict[str, Any]] = []
    for lr in dict.fromkeys((config.peak_lr(), config.head_lr or config.peak_lr())):
        for decay in (config.weight_decay, 0.0):
            groups.append({"params": [], "weight_decay": decay, "lr": lr, "peak_lr": lr})
    # The last two groups are the head's; they are also the first two if the head has no rate of
    # its own. Biases and norms, which have one axis, go into the second group of a pair.
    for parameter in model.trainable_parameters():
        first = len(groups) - 2 if id(parameter) in head else 0
        groups[first + (parameter.ndim <= 1)]["params"].append(parameter)
    return AdamW([group for group in groups if group["params"]], fused=True)


def clip_gradient(model: VideoClassifier, config: TrainConfig) -> Tensor:
    """Clip the gradient to the norm `config.clip_gradient`; return its norm before that."""
    largest = config.clip_gradient or math.inf
    return clip_grad_norm_(model.trainable_parameters(), largest)


def make_step(
    model: VideoClassifier, config: TrainConfig, parts: Sequence[Tensor]
) -> Callable[[], None]:
    """Make a function that takes one training step, to time it.

    The label of every clip is the first class, as labels do not change the cost.

    Args:
        model: The classifier; the step trains it.
        config: Settings of the optimizer.
        parts: The clips of each micro-batch, [b, t, 3, h, w].
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
    """Return the learning rate at a step, as a fraction of the peak: warm-up, then cosine decay.

    The warm-up is linear and takes `config.warmup_epochs`, but at most half of the epochs. The
    decay ends at zero.

    Args:
        step: Number of the step in the run, from 0.
        steps_per_epoch: Steps per epoch.
        config: Gives epochs and warm-up.
    """
    # With a single step, both warm-up and decay would give zero, and nothing would be trained.
    if config.epochs * steps_per_epoch == 1:
        return 1.0
    epoch = step / steps_per_epoch
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return epoch / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (epoch - warmup) / (config.epochs - warmup))


class MovingAverage:
    """An exponential moving average of the trained parameters, to evaluate and save in their place.

    Args:
        parameters: The trained parameters, by name.
        decay: Share of the old average that each step keeps, in [0, 1). Early steps keep less, so
            that the initial values soon stop counting.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = parameters
        self.tensors = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the current parameters to the average, after `step` steps of training."""
        # The lower decay of early steps is that of TensorFlow's ExponentialMovingAverage with
        # num_updates.
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.tensors[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Replace the average by a saved one."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the parameters by their average inside the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.tensors[name] = self.tensors[name], parameter.data
