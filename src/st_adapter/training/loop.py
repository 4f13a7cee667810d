"""The training loop: train a classifier on labelled videos and write a run folder."""

import math
import shlex
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object

from st_adapter.catalogue.costs import count_parts, inspect_spec, spec_of
from st_adapter.common.files import read_json_lines
from st_adapter.common.interrupt import Interrupted, deferred_interrupt
from st_adapter.common.lock import alone_in
from st_adapter.common.paths import absolute
from st_adapter.common.progress import Bar, bar, duration, log, trend
from st_adapter.common.ranks import is_first_process
from st_adapter.common.remarks import console, note, say
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.annotations import read_parts
from st_adapter.data.timing import measure_timing
from st_adapter.data.video.index import index_of
from st_adapter.data.video.reader import make_reader
from st_adapter.diagnosis.record import diagnose_run
from st_adapter.errors import ArgumentError, DataError, TrainingError
from st_adapter.evaluation.decisions import fit_decisions
from st_adapter.evaluation.evaluate import (
    Evaluation,
    ScoredVideos,
    evaluation_of,
    score_labelled,
)
from st_adapter.evaluation.metrics import METRICS
from st_adapter.evaluation.run_record import recorded_run, write_evaluation
from st_adapter.evaluation.score import Scored, score_videos
from st_adapter.model.build import build_model, copy_trained
from st_adapter.model.checkpoint import read_tensors
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.attention import speed_up_attention
from st_adapter.runtime.compilation import compile_model
from st_adapter.runtime.device import check_input_size, choose_device, choose_precision
from st_adapter.runtime.memory import (
    check_memory,
    clear_out_of_memory,
    fit_batch,
    peak_memory_gb,
    share_of_memory,
    step_bytes,
    what_saves_memory,
)
from st_adapter.runtime.micro_batches import clips_at_once
from st_adapter.training.batches import Batches, class_maps, train_dataset
from st_adapter.training.cross_validation import cross_validate
from st_adapter.training.epoch_choice import can_choose_epoch, too_few_videos
from st_adapter.training.head_init import check_head_init, start_head
from st_adapter.training.kept.loader import KeptLoader
from st_adapter.training.kept.make import make_kept_features
from st_adapter.training.kept.places import Key
from st_adapter.training.launch import check_accelerate, launch, processes_to_start
from st_adapter.training.one_frame import OneFrameProbe
from st_adapter.training.optimizer import learning_rate_factor, make_optimizer
from st_adapter.training.run import Run
from st_adapter.training.run_folder import check_folder, resumed_config
from st_adapter.training.state import SavedStates
from st_adapter.training.step import take_step
from st_adapter.wording import setting, switch

_LOG_EVERY = 10
"""Most steps between two lines of metrics.jsonl. Short epochs get about ten lines each."""

_SHOWN_LOSSES = 16
"""Points of the small loss curve under the progress bar."""

_LOG_SECONDS = 60
"""Longest time between two lines of a log that is not a terminal."""

_LONGEST_WAIT = timedelta(hours=2)
"""How long processes wait for the slowest one, which may have most of the long videos to score.

torch's default is 10 minutes with NCCL and 30 with Gloo.
"""


