"""One optimizer step of all processes, left out where the loss is no number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from st_adapter.common.progress import say
from st_adapter.data.datasets import TrainBatch
from st_adapter.errors import DataError, DivergedError
from st_adapter.evaluation.scoring import task_loss
from st_adapter.model.sharding import num_shards
from st_adapter.runtime.memory import clear_out_of_memory, what_saves_memory
from st_adapter.runtime.passes import autocast, backward
from st_adapter.training.optimizer import learning_rate_factor
from st_adapter.training.run import WHAT_HELPS, Run

_MOST_BAD_STEPS = 5
"""Steps in a row that may be left out."""


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """What all processes know after a step.

    Attributes:
        norm: of the gradient, before it is clipped.
        clips: trained on by all of them.
        stop: one of them has been asked to stop.
        save: the main one's state is due.
    """

    norm: float
    clips: int
    stop: bool
    save: bool


def take_step(run: Run, loaded: Sequence[TrainBatch | DataError], stop: bool = False) -> StepDone:
    """Step over the batches of all processes together.

    A loss or gradient that is no number changes nothing; its videos are logged.

    Args:
        loaded: batches of this process.
        stop: whether this process has been asked to stop.

    Raises:
        DataError: no video of a batch could be read.
        DivergedError: the loss was no number several times in a row.
    """
    config = run.config
    factor = learning_rate_factor(run.step, run.steps_per_epoch, config)
    for group in run.optimizer.param_groups:
        group["lr"] = group.get("peak_lr", config.peak_lr()) * factor
    batches = [batch for batch in loaded if isinstance(batch, TrainBatch)]
    failures = [str(item) for item in loaded if isinstance(item, DataError)]
    total = _backward(run, batches)
    run.step += 1
    clips = sum(len(batch.targets) for batch in batches)
    due = run.is_main and run.is_save_due
    told = torch.stack([total, *total.new_tensor([clips, len(failures), stop, due])])
    total, clips_of_all, failed, *wishes = _add_up(run, told).tolist()
    if failed:
        raise DataError(gather_object(failures)[0])
    loss, norm = total / clips_of_all, _mean_gradient(run, clips_of_all)
    if math.isfinite(loss) and math.isfinite(norm):
        run.losses.append(loss)
        run.bad_in_row = 0
        run.scaler.step(run.optimizer)
    elif not math.isfinite(loss) or run.scaler.get_scale() <= 1:
        _note_bad_step(run, norm if math.isfinite(loss) else loss, batches)
    run.scaler.update()
    run.optimizer.zero_grad()
    if run.average is not None:
        run.average.update(run.step)
    return StepDone(norm=norm, clips=int(clips_of_all), stop=wishes[0] > 0, save=wishes[1] > 0)


def _backward(run: Run, batches: list[TrainBatch]) -> Tensor:
    """Add up the gradients of all batches; return the sum of their clips' losses.

    Gradients are those of that sum over the clips that a step usually has.
    """
    device, first = run.model.device, run.step * run.accelerator.num_processes
    advice = what_saves_memory(run.model, run.config, run.precision)
    total = torch.zeros((), device=device)
    usual = run.config.step_clips / num_shards()  # FSDP takes the mean over processes

    def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
        loss = task_loss(logits, targets, run.data.task, run.config.label_smoothing)
        return loss * len(targets)

    passes = max(gather_object([len(batches)])) if num_shards() > 1 else len(batches)
    for i, batch in enumerate(batches):
        clips = batch.clips.to(device, non_blocking=True)
        targets = batch.targets.to(device, non_blocking=True)
        with clear_out_of_memory(device, advice):
            if run.mixer is not None:
                number = (first + run.accelerator.process_index) * run.config.accumulate + i
                clips, targets = run.mixer(clips, targets, number)
            total += backward(
                run.logits,
                clips,
                targets,
                loss_of,
                precision=run.precision,
                at_once=run.at_once,
                scale=lambda loss: run.scaler.scale(loss / usual),
            )
        run.unreported += batch.skipped
    for _ in range(passes - len(batches)):
        _empty_pass(run)
    return total


def _empty_pass(run: Run) -> None:
    """Take part in what FSDP's processes do together, with nothing to learn from."""
    size, device = run.config.size, run.model.device
    clips = torch.zeros(1, run.config.frames, 3, size, size, dtype=torch.uint8, device=device)
    with autocast(device, run.precision):
        logits = run.model(clips)
    (0 * logits.float().sum()).backward()


def _add_up(run: Run, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Sum gradients, in place, and values over all processes, in one exchange.

    Only trained tensors travel; one without a gradient in some processes counts as zero there.
    """
    if run.accelerator.num_processes == 1:
        return values
    if num_shards() > 1:  # FSDP has summed the gradients
        of_all: Tensor = run.accelerator.reduce(values)
        return of_all
    parameters = run.model.trainable_parameters()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    present = [p.grad is not None for p in parameters]
    sent = torch.cat([values, values.new_tensor(present), *(g.flatten() for g in gradients)])
    summed: Tensor = run.accelerator.reduce(sent)
    heads = len(values) + len(present)
    sizes = [gradient.numel() for gradient in gradients]
    parts = summed[heads:].split(sizes)
    for parameter, part, count in zip(parameters, parts, summed[len(values) : heads], strict=True):
        parameter.grad = part.view_as(parameter) if count else None
    return summed[: len(values)]


def _mean_gradient(run: Run, clips: float) -> float:
    """Make gradients the mean over the clips that there were; return their norm."""
    usual = run.config.step_clips
    if clips != usual:
        for parameter in run.model.trainable_parameters():
            if parameter.grad is not None:
                parameter.grad *= usual / clips
    return run.gradient_norm()


def _note_bad_step(run: Run, value: float, batches: list[TrainBatch]) -> None:
    run.bad_steps += 1
    run.bad_in_row += 1
    paths = gather_object([path for batch in batches for path in batch.paths])
    run.log({"left_out": str(value), "videos": paths})
    if run.bad_in_row < _MOST_BAD_STEPS:
        say(f"note: step {run.step} is left out, its loss is {value}; metrics.jsonl has its videos")
        return
    raise DivergedError(
        f"the loss is no number ({value}) in {run.bad_in_row} steps in a row, up to step "
        f"{run.step}; {WHAT_HELPS}. {run.folder} keeps the last good state"
    )
