"""Train a classifier on labelled videos, into a run folder that can be resumed at any time."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.optim import AdamW
from torch.utils.data import DataLoader

from st_adapter import checkpoint
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.annotations import Annotations, read_annotations, split_validation
from st_adapter.data.augment import TrainTransform
from st_adapter.data.dataset import (
    EpochSampler,
    Skipped,
    TrainBatch,
    TrainDataset,
    collate_train,
)
from st_adapter.errors import ArgumentError, CheckpointError, DataError, StAdapterError
from st_adapter.evaluate import Evaluation, evaluate
from st_adapter.machine import check_memory, choose_device, choose_precision, peak_memory_gb
from st_adapter.model import VideoClassifier, create_model
from st_adapter.progress import Bar, bar, say

_LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl."""


class TrainingError(StAdapterError):
    """Training cannot go on, for example because the loss is not a number."""


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; its state is saved."""


@dataclass(kw_only=True)
class _Run:
    """A run under way: what is trained, how far it is."""

    folder: Path
    config: TrainConfig
    data: Annotations
    model: VideoClassifier
    optimizer: AdamW
    accelerator: Accelerator
    precision: str
    step: int = 0
    epochs_done: int = 0
    best_top1: float = -1.0
    skipped: set[Skipped] = field(default_factory=set)

    @property
    def batches_per_epoch(self) -> int:
        return math.ceil(len(self.data.train) / self.config.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.batches_per_epoch / self.config.accumulate)


def train(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    recipe: str = "default",
    resume: bool = False,
) -> Evaluation:
    """Train on DATA and evaluate the best epoch's adapter.

    Args:
        data: anything `read_annotations` takes.
        out: the run folder; it must not hold a run already, unless `resume`.
        config: everything else.
        recipe: name to record.
        resume: go on with the run in `out` where it stopped.

    Returns:
        The evaluation that `out/eval.json` holds.

    Raises:
        ArgumentError, DataError, CheckpointError: before anything is written.
        TrainingError: the loss is not finite.
        Interrupted: Ctrl-C or SIGTERM came; the run can be resumed.
    """
    config = config or TrainConfig()
    folder = Path(out)
    _check_folder(folder, resume)
    run = _prepare(Path(data), folder, config, fresh=not resume)
    if resume:
        _load_state(run)
    else:
        _write_config(run, Path(data), recipe)
    _announce(run)
    try:
        while run.epochs_done < config.epochs:
            _train_epoch(run)
            _validate_epoch(run)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped in epoch {run.epochs_done + 1} at step {run.step}; "
            f"go on with: st-adapter train {data} --out {out} --resume"
        ) from None
    return _finish(run)


def _check_folder(folder: Path, resume: bool) -> None:
    has_run = (folder / "config.json").exists()
    if has_run and not resume:
        raise ArgumentError(
            f"{folder} already holds a run; go on with it by --resume, or choose another --out"
        )
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder} is a file; --out takes a folder")
    if resume and not has_run:
        raise ArgumentError(f"{folder} holds no run to resume; leave --resume out to start one")


def _prepare(data: Path, folder: Path, config: TrainConfig, fresh: bool) -> _Run:
    """Build all that a run needs in memory; refuse what cannot work."""
    annotations = read_data(data, config)
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    model = create_model(
        config.backbone,
        annotations.labels,
        config.adapter,
        config.weights,
        method=config.method,
        clip=config.clip,
        dropout=config.dropout,
    ).to(device)
    _check_input_size(model, config.clip)
    check_memory(
        model, batch_size=config.batch_size, clip_frames=config.frames, size=config.size
    )
    precision, reason = choose_precision(
        config.precision, model, clip_frames=config.frames, size=config.size
    )
    say(f"{device}, {precision}: {reason}")
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train several times
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no"
    )
    model, optimizer = accelerator.prepare(model, make_optimizer(model, config))
    return _Run(
        folder=folder,
        config=config,
        data=annotations,
        model=model,
        optimizer=optimizer,
        accelerator=accelerator,
        precision=precision,
    )


def read_data(data: Path, config: TrainConfig) -> Annotations:
    """Read the training and validation parts that `config` asks for.

    Raises:
        DataError: fewer than two classes, no file that exists, or no validation part to be had.
    """
    annotations = read_annotations(data)
    if len(annotations.labels) < 2:
        raise DataError(
            f"{data} has one class only ({annotations.labels[0]}); a classifier needs two or more"
        )
    train, val = annotations.train, annotations.val
    if config.val is not None:
        given = read_annotations(config.val, annotations.labels)
        val = given.val or given.train
    elif not val:
        train, val = split_validation(train, config.val_fraction, config.seed)
    for part, videos in (("training", train), ("validation", val)):
        if not videos:
            raise DataError(f"{data} has no {part} videos; give --val, or more videos a class")
        if not any(video.path.is_file() for video in videos):
            raise DataError(f"{data}: none of {len(videos)} {part} files exists: {videos[0].path}")
    return Annotations(labels=annotations.labels, train=train, val=val)


def _check_input_size(model: VideoClassifier, clip: ClipConfig) -> None:
    frame = torch.zeros(1, 1, 3, clip.size, clip.size, dtype=torch.uint8)
    try:
        with torch.inference_mode():
            model(frame.to(model.mean.device))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(
            f"{model.spec.backbone} cannot take frames of {clip.size} px: {reason}"
        ) from None


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
    if epoch < config.warmup_epochs:
        return epoch / config.warmup_epochs
    rest = max(config.epochs - config.warmup_epochs, 1e-9)
    return 0.5 + 0.5 * math.cos(math.pi * (epoch - config.warmup_epochs) / rest)


def _announce(run: _Run) -> None:
    config, model, data = run.config, run.model, run.data
    trained = model.num_parameters(only_trainable=True)
    share = trained / (model.num_parameters() - trained)
    step_clips = config.batch_size * config.accumulate
    say(
        f"{config.method} on {config.backbone}: {trained / 1e6:.3f} M trained parameters, "
        f"{share:.1%} of the frozen {(model.num_parameters() - trained) / 1e6:.1f} M"
    )
    say(f"{len(data.train)} training and {len(data.val)} validation videos of {len(data.labels)} classes")
    say(
        f"{step_clips} clips a step = {config.batch_size} clips x {config.accumulate} accumulation; "
        f"{run.steps_per_epoch} steps an epoch; learning rate {config.peak_lr():.2e}"
    )
    if run.step:
        say(f"resuming in epoch {run.epochs_done + 1} at step {run.step}")


def _train_epoch(run: _Run) -> None:
    """Train from where the run stands to the end of its epoch."""
    config, epoch = run.config, run.epochs_done
    first_step = run.step - epoch * run.steps_per_epoch
    loader = _train_loader(run, epoch, first_step * config.accumulate)
    run.model.train()
    losses: list[Tensor] = []
    seen, start = 0, time.perf_counter()
    title = f"epoch {epoch + 1}/{config.epochs}"
    with _deferred_interrupt() as stop, bar(title, run.steps_per_epoch, first_step) as progress:
        for batches in _groups(loader, config.accumulate):
            losses.append(_step(run, batches))
            seen += sum(len(batch.labels) for batch in batches)
            run.step += 1
            if run.step % _LOG_EVERY == 0 or run.step == 1:
                speed = seen / (time.perf_counter() - start)
                _log_step(run, torch.stack(losses).mean().item(), speed, progress)
                losses.clear()
            progress.advance()
            if stop.is_set():
                break
    _save_state(run)
    if stop.is_set():
        raise KeyboardInterrupt


def _train_loader(run: _Run, epoch: int, first_batch: int) -> DataLoader[TrainBatch]:
    config = run.config
    transform = TrainTransform(
        size=config.size,
        crop=config.crop,
        crop_range=config.crop_range,
        flip=config.flip,
        randaugment=config.randaugment,
    )
    sampler = EpochSampler(len(run.data.train), config.batch_size, config.seed)
    sampler.epoch, sampler.first_batch = epoch, first_batch
    return DataLoader(
        TrainDataset(run.data.train, config.clip, transform, config.seed),  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=config.workers,
        collate_fn=collate_train,
        pin_memory=run.accelerator.device.type == "cuda",
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),  # the global one belongs to dropout, and to resuming
    )


def _groups(loader: DataLoader[TrainBatch], size: int) -> Iterator[list[TrainBatch]]:
    """Batches in lists of `size`; the last may be shorter."""
    group: list[TrainBatch] = []
    for batch in loader:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _step(run: _Run, batches: list[TrainBatch]) -> Tensor:
    """One optimizer step over all batches; returns the mean loss, still on the device."""
    config, device = run.config, run.accelerator.device
    factor = learning_rate_factor(run.step, run.steps_per_epoch, config)
    for group in run.optimizer.param_groups:
        group["lr"] = config.peak_lr() * factor
    clips_in_step = sum(len(batch.labels) for batch in batches)
    total = torch.zeros((), device=device)
    for batch in batches:
        logits = run.model(batch.clips.to(device, non_blocking=True))
        labels = batch.labels.to(device, non_blocking=True)
        loss = F.cross_entropy(logits.float(), labels) * len(labels) / clips_in_step
        run.accelerator.backward(loss)
        total += loss.detach()
        _note_skipped(run, batch.skipped)
    if config.clip_gradient:
        run.accelerator.clip_grad_norm_(run.model.trainable_parameters(), config.clip_gradient)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return total


def _log_step(run: _Run, loss: float, clips_per_second: float, progress: Bar) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {run.step}; lower --lr or use --precision float32. "
            f"{run.folder} keeps the last good state"
        )
    rate = run.optimizer.param_groups[0]["lr"]
    memory = peak_memory_gb(run.accelerator.device)
    checkpoint.append_json_line(
        run.folder / "metrics.jsonl",
        {
            "step": run.step,
            "epoch": run.epochs_done + 1,
            "loss": round(loss, 5),
            "lr": rate,
            "clips_per_second": round(clips_per_second, 2),
            "memory_gb": round(memory, 2),
        },
    )
    progress.advance(0, f"loss {loss:.3f}  {clips_per_second:.1f} clips/s  {memory:.1f} GB")


def _note_skipped(run: _Run, skipped: tuple[Skipped, ...]) -> None:
    """Report each unusable file once."""
    for item in skipped:
        if item not in run.skipped:
            run.skipped.add(item)
            say(f"skipped {item.reason}; another video of its class stands in")
            checkpoint.append_json_line(run.folder / "skipped.jsonl", vars(item))


def _validate_epoch(run: _Run) -> None:
    """Evaluate on one view, keep the adapter if it is the best so far, close the epoch."""
    one_view = ClipConfig(frames=run.config.frames, stride=run.config.stride, size=run.config.size)
    result = _evaluate(run, one_view)
    run.epochs_done += 1
    if result.top1 > run.best_top1:
        run.best_top1 = result.top1
        checkpoint.save_adapter(run.model, run.folder / "adapter")
    checkpoint.save_adapter(run.model, run.folder / "adapter_last")
    _save_state(run)
    checkpoint.append_json_line(
        run.folder / "metrics.jsonl",
        {
            "step": run.step,
            "epoch": run.epochs_done,
            "top1": result.top1,
            "top5": result.top5,
            "mean_class_accuracy": result.mean_class_accuracy,
        },
    )
    say(
        f"epoch {run.epochs_done}/{run.config.epochs}: top-1 {result.top1:.1%} "
        f"(best {run.best_top1:.1%})"
    )


def _evaluate(run: _Run, clip: ClipConfig) -> Evaluation:
    config = run.config
    return evaluate(
        run.model,
        run.data.val,
        clip,
        batch_size=config.batch_size,
        workers=config.workers,
        precision=run.precision,
    )


def _finish(run: _Run) -> Evaluation:
    """Evaluate the best adapter with the recipe's views and write the result."""
    best = checkpoint.load_tensors(run.folder / "adapter")
    checkpoint.copy_trained(run.model, best, str(run.folder / "adapter"))
    result = _evaluate(run, run.config.clip)
    checkpoint.write_json(run.folder / "eval.json", result.to_json())
    _note_skipped(run, tuple(result.skipped))
    return result