def train(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    recipe: str = "default",
    resume: bool = False,
    temporal: bool = False,
    diagnose: bool = True,
) -> Evaluation:
    """Train a classifier on labelled videos and evaluate it. Write both into a run folder.

    After each epoch, the adapter is evaluated on the validation videos and kept if it is the best
    so far, or if there are too few of them to tell (`config.keep`). The kept one is evaluated at
    the end, with `config.views`. Data without a validation part are split (`config.val_fraction`).
    The run folder then holds `adapter/` (the trained tensors, for `Predictor` and `load`),
    `eval.json`, `metrics.jsonl` (loss and scores over time), `skipped.jsonl` (files that could not
    be read), `config.json`, and `state/` for `resume`.

    With `config.folds`, it holds the folder of a run for each fold, `fold_1/` and so on, a summary
    in `folds.json`, and in `eval.json` the evaluation of all videos, each scored by the classifier
    that was not trained on it. There is no `adapter/`: train without `folds` for one to use.

    Several GPUs are used by one process each. A script then needs `if __name__ == "__main__":`.

    Args:
        data: Labelled videos: a folder with one folder of videos per class, a `.csv` or `.txt`
            list, or a published data set. the reference page "Data formats" describes every form.
        out: Run folder. It is created, and must not hold a run unless `resume` is True.
        config: All settings. `None` means `TrainConfig()`, or with `resume` those of the run.
        recipe: Name of the recipe that `config` is from, to record in `config.json`.
        resume: Continue the run in `out` from its last saved state, with the same `data`. A given
            `config` may raise `epochs` and change settings of the machine, such as `workers`.
        temporal: Also evaluate with the frames reversed, shuffled, and frozen to one, to measure
            how much the classifier uses their order. It takes four times as many forward passes.
        diagnose: At the end, look for reasons not to trust the result, and for what to try next.
            Findings are logged and written to `warnings.json`. One frame of each video is decoded,
            of at most 2300 videos.

    Returns:
        The evaluation of the kept adapter, or that of all folds together, as in `eval.json`. Scores
        are between 0 and 1.

    Raises:
        ArgumentError: A setting or folder cannot be used, or the step does not fit in memory.
        DataError: The data cannot be used, or no video of a whole batch can be read.
        CheckpointError: The weights do not fit the backbone, or no saved state can be read.
        MemoryShortError: Memory ran out during training.
        TrainingError: The loss stays NaN or infinite, the disk is full, or a process failed.
        KeyboardInterrupt: Ctrl-C or SIGTERM came. A run that had begun was saved for `resume`.

    Example:
        >>> config = TrainConfig(backbone="vit_tiny_patch16_224", epochs=4)
        >>> evaluation = train("my_videos/", out="run", config=config)  # doctest: +SKIP
    """
    folder = Path(out)
    check_folder(folder, Path(data), resume)
    wanted = config
    config = resumed_config(folder, config) if resume else config or TrainConfig()
    options: dict[str, Any] = {"recipe": recipe, "resume": resume, "temporal": temporal}
    if config.folds is not None and config.fold is None:
        return cross_validate(train, Path(data), folder, config, **options)
    options["diagnose"] = diagnose
    count = processes_to_start(wanted or config)
    if count > 1:
        config = replace(config, processes=config.processes or count)
        return launch(count, train, data, out, config, **options)
    return _train_here(Path(data), folder, config, **options)


def _train_here(
    data: Path,
    folder: Path,
    config: TrainConfig,
    recipe: str,
    resume: bool,
    temporal: bool,
    diagnose: bool,
) -> Evaluation:
    """Train in this process, which may be one of several that a launcher started."""
    try:
        with (
            alone_in(folder) if is_first_process() else nullcontext(),
            torch.random.fork_rng(),  # keeps the seed from changing the caller's generators
        ):
            check_folder(folder, data, resume)  # another run may have finished there meanwhile
            run = _prepare(data, folder, config, has_state=resume and SavedStates.exist_in(folder))
            result = _run(run, data, recipe, resume, temporal)
            if diagnose and run.is_main:
                diagnose_run(folder, data, run.data, run.config, run.reader.probe)
            return result
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        when = "resumed" if resume else "began"
        raise Interrupted(f"stopped before the run {when}") from error


def _run(run: Run, data: Path, recipe: str, resume: bool, temporal: bool) -> Evaluation:
    states = SavedStates(run)
    if resume:
        states.restore()
        _extend(run, data)
    else:
        run.write_config(data, recipe)
    with _explain_how_to_resume(run, data, resume):
        _announce(run)
        run.start_tracker()
        probe = _train_epochs(run, states)
        return _finish(run, data, temporal, probe)


