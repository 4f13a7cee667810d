"""One optimizer step of all processes, left out where the loss is NaN or infinite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from st_adapter.common.remarks import note
from st_adapter.data.batches import TrainBatch
from st_adapter.errors import DataError, DivergedError
from st_adapter.training.optimizer import clip_gradient, learning_rate_factor
from st_adapter.training.run import Run
from st_adapter.training.state import WHAT_HELPS

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


def take_step(
    run: Run, loaded: Sequence[TrainBatch | DataError], *, stop: bool, save: bool
) -> StepDone:
    """Step over the batches of all processes together.

    A loss or gradient that is NaN or infinite changes nothing; its videos are logged.

    Args:
        loaded: batches of this process, on its device.
        stop: whether this process has been asked to stop.
        save: whether the main process wants to save its state.

    Raises:
        DataError: no video of a batch could be read.
        DivergedError: the loss was NaN or infinite several times in a row.
    """
    config = run.config
    factor = learning_rate_factor(run.at.step, run.steps_per_epoch, config)
    for group in run.optimizer.param_groups:
        group["lr"] = group.get("peak_lr", config.peak_lr()) * factor
    batches = [batch for batch in loaded if isinstance(batch, TrainBatch)]
    failures = [str(item) for item in loaded if isinstance(item, DataError)]
    total = torch.zeros((), device=run.model.device)
    for batch in batches:
        total += _backward(run, batch)
        run.unreported += batch.skipped
    run.at.step += 1
    clips = sum(len(batch.targets) for batch in batches)
    told = torch.stack([total, *total.new_tensor([clips, len(failures), stop, save])])
    total, clips_of_all, failed, *wishes = _add_up(run, told).tolist()
    if failed:
        raise DataError(gather_object(failures)[0])
    loss, norm = total / clips_of_all, _mean_gradient(run, clips_of_all)
    if math.isfinite(loss) and math.isfinite(norm):
        run.at.losses.append(loss)
        run.at.bad_in_row = 0
        run.scaler.step(run.optimizer)
        if run.average is not None:
            run.average.update(run.at.step)
    elif not math.isfinite(loss):
        _note_bad_step(run, "loss", loss, batches)
    elif run.scaler.get_scale() <= 1:  # a larger scale may be the cause, and shrinks
        _note_bad_step(run, "gradient", norm, batches)
    run.scaler.update()
    run.optimizer.zero_grad()
    return StepDone(norm=norm, clips=int(clips_of_all), stop=wishes[0] > 0, save=wishes[1] > 0)


def _backward(run: Run, batch: TrainBatch) -> Tensor:
    """Add up the gradients of a batch, in micro-batches; return the sum of its clips' losses.

    Gradients are those of that sum divided by the clips that a step usually has.
    """
    total = torch.zeros((), device=run.model.device)
    smoothing, many = run.config.label_smoothing, run.data.task.multi_label
    pieces = zip(batch.clips.split(run.at_once), batch.targets.split(run.at_once), strict=True)
    for clips, targets in pieces:
        logits = run.forward(clips)
        loss = task_loss(logits, targets, run.heads, smoothing, many) * len(targets)
        run.scaler.scale(loss / run.config.step_clips).backward()
        total += loss.detach()
    return total


def task_loss(
    logits: Float[Tensor, "n classes"],
    targets: Float[Tensor, "n classes"],
    heads: Sequence[slice],
    label_smoothing: float = 0.0,
    multi_label: bool = False,
) -> Float[Tensor, ""]:
    """Cross-entropy, mean over heads; binary cross-entropy of classes where labels are many.

    Args:
        targets: 1 for what a clip shows; shares of it where clips are mixed.
        heads: the classes of each.
        label_smoothing: share of the target spread over all classes of a head.
    """
    if multi_label:
        smooth = targets * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smooth)
    losses = [
        F.cross_entropy(logits[:, own], targets[:, own], label_smoothing=label_smoothing)
        for own in heads
    ]
    return torch.stack(losses).mean()


def _add_up(run: Run, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Sum gradients, in place, and values over all processes, in one exchange.

    Only trained tensors travel; one without a gradient in some processes counts as zero there.
    """
    if run.accelerator.num_processes == 1:
        return values
    parameters = run.model.trainable_parameters()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    # Whether each parameter has a gradient travels along: one that has none in any process must
    # keep None, as with zeros the optimizer would still decay and move it.
    present = [p.grad is not None for p in parameters]
    sent = torch.cat([values, values.new_tensor(present), *(g.flatten() for g in gradients)])
    summed: Tensor = run.accelerator.reduce(sent)
    heads = len(values) + len(present)
    parts = summed[heads:].split([gradient.numel() for gradient in gradients])
    for parameter, part, count in zip(parameters, parts, summed[len(values) : heads], strict=True):
        parameter.grad = part.view_as(parameter) if count else None
    return summed[: len(values)]


def _mean_gradient(run: Run, clips: float) -> float:
    """Make gradients the mean over the clips that there were, and clip them; return their norm."""
    usual = run.config.step_clips
    for parameter in run.model.trainable_parameters():
        if parameter.grad is not None:
            parameter.grad *= usual / clips
    run.scaler.unscale_(run.optimizer)
    return float(clip_gradient(run.model, run.config))


def _note_bad_step(run: Run, what: str, value: float, batches: list[TrainBatch]) -> None:
    run.at.bad_in_row += 1
    paths = gather_object([run.data.train.name(i) for batch in batches for i in batch.videos])
    run.log({"left_out": str(value), "videos": paths})
    if run.at.bad_in_row < _MOST_BAD_STEPS:
        bad = f"step {run.at.step} is left out, its {what} is {value}"
        note(f"{bad}; metrics.jsonl has its videos")
        return
    raise DivergedError(
        f"{what} was {value} for {run.at.bad_in_row} steps in a row (last: step {run.at.step}); "
        f"{WHAT_HELPS}. {run.folder} keeps the last good state"
    )
