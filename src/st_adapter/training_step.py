"""One optimizer step, left out where the loss is no number."""

import math

import torch
from torch import Tensor

from st_adapter.data.dataset import TrainBatch
from st_adapter.errors import TrainingError
from st_adapter.kernels import training_kernels
from st_adapter.machine import clear_out_of_memory
from st_adapter.optimization import learning_rate_factor
from st_adapter.progress import say
from st_adapter.run import WHAT_HELPS, Run
from st_adapter.scoring import task_loss

_MOST_BAD_STEPS = 5
"""Steps in a row that may be left out."""


def take_step(run: Run, batches: list[TrainBatch]) -> float:
    """Step over all batches together; return the norm of the gradient before it is clipped.

    A loss or gradient that is no number changes nothing; its videos are logged.

    Raises:
        TrainingError: that was so several times in a row.
    """
    config = run.config
    factor = learning_rate_factor(run.step, run.steps_per_epoch, config)
    for group in run.optimizer.param_groups:
        group["lr"] = group.get("peak_lr", config.peak_lr()) * factor
    loss = _backward(run, batches).item()
    norm = run.gradient_norm()
    run.step += 1
    if math.isfinite(loss) and math.isfinite(norm):
        run.losses.append(loss)
        run.bad_in_row = 0
        run.optimizer.step()
    else:
        _note_bad_step(run, loss if math.isfinite(norm) else norm, batches)
    run.optimizer.zero_grad()
    if run.average is not None:
        run.average.update(run.step)
    return norm


def _backward(run: Run, batches: list[TrainBatch]) -> Tensor:
    """Add up the gradients of all batches; return the mean loss of their clips."""
    device = run.model.device
    clips_in_step = sum(len(batch.targets) for batch in batches)
    total = torch.zeros((), device=device)
    for i, batch in enumerate(batches):
        clips = batch.clips.to(device, non_blocking=True)
        targets = batch.targets.to(device, non_blocking=True)
        with clear_out_of_memory(device):
            if run.mixer is not None:
                clips, targets = run.mixer(clips, targets, run.step * run.config.accumulate + i)
            with training_kernels(device):
                logits = run.model(clips)
            loss = task_loss(logits.float(), targets, run.data.task, run.config.label_smoothing)
            loss = loss * len(targets) / clips_in_step
            run.accelerator.backward(loss)
        total += loss.detach()
        run.note_skipped(batch.skipped)
    return total


def _note_bad_step(run: Run, value: float, batches: list[TrainBatch]) -> None:
    run.bad_steps += 1
    run.bad_in_row += 1
    paths = [path for batch in batches for path in batch.paths]
    run.log({"left_out": str(value), "videos": paths})
    if run.bad_in_row < _MOST_BAD_STEPS:
        say(f"note: step {run.step} is left out, its loss is {value}; metrics.jsonl has its videos")
        return
    raise TrainingError(
        f"the loss is no number ({value}) in {run.bad_in_row} steps in a row, up to step "
        f"{run.step}; {WHAT_HELPS}. {run.folder} keeps the last good state"
    )