def _extend(run: Run, data: Path) -> None:
    """Record more epochs of a resumed run, and print how they change the learning rate."""
    _, recipe, before = recorded_run(run.folder)
    if run.config.epochs == before.epochs:
        return
    run.write_config(data, recipe)
    if not before.epochs:
        return  # nothing was trained yet, so that nothing changes
    steps = run.steps_per_epoch
    old, new = (
        config.peak_lr() * learning_rate_factor(run.at.epochs_done * steps, steps, config)
        for config in (before, run.config)
    )
    before_rate, after_rate = f"{old:.1e}", f"{new:.1e}"
    instead = "" if before_rate == after_rate else f" instead of {before_rate}"
    note(
        f"epochs raised from {before.epochs} to {run.config.epochs}: the learning rate continues "
        f"as if the run had been started with {run.config.epochs} epochs, at {after_rate}{instead}"
    )


@contextmanager
def _explain_how_to_resume(run: Run, data: Path, resume: bool) -> Iterator[None]:
    """Add the current step, and how to resume, to an error that ends the run."""
    try:
        yield
    except OSError as error:
        raise TrainingError(_ended(run, error)) from error
    except DataError as error:
        if resume or run.at.step > 1:
            raise DataError(_ended(run, error)) from error
        if run.is_main:
            # Nothing is trained yet, so a second try may use this folder without --resume.
            (run.folder / "config.json").unlink()
        raise
    except KeyboardInterrupt as error:
        in_epoch = f"epoch {run.at.epochs_done + 1} at step {run.at.step}"
        raise Interrupted(
            f"stopped in {'the last evaluation' if run.is_done else in_epoch}; "
            f"continue with: st-adapter train {shlex.quote(str(data))} "
            f"--out {shlex.quote(str(run.folder))} --resume"
        ) from error


def _ended(run: Run, error: Exception) -> str:
    """Describe why files or videos ended a run, and how to continue it."""
    return (
        f"ended at step {run.at.step}: {error}. The last good state is in {run.folder}; "
        f"fix the cause, then continue with {switch('resume')}"
    )


def _prepare(data: Path, folder: Path, config: TrainConfig, has_state: bool) -> Run:
    """Build everything that a run needs, in memory. What cannot work raises an error here.

    With a saved state, the head gets no initial values, because the state replaces them.
    """
    # Before the run begins, what measures and baselines use: a signal in the middle of an import
    # ends the process at once, without saying how to resume a run.
    import sklearn.linear_model
    import sklearn.pipeline  # noqa: F401

    annotations = read_parts(data, config)
    if config.patience and config.keep == "auto" and not can_choose_epoch(annotations):
        raise ArgumentError(
            f"patience chooses an epoch, but {too_few_videos(annotations)}; leave out patience, or "
            f"use {setting('keep', 'best')} to choose by them anyway"
        )
    reversal, mirror = class_maps(config, annotations)
    if not has_state:
        check_head_init(config, annotations.labels)
    device = choose_device(config.device)
    check_accelerate()
    accelerator = join_processes(device, config.tracker, folder)
    config = replace(config, processes=config.processes or accelerator.num_processes)
    torch.manual_seed(config.seed)
    if config.weights == "hub":  # find what cannot work before a long download
        inspect_spec(spec_of(config, annotations.labels), 1, config.size)
    model = build_model(config, annotations.labels, task=annotations.task).to(device)
    config = settle(model, config, copies=2 if reversal else 1)
    reader = make_reader(config.decoder, config.workers, str(device), index_of(data))
    dataset = train_dataset(config, annotations, reader, mirror, reversal)
    kept = make_kept_features(model, config, annotations, dataset, accelerator.num_processes)
    skipped = []
    if not has_state:
        skipped = start_head(model, config, annotations, reader, accelerator, kept)
    if not accelerator.is_main_process:
        torch.manual_seed(config.seed + accelerator.process_index)  # so that dropout differs
    return Run(
        folder=folder,
        config=config,
        data=annotations,
        model=model,
        optimizer=make_optimizer(model, config),
        accelerator=accelerator,
        at_once=clips_at_once(device, config.frames, config.size),
        reversal=reversal,
        mirror=mirror,
        reader=reader,
        kept=kept,
        unreported=skipped,
    )


