"""What a training step of each method costs, measured side by side in one process."""

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F

from st_adapter.backbones.weights import create_backbone
from st_adapter.config import TrainConfig
from st_adapter.inspection import count_macs
from st_adapter.machine import autocast, choose_device
from st_adapter.model import VideoClassifier, create_model
from st_adapter.optimization import make_optimizer
from st_adapter.progress import bar

_ROUNDS = 7


def measure_costs(
    config: TrainConfig, methods: list[str], labels: list[str]
) -> dict[str, dict[str, Any]]:
    """Time the steps of all methods in turns, so that a busy machine slows all of them alike.

    Returns:
        For each method `step_seconds`, the median of 7 steps, `gmacs` of one view, and
        `trained_parameters` with their `share` of the image model's.
    """
    device = choose_device(config.device)
    models = {method: _build(config, method, labels, device) for method in methods}
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    image_model = sum(p.numel() for p in create_backbone(config.backbone).parameters())
    shape = (config.batch_size, config.frames, 3, config.size, config.size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    with bar("timing steps", _ROUNDS + 1) as progress:
        for i in range(_ROUNDS + 1):
            for method, (model, optimizer) in models.items():
                spent = _step_seconds(model, optimizer, clips, config)
                if i:  # the first is for warming up
                    seconds[method].append(spent)
            progress.advance()
    return {
        method: {
            "step_seconds": statistics.median(seconds[method]),
            "gmacs": count_macs(model.eval(), config.frames, config.size) / 1e9,
            "trained_parameters": model.num_parameters(only_trainable=True),
            "share": model.num_parameters(only_trainable=True) / image_model,
        }
        for method, (model, _) in models.items()
    }


def _build(
    config: TrainConfig, method: str, labels: list[str], device: torch.device
) -> tuple[VideoClassifier, torch.optim.Optimizer]:
    model = create_model(
        config.backbone,
        labels,
        config.adapter,
        "random",  # what a step costs does not depend on them
        method=method,
        method_config=config.method_config,
    )
    model = model.to(device).train()
    return model, make_optimizer(model, config)


def _step_seconds(
    model: VideoClassifier,
    optimizer: torch.optim.Optimizer,
    clips: torch.Tensor,
    config: TrainConfig,
) -> float:
    """One forward pass, backward pass and optimizer step."""
    target = torch.zeros(len(clips), dtype=torch.long, device=clips.device)
    start = time.perf_counter()
    with autocast(clips.device, config.precision):
        loss = F.cross_entropy(model(clips).float(), target)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    float(next(iter(model.head.parameters())).detach().sum())  # waits for the device
    return time.perf_counter() - start
