"""Measure what a training step of each method costs."""

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
"""How often each method is timed; the methods alternate."""

_STEPS = 3
"""Timed steps in each round, after one to warm up."""


def measure_costs(
    config: TrainConfig, methods: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Time training steps of all methods alternately, so that a busy machine slows all equally.

    Only one model is in memory at a time, so any method that could be trained can be timed.

    Args:
        config: The settings that all methods share.
        methods: Names of the methods.
        labels: Names of the classes.

    Returns:
        For each method: `step_seconds`, the median of 9 steps; `gmacs`, the multiply-adds of one
        view in 10^9; `trained_parameters`; and `share`, the ratio of these to the parameters of
        the image model.
    """
    device = choose_device(config.device)
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    costs = {}
    with bar("timing steps", _ROUNDS * len(methods)) as progress:
        for _ in range(_ROUNDS):
            for method in methods:
                # Random weights cost the same as trained ones, and need no download.
                model = build_model(replace(config, method=method), labels, "random").to(device)
                seconds[method] += _time_steps(model, config)
                trained = model.num_parameters(only_trainable=True)
                costs[method] = {
                    "step_seconds": statistics.median(seconds[method]),
                    "gmacs": inspect_spec(model.spec, config.frames, config.size).gmacs,
                    "trained_parameters": trained,
                    "share": trained / sum(count_parts(model).values()),
                }
                progress.advance()
    return costs


def _time_steps(model: VideoClassifier, config: TrainConfig) -> list[float]:
    """Time training steps: forward pass, backward pass, gradient clipping, optimizer step."""
    model.set_precision(config.precision)  # type: ignore[arg-type]  # the plan never has "auto"
    speed_up_attention(model, config.size)
    num_clips = config.batch_size * (2 if config.reversal else 1)
    shape = (num_clips, config.frames, 3, config.size, config.size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=model.device)
    parts = clips.split(clips_at_once(model.device, config.frames, config.size))
    step = make_step(model.train(), config, parts)
    return [seconds_of(step, model.device) for _ in range(1 + _STEPS)][1:]