def settle(
    model: VideoClassifier, config: TrainConfig, copies: int = 1, advice: str | None = None
) -> TrainConfig:
    """Prepare a model for training on this machine, and complete the settings it decides.

    This chooses precision, attention kernels and, with `fit_batch`, the size of micro-batches. It
    measures the memory that a step takes, and compiles the model if `compile` is set.

    Args:
        model: The classifier; it is changed in place.
        config: The settings.
        copies: How many clips each clip of a batch becomes: 2 if its reversal is trained, too.
        advice: How to save memory, for the error message. By default, this names the settings
            that the run does not use yet.

    Returns:
        The settings, in which `fit_batch` has chosen `batch_size` and `accumulate`.

    Raises:
        ArgumentError: The clip size does not fit the backbone, a step does not fit in memory, or
            the backbone does not support activation checkpointing.
    """
    check_input_size(model, config.size)
    if config.checkpoint_activations:
        if not model.family.can_checkpoint:
            raise ArgumentError(
                f"checkpoint_activations works with plain ViTs only, not with "
                f"{type(model.backbone).__name__}; use a smaller {setting('batch-size')} with "
                f"{setting('accumulate')}"
            )
        model.family.checkpoints = True  # steps take about a third longer; gradients are the same
    if not config.compile:
        speed_up_attention(model, config.size)
    chosen = choose_precision(config.precision, model, clip_frames=config.frames, size=config.size)
    precision, reason = broadcast_object_list([*chosen])  # each may measure another one
    model.set_precision(precision)
    needed = step_bytes(model, config)
    if config.fit_batch:
        fitted = fit_batch(config, needed, share_of_memory(model.device), copies)
        (config,) = broadcast_object_list([fitted])  # free memory differs between them
    check_memory(model, config, needed(config.batch_size * copies), advice)
    say(f"{model.device}, {precision}: {reason}")
    if config.compile:
        mixed = torch.float32 if config.mixup or config.cutmix else torch.uint8
        compile_model(model, config.clip, config.batch_size * copies, dtype=mixed)
    return config


def join_processes(device: torch.device, tracker: str, folder: Path) -> Accelerator:
    """Connect to the other processes of the run, if there are any, and set up the tracker.

    Args:
        device: The device of this process.
        tracker: Name of the experiment tracker, or "none".
        folder: The run folder.

    Raises:
        ArgumentError: The tracker's package is not installed.
    """
    installed = [str(tracker) for tracker in get_available_trackers()]
    if tracker not in ("none", *installed):
        raise ArgumentError(
            f"tracker {tracker} needs its package: pip install {tracker}; "
            f"installed trackers: {', '.join(installed) or 'none'}"
        )
    AcceleratorState._reset_state(reset_partial_state=True)  # for a second call of train
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # the model handles precision itself
        device_placement=False,  # the model is on its device already
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
    )


