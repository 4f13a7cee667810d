"""One optimizer step of all processes, skipped if the loss is NaN or infinite."""

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
from st_adapter.training.state import what_helps

_MOST_BAD_STEPS = 5
"""Skipped steps in a row after which training ends, because the next ones would fail as well."""


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """The result of a step, the same in all processes.

    Attributes:
        loss: Mean loss of the clips; a step whose loss is NaN or infinite changes nothing.
        norm: Norm of the gradient before clipping.
        clips: Number of clips that all processes trained on.
        stop: Whether any process was asked to stop.
        save: Whether it is time to save a state.
    """

    loss: float
    norm: float
    clips: int
    stop: bool
    save: bool


def take_step(
    run: Run, loaded: Sequence[TrainBatch | DataError], *, stop: bool, save: bool
) -> StepDone:
    """Take one optimizer step on the batches of all processes.

    If the loss or the gradient is NaN or infinite, no parameter changes and the videos are logged.

    Args:
        run: The run; its position advances by one step.
        loaded: The batches of this process, on its device. A batch is a DataError if none of its
            videos could be read.
        stop: Whether this process was asked to stop.
        save: Whether it is time to save a state; only the main process sets this.

    Returns:
        The result of the step.

    Raises:
        DataError: In some process, no video of a batch could be read.
        DivergedError: The loss or gradient was NaN or infinite five times in a row.
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
    # The flags are summed along with the gradients, so that all processes stop or save after the
    # same step without a second exchange.
    values = torch.stack([total, *total.new_tensor([clips, len(failures), stop, save])])
    total, all_clips, failed, num_stop, num_save = _add_up(run, values).tolist()
    if failed:
        raise DataError(gather_object(failures)[0])
    loss, norm = total / all_clips, _mean_gradient(run, all_clips)
    if math.isfinite(loss) and math.isfinite(norm):
        run.at.losses.append(loss)
        run.at.bad_in_row = 0
        run.scaler.step(run.optimizer)
        if run.average is not None:
            run.average.update(run.at.step)
    elif not math.isfinite(loss):
        _note_bad_step(run, "loss", loss, batches)
    elif run.scaler.get_scale() <= 1:
        # At a larger scale, float16 gradients may merely have overflowed: the scaler lowers the
        # scale, and the step does not count as a bad one.
        _note_bad_step(run, "gradient", norm, batches)
    run.scaler.update()
    run.optimizer.zero_grad()
    return StepDone(
        norm=norm, clips=int(all_clips), loss=loss, stop=num_stop > 0, save=num_save > 0
    )


def _backward(run: Run, batch: TrainBatch) -> Tensor:
    """Add the gradients of a batch, in micro-batches; return the sum of the losses of its clips.

    Losses are divided by the clips of a full step, to keep float16 gradients in range. The last
    step of an epoch may have fewer clips; `_mean_gradient` corrects for that.
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
    """Compute the training loss, averaged over clips.

    This is the cross-entropy, averaged over heads. If a video may have several labels, it is the
    binary cross-entropy, averaged over classes.

    Args:
        logits: Logits of each clip.
        targets: 1 for each class that a clip shows, or fractions for clips that are mixed.
        heads: For each head, the slice of the logits with its classes.
        label_smoothing: Share of the target that is spread over all classes of a head, in [0, 1).
        multi_label: Whether a video may have any number of labels.

    Returns:
        The loss, a scalar.
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
    """Sum the gradients and `values` over all processes, in one exchange; return the values.

    The gradients are replaced in place. A process without a gradient for a parameter adds zero.
    """
    if run.accelerator.num_processes == 1:
        return values
    parameters = run.model.trainable_parameters()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    # A parameter without a gradient in any process must keep None: given zeros, the optimizer
    # would still apply weight decay and momentum. So the processes also sum which have one.
    present = [p.grad is not None for p in parameters]
    sent = torch.cat([values, values.new_tensor(present), *(g.flatten() for g in gradients)])
    summed: Tensor = run.accelerator.reduce(sent)
    first = len(values) + len(present)  # where the gradients begin
    parts = summed[first:].split([gradient.numel() for gradient in gradients])
    for parameter, part, count in zip(parameters, parts, summed[len(values) : first], strict=True):
        parameter.grad = part.view_as(parameter) if count else None
    return summed[: len(values)]


def _mean_gradient(run: Run, clips: float) -> float:
    """Average gradients over the clips of this step and clip them; return the norm before that."""
    full_step = run.config.step_clips
    for parameter in run.model.trainable_parameters():
        if parameter.grad is not None:
            parameter.grad *= full_step / clips
    run.scaler.unscale_(run.optimizer)
    return float(clip_gradient(run.model, run.config))


def _note_bad_step(run: Run, what: str, value: float, batches: list[TrainBatch]) -> None:
    run.at.bad_in_row += 1
    paths = gather_object([run.data.train.name(i) for batch in batches for i in batch.videos])
    run.log({"left_out": str(value), "videos": paths})
    if run.at.bad_in_row < _MOST_BAD_STEPS:
        note(
            f"skipped step {run.at.step}, because its {what} is {value}; metrics.jsonl lists its "
            "videos"
        )
        return
    raise DivergedError(
        f"{what} was {value} for {run.at.bad_in_row} steps in a row (last: step {run.at.step}); "
        f"{what_helps()}. The last good state is in {run.folder}"
    )