def _write_config(run: _Run, data: Path, recipe: str) -> None:
    values = run.config.to_json()
    values["precision"] = run.precision
    if run.model.spec.weights not in ("hub", "package", "random"):
        values["weights"] = str(Path(run.config.weights).resolve())
    if run.config.val is not None:
        values["val"] = str(Path(run.config.val).resolve())
    record = {"recipe": recipe, "data": str(data.resolve()), "config": values}
    checkpoint.write_json(run.folder / "config.json", record)


def _save_state(run: _Run) -> None:
    """Write all that resuming needs, whole or not at all."""
    state = {
        "step": run.step,
        "epochs_done": run.epochs_done,
        "best_top1": run.best_top1,
        "trained": {name: p.detach().cpu() for name, p in run.model.trained_tensors().items()},
        "optimizer": run.optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    with checkpoint.atomic_path(run.folder / "state" / "state.pt") as temporary:
        torch.save(state, temporary)


def _load_state(run: _Run) -> None:
    file = run.folder / "state" / "state.pt"
    if not file.exists():  # stopped before the first state: the run starts over
        return
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{file} is not a readable state: {error}") from None
    checkpoint.copy_trained(run.model, state["trained"], str(file))
    run.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    run.step, run.epochs_done = state["step"], state["epochs_done"]
    run.best_top1 = state["best_top1"]
    _forget_later_metrics(run.folder / "metrics.jsonl", run.step)


def _forget_later_metrics(file: Path, step: int) -> None:
    """Drop what was logged after the state was saved; those steps are done again."""
    if not file.exists():
        return
    kept = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= step]
    with checkpoint.atomic_path(file) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept))


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the main one decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event, so that a step is never torn apart."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])  # a second one ends at once

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