def _announce(run: Run) -> None:
    config, model, data = run.config, run.model, run.data
    trained = model.num_parameters(only_trainable=True)
    image_model = sum(count_parts(model).values())
    reversals = " and their reversals" if run.reversal else ""
    processes = config.processes or 1
    classes = ", any number of them per video" if data.task.multi_label else ""
    if data.task.heads:
        classes = f": {', '.join(f'{count} of {name}' for name, count in data.task.heads)}"
    say(
        f"{config.method} on {config.backbone}: {trained / 1e6:.3f} M trained parameters, "
        f"{trained / image_model:.1%} of the image model's {image_model / 1e6:.1f} M"
    )
    say(
        f"{len(data.train)} training and {len(data.val)} validation videos "
        f"of {len(data.labels)} classes{classes}"
    )
    say(
        f"{config.step_clips} clips{reversals} per step = {config.batch_size} clips x "
        f"{config.accumulate} accumulation x {processes} process{'' if processes == 1 else 'es'}; "
        f"{run.steps_per_epoch} step{'' if run.steps_per_epoch == 1 else 's'} per epoch; "
        f"learning rate {config.peak_lr():.2e}"
    )
    if config.keep == "auto" and config.folds is None and not run.keeps_best:
        note(f"the last epoch will be kept: {too_few_videos(data)}")
    if config.step_clips > len(data.train) * config.repeats:
        note(
            f"every step trains on all {len(data.train)} training videos, because they are fewer "
            f"than a step can take; a smaller {setting('batch-size')} gives more steps per epoch"
        )
    now = run.accelerator.num_processes
    if now != processes:
        note(
            f"{now} process{'' if now == 1 else 'es'} instead of {processes}; a step still has "
            f"the same {config.step_clips} clips in total"
        )
    if not config.epochs:
        say("0 epochs: evaluating the classifier as it starts")
    elif run.is_done:
        say("training is complete; evaluating the kept epoch")
    elif run.at.step:
        say(f"resuming in epoch {run.at.epochs_done + 1} at step {run.at.step}")


class _View:
    """What a terminal shows about a run under the progress bar, and a log in its lines.

    Attributes:
        losses: The last logged losses.
        epoch_losses: The losses of the steps of this epoch.
        last_score: Score of the last epoch that was validated in this process.
        facts: The lines shown last.
    """

    def __init__(self, run: Run) -> None:
        self.losses: deque[float] = deque(maxlen=_SHOWN_LOSSES)
        self.epoch_losses: list[float] = []
        self.last_score: float | None = None
        self.facts: list[str] = []
        self._began, self._first_step = time.monotonic(), run.at.step
        self._epoch_began = self._told = self._began

    def start_epoch(self) -> None:
        """Forget the previous epoch."""
        self.epoch_losses.clear()
        self._epoch_began = time.monotonic()

    def _seconds_left(self, run: Run) -> float:
        # The average includes the validation of finished epochs, as the time left does.
        steps = run.at.step - self._first_step
        steps_left = run.config.epochs * run.steps_per_epoch - run.at.step
        return (time.monotonic() - self._began) / max(1, steps) * steps_left

    def show(self, run: Run, clips_per_second: float, memory_gb: float, progress: Bar) -> None:
        """Update the lines under the bar."""
        on_terminal = console().is_terminal
        self.facts = [
            f"step {run.at.step}",
            f"loss {self.losses[-1]:.3f} {trend(self.losses) if on_terminal else ''}".rstrip(),
            f"lr {run.optimizer.param_groups[0]['lr']:.1e}",
            f"{clips_per_second:.1f} clips/s",
            f"{memory_gb:.1f} GB",
            f"whole run: {duration(self._seconds_left(run))} left",
        ]
        if run.at.best_score >= 0:
            metric = METRICS["mean_average_precision" if run.data.task.multi_label else "top1"]
            last = "" if self.last_score is None else f"last {self.last_score:.1%}, "
            best = f"best {run.at.best_score:.1%}" if run.keeps_best else ""
            self.facts.append(f"{metric} {last}{best}".removesuffix(", "))
        progress.tell(*self.facts)
        if time.monotonic() - self._told > _LOG_SECONDS:
            log(f"epoch {run.at.epochs_done + 1}/{run.config.epochs}: {', '.join(self.facts)}")
            self._told = time.monotonic()

    def end_epoch(self, run: Run, result: Evaluation | None) -> None:
        """Print the line of an epoch that has just ended."""
        facts = [f"loss {statistics.fmean(self.epoch_losses):.3f}"] if self.epoch_losses else []
        if result is not None:
            self.last_score = result.score
            low, high = result.intervals[result.metric]
            best = f"; best {run.at.best_score:.1%}" if run.keeps_best else ""
            facts.append(f"validation loss {result.loss:.3f}")
            facts.append(
                f"{METRICS[result.metric]} {result.score:.1%} "
                f"({100 * low:.0f} to {100 * high:.0f}{best})"
            )
        facts.append(duration(time.monotonic() - self._epoch_began))
        if run.at.epochs_done < run.config.epochs:
            facts.append(f"about {duration(self._seconds_left(run))} left")
        say(f"epoch {run.at.epochs_done}/{run.config.epochs}: {', '.join(facts)}")
        self._told = time.monotonic()


