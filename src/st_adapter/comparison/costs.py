"""What a training step of each method costs, measured side by side in one process."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from st_adapter.catalogue.costs import count_parts, inspect_spec
from st_adapter.common.progress import bar
from st_adapter.config import TrainConfig
from st_adapter.model.build import build_model
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.attention import speed_up_attention
from st_adapter.runtime.device import choose_device, seconds_of
from st_adapter.runtime.micro_batches import clips_at_once
from st_adapter.training.optimizer import make_step

_ROUNDS = 3
_STEPS = 3
"""Timed in each round, after one that is not."""


def measure_costs(
    config: TrainConfig, methods: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Time steps of all methods in turns, so that a busy machine slows all of them alike.

    One model is held at a time: what could be trained can be timed.

    Returns:
        For each method `step_seconds`, the median of 9 steps, `gmacs` of one view, and
        `trained_parameters` with their `share` of the image model's.
    """
    device = choose_device(config.device)
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    costs = {}
    with bar("timing steps", _ROUNDS * len(methods)) as progress:
        for _ in range(_ROUNDS):
            for method in methods:
                of_method = replace(config, method=method)
                model = build_model(of_method, labels, "random").to(device)  # costs are the same
                seconds[method] += _times_of_steps(model, config)
                trained = model.num_parameters(only_trainable=True)
                costs[method] = {
                    "step_seconds": statistics.median(seconds[method]),
                    "gmacs": inspect_spec(model.spec, config.frames, config.size).gmacs,
                    "trained_parameters": trained,
                    "share": trained / sum(count_parts(model).values()),
                }
                progress.advance()
    return costs


def _times_of_steps(model: VideoClassifier, config: TrainConfig) -> list[float]:
    """Times of forward pass, backward pass, gradient norm and optimizer step together."""
    model.set_precision(config.precision)  # type: ignore[arg-type]  # settled, not "auto"
    speed_up_attention(model, config.size)
    num_clips = config.batch_size * (2 if config.reversal else 1)
    shape = (num_clips, config.frames, 3, config.size, config.size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=model.device)
    parts = clips.split(clips_at_once(model.device, config.frames, config.size))
    step = make_step(model.train(), config, parts)
    return [seconds_of(step, model.device) for _ in range(1 + _STEPS)][1:]