def _train_epochs(run: Run, states: SavedStates) -> OneFrameProbe | None:
    """Train all epochs; return the baseline if no epoch was validated to measure it."""
    if not run.config.epochs:
        run.save_adapter("adapter")
        states.save()  # so that the run can be extended with more epochs
    batches, view = Batches(run), _View(run)
    probe = OneFrameProbe(run) if not run.at.step and OneFrameProbe.suits(run) else None
    while not run.is_done:
        in_first = probe if run.at.epochs_done == 0 else None
        _train_epoch(run, batches, states, view, in_first)
        _validate_epoch(run, states, view, in_first)
    return probe if run.config.keep == "last" else None


def _train_epoch(
    run: Run, batches: Batches, states: SavedStates, view: _View, probe: OneFrameProbe | None
) -> None:
    """Train from the current step to the end of its epoch."""
    config, epoch = run.config, run.at.epochs_done
    first_step = run.at.step - epoch * run.steps_per_epoch
    run.model.train()
    view.start_epoch()
    seen, began = 0, time.perf_counter()
    last = began
    title = f"epoch {epoch + 1}/{config.epochs}"
    advice = what_saves_memory(run.model, config)
    log_every = min(_LOG_EVERY, max(1, run.steps_per_epoch // 10))
    with (
        deferred_interrupt() as stop,
        bar(title, run.steps_per_epoch, first_step) as progress,
    ):
        progress.tell(*view.facts)
        steps = batches.steps(epoch, first_step)
        for step in probe.watch(run.model, steps) if probe else steps:
            due = run.is_main and states.is_due()
            with clear_out_of_memory(run.model.device, advice):
                done = take_step(run, step, stop=stop.is_set(), save=due)
            seen += done.clips
            if math.isfinite(done.loss):
                view.epoch_losses.append(done.loss)
            now = time.perf_counter()
            run.at.train_seconds += now - last
            last = now
            if run.at.step % log_every == 0 or run.at.step == 1:
                _log_step(run, done.norm, seen / (now - began), progress, view)
            progress.advance()
            if done.stop:
                break
            if done.save:
                states.save()
        states.save()  # when stopped, and before validation, which may take long
        was_stopped = any(gather_object([stop.is_set()]))
    if was_stopped or stop.is_set():  # a signal may have come after the processes were asked
        raise KeyboardInterrupt


def _log_step(run: Run, norm: float, clips_per_second: float, progress: Bar, view: _View) -> None:
    run.report_skipped()
    if not run.at.losses:
        return  # every step since the last line was skipped
    loss = statistics.fmean(run.at.losses)
    run.at.losses.clear()
    memory = peak_memory_gb(run.model.device)
    run.log(
        {
            "loss": round(loss, 5),
            "lr": run.optimizer.param_groups[0]["lr"],
            "gradient_norm": float(f"{norm:.4g}"),
            "clips_per_second": round(clips_per_second, 2),
            "memory_gb": round(memory, 2),
        }
    )
    view.losses.append(loss)
    view.show(run, clips_per_second, memory, progress)


def _validate_epoch(
    run: Run, states: SavedStates, view: _View, probe: OneFrameProbe | None
) -> None:
    """End an epoch: evaluate the adapter on one view per video, and keep it if it is the best.

    If the last epoch is kept, this is always kept, and with `keep` "last" without an evaluation.
    """
    values: dict[str, Any] = {}
    result = None
    _record_timing(run)
    with run.as_kept():
        run.save_adapter("adapter_last")
        if run.config.keep == "last":
            run.save_adapter("adapter")
            values = {"kept": True}
        else:
            clip = replace(run.config.clip, views=(1, 1))
            scored = _score(run, clip, probe=probe)
            result = evaluation_of(scored, run.model.spec, clip)
            if result.score > run.at.best_score or not run.keeps_best:
                run.at.best_score, run.best_scored = result.score, scored
                run.at.best_epoch = run.at.epochs_done + 1
                run.save_adapter("adapter")
            values = {
                "top1": result.top1,
                "top5": result.top5,
                "mean_class_accuracy": result.mean_class_accuracy,
                result.metric: result.score,
                "interval": result.intervals[result.metric],
                "val_loss": result.loss,
                "kept": run.at.best_epoch == run.at.epochs_done + 1,
            }
            if probe is not None:
                values["one_frame_top1"] = probe.accuracy()
    run.log(values | {"train_seconds": round(run.at.train_seconds, 2)})
    run.at.epochs_done += 1
    states.save()
    view.end_epoch(run, result)
    if run.is_done and run.at.epochs_done < run.config.epochs:
        epochs = "1 epoch" if run.config.patience == 1 else f"{run.config.patience} epochs"
        say(f"no improvement for {epochs}; training ends early")


def _record_timing(run: Run) -> None:
    """Record how much time training clips cover; by now the index knows the videos."""
    if run.is_main and run.model.spec.timing is None:
        timing = measure_timing(run.data.train, run.config.clip, run.reader.probe)
        run.model.spec = replace(run.model.spec, timing=timing)


def _score(
    run: Run,
    clip: ClipConfig,
    *,
    temporal: bool = False,
    probe: OneFrameProbe | None = None,
) -> ScoredVideos:
    """Score the validation videos, by their kept features or with the baseline where possible."""
    score: Callable[..., Scored] = score_videos if probe is None else probe.score
    if run.kept:
        make_loader = partial(KeptLoader, run.kept, partial(Key, "val", clip.views))
        score = partial(score, make_loader=make_loader, forward=run.forward)
    return score_labelled(
        run.model,
        run.data.val,
        clip,
        batch_size=run.config.batch_size,
        workers=run.config.workers,
        temporal=temporal,
        reader=run.reader,
        accelerator=run.accelerator,
        score=score,
    )


def _finish(run: Run, data: Path, temporal: bool, probe: OneFrameProbe | None) -> Evaluation:
    """Evaluate the kept adapter with the configured views and write the result."""
    began, kept, clip = time.monotonic(), run.folder / "adapter", run.config.clip
    copy_trained(run.model, read_tensors(kept), str(kept))
    scored = run.best_scored  # enough if validation used the same views
    if scored is None or clip.views != (1, 1) or temporal:
        scored = _score(run, clip, temporal=temporal, probe=probe)
    one_frame = _measured_one_frame(run) if probe is None else probe.accuracy()
    _record_timing(run)
    if run.calibrates:
        targets = [video.targets for video in scored.videos]
        run.model.spec = fit_decisions(run.model.spec, scored.scores[0], targets)
    run.save_adapter("adapter")
    result = evaluation_of(scored, run.model.spec, clip)
    result.calibration["fitted_here"] = run.calibrates
    if one_frame is not None:
        result.baselines["one_frame"] = one_frame
    if run.is_main:
        seconds = time.monotonic() - began
        write_evaluation(
            run.folder / "eval.json", result, absolute(data), run.model.device, seconds
        )
        run.unreported += result.skipped
    run.report_skipped()
    run.accelerator.end_training()
    return result


def _measured_one_frame(run: Run) -> float | None:
    """Return the baseline that the first epoch measured, which may have been in another process."""
    lines = read_json_lines(run.folder / "metrics.jsonl")
    measured = (line.get("one_frame_top1") for line in lines)
    return next((value for value in measured if value is not None), None)
