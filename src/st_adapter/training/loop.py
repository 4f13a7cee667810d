"""Train a classifier on labelled videos, into a run folder that can be resumed at any time."""

import shlex
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
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
from st_adapter.common.interrupt import Interrupted, deferred_interrupt
from st_adapter.common.lock import alone_in
from st_adapter.common.progress import Bar, bar, trend
from st_adapter.common.ranks import is_first_process
from st_adapter.common.remarks import note, say
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.annotations import read_parts
from st_adapter.data.video.index import index_of
from st_adapter.data.video.reader import make_reader
from st_adapter.errors import ArgumentError, DataError, TrainingError
from st_adapter.evaluation.evaluate import Evaluation, evaluate_videos
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
from st_adapter.training.batches import Batches, class_maps, train_transform
from st_adapter.training.cached import CachedLoader
from st_adapter.training.launch import check_accelerate, launch, processes_to_start
from st_adapter.training.optimizer import learning_rate_factor, make_optimizer
from st_adapter.training.prefix_cache import VALIDATION, make_prefix_cache
from st_adapter.training.run import Run
from st_adapter.training.run_folder import check_folder, resumed_config
from st_adapter.training.state import SavedStates
from st_adapter.training.step import take_step

_LOG_EVERY = 10
"""Most steps between two lines of metrics.jsonl; short epochs have ten lines."""

_SHOWN_LOSSES = 16

_LONGEST_WAIT = timedelta(hours=2)
"""For the slowest process, which may have more of the long videos to score."""


def train(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    recipe: str = "default",
    resume: bool = False,
    temporal: bool = False,
) -> Evaluation:
    """Train on DATA and evaluate the adapter of the best epoch, or the last, as configured.

    Args:
        data: anything `read_annotations` takes.
        out: the run folder; it must not hold a run already, unless `resume`.
        config: everything else; unset with `resume` takes that of the run.
        recipe: name to record.
        resume: go on with the run in `out` where it stopped.
        temporal: measure how much the classifier uses the order of frames, too.

    Returns:
        The evaluation that `out/eval.json` holds.

    Raises:
        ArgumentError, DataError, CheckpointError: before anything is written.
        TrainingError: the loss is not finite.
        Interrupted: Ctrl-C or SIGTERM came; the run can be resumed.
    """
    folder = Path(out)
    check_folder(folder, Path(data), resume)
    wanted = config
    config = resumed_config(folder, config) if resume else config or TrainConfig()
    count = processes_to_start(wanted or config)
    if count > 1:
        config = replace(config, processes=config.processes or count)
        options: dict[str, Any] = {"recipe": recipe, "resume": resume, "temporal": temporal}
        return launch(count, train, data, out, config, **options)
    try:
        with (
            alone_in(folder) if is_first_process() else nullcontext(),
            torch.random.fork_rng(),  # the caller's generators are left as they were
        ):
            check_folder(folder, Path(data), resume)  # another run may just have ended there
            run = _prepare(Path(data), folder, config)
            return _run(run, Path(data), recipe, resume, temporal)
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped before the run {'went on' if resume else 'began'}") from error


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
        _train_epochs(run, states)
        return _finish(run, data, temporal)


def _extend(run: Run, data: Path) -> None:
    """Record that a resumed run is to have more epochs, and say what becomes of its schedule."""
    _, recipe, before = recorded_run(run.folder)
    if run.config.epochs == before.epochs:
        return
    run.write_config(data, recipe)
    steps = run.steps_per_epoch
    old, new = (
        config.peak_lr() * learning_rate_factor(run.at.epochs_done * steps, steps, config)
        for config in (before, run.config)
    )
    note(
        f"{before.epochs} epochs become {run.config.epochs}: the learning rate goes on as in a run "
        f"of {run.config.epochs} from the start, at {new:.1e}; it was {old:.1e}"
    )


@contextmanager
def _explain_how_to_resume(run: Run, data: Path, resume: bool) -> Iterator[None]:
    """Say of what ends a run where it stands and what to do."""
    try:
        yield
    except OSError as error:
        raise TrainingError(_ended(run, error)) from error
    except DataError as error:
        if resume or run.at.step > 1:
            raise DataError(_ended(run, error)) from error
        if run.is_main:
            (run.folder / "config.json").unlink()  # nothing has come of it
        raise
    except KeyboardInterrupt as error:
        in_epoch = f"epoch {run.at.epochs_done + 1} at step {run.at.step}"
        raise Interrupted(
            f"stopped in {'the last evaluation' if run.is_done else in_epoch}; "
            f"go on with: st-adapter train {shlex.quote(str(data))} "
            f"--out {shlex.quote(str(run.folder))} --resume"
        ) from error


def _ended(run: Run, error: Exception) -> str:
    """What is said of a run whose files or videos failed it."""
    return (
        f"ended at step {run.at.step}: {error}; {run.folder} keeps the last good state: see to "
        "that, then go on with --resume"
    )


def _prepare(data: Path, folder: Path, config: TrainConfig) -> Run:
    """Build all that a run needs in memory; refuse what cannot work."""
    annotations = read_parts(data, config)
    reversal, mirror = class_maps(config, annotations)
    device = choose_device(config.device)
    check_accelerate()
    accelerator = _join_processes(device, config.tracker, folder)
    config = replace(config, processes=config.processes or accelerator.num_processes)
    torch.manual_seed(config.seed)
    if config.weights == "hub":  # what can be refused without asking it
        inspect_spec(spec_of(config, annotations.labels), 1, config.size)
    model = build_model(config, annotations.labels, task=annotations.task).to(device)
    config = settle(model, config, copies=2 if reversal else 1)
    reader = make_reader(config.decoder, config.workers, device, index_of(data))
    drawn_by = {
        "reader": [config.decoder, str(reader.device)],
        "transform": asdict(train_transform(config)),
        "mirror": mirror,
        "reversal": reversal,
    }
    cache = make_prefix_cache(model, config, annotations, drawn_by, accelerator.num_processes)
    if not accelerator.is_main_process:
        torch.manual_seed(config.seed + accelerator.process_index)  # dropout of its own
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
        prefix_cache=cache,
    )


def settle(
    model: VideoClassifier, config: TrainConfig, copies: int = 1, advice: str | None = None
) -> TrainConfig:
    """Bring the model into the form it is trained in; refuse what this machine cannot do.

    Args:
        copies: clips that a clip of the batch becomes, with its reversal.
        advice: what would save memory; by default what the run has not turned on yet.
    """
    check_input_size(model, config.size)
    if config.checkpoint_activations:
        if not model.family.can_checkpoint:
            raise ArgumentError(
                f"activations of {type(model.backbone).__name__} cannot be checkpointed, those of "
                "plain ViTs can; use a smaller --batch-size with --accumulate"
            )
        model.family.checkpoints = True  # a third more time for less memory, the same gradients
    if not config.compile:
        speed_up_attention(model, config.size)
    chosen = choose_precision(config.precision, model, clip_frames=config.frames, size=config.size)
    precision, reason = broadcast_object_list([*chosen])  # each may have measured another
    model.set_precision(precision)
    needed = step_bytes(model, config)
    if config.fit_batch:
        fitted = fit_batch(config, needed, share_of_memory(model.device), copies)
        (config,) = broadcast_object_list([fitted])  # memory differs from process to process
    check_memory(model, config, needed(config.batch_size * copies), advice)
    say(f"{model.device}, {precision}: {reason}")
    if config.compile:
        mixed = torch.float32 if config.mixup or config.cutmix else torch.uint8
        compile_model(model, config.clip, config.batch_size * copies, dtype=mixed)
    return config


def _join_processes(device: torch.device, tracker: str, folder: Path) -> Accelerator:
    """Meet the other processes of the run, if there are any; they log to the tracker.

    Raises:
        ArgumentError: its package is not installed.
    """
    have = [str(tracker) for tracker in get_available_trackers()]
    if tracker not in ("none", *have):
        raise ArgumentError(
            f"tracker {tracker} needs its package: pip install {tracker}; "
            f"installed are {', '.join(have) or 'none'}"
        )
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train several times
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # --precision says
        device_placement=False,  # the model is where --device says
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
    )


def _announce(run: Run) -> None:
    config, model, data = run.config, run.model, run.data
    trained = model.num_parameters(only_trainable=True)
    image_model = sum(count_parts(model).values())
    beside = " and their reversals" if run.reversal else ""
    processes = config.processes or 1
    kind = ", any number of them a video" if data.task.multi_label else ""
    if data.task.heads:
        kind = f": {', '.join(f'{count} of {name}' for name, count in data.task.heads)}"
    say(
        f"{config.method} on {config.backbone}: {trained / 1e6:.3f} M trained parameters, "
        f"{trained / image_model:.1%} of the image model's {image_model / 1e6:.1f} M"
    )
    say(
        f"{len(data.train)} training and {len(data.val)} validation videos "
        f"of {len(data.labels)} classes{kind}"
    )
    say(
        f"{config.step_clips} clips{beside} a step = {config.batch_size} clips x "
        f"{config.accumulate} accumulation x {processes} process{'' if processes == 1 else 'es'}; "
        f"{run.steps_per_epoch} step{'' if run.steps_per_epoch == 1 else 's'} an epoch; "
        f"learning rate {config.peak_lr():.2e}"
    )
    if config.step_clips > len(data.train) * config.repeats:
        note(
            f"a step has all {len(data.train)} training videos, as there are no more; a "
            "smaller --batch-size takes more steps"
        )
    now = run.accelerator.num_processes
    if now != processes:
        note(
            f"{now} process{'' if now == 1 else 'es'} instead of {processes}; a step has the same "
            f"{config.step_clips} clips, shared by those there are"
        )
    if run.is_done:
        say("the run is complete; evaluating the epoch that is kept")
    elif run.at.step:
        say(f"resuming in epoch {run.at.epochs_done + 1} at step {run.at.step}")


class _View:
    """What a terminal shows of the run under its bar, and remembers between two looks.

    Attributes:
        losses: the last that were logged.
        last_score: of the last epoch that was validated here.
        facts: what was shown last.
    """

    def __init__(self, run: Run) -> None:
        self.losses: deque[float] = deque(maxlen=_SHOWN_LOSSES)
        self.last_score: float | None = None
        self.facts: list[str] = []
        self._began, self._first_step = time.monotonic(), run.at.step

    def show(self, run: Run, clips_per_second: float, memory_gb: float, progress: Bar) -> None:
        """Renew the facts under the bar."""
        # At the pace so far, the validation of epochs that are done counted in.
        step_seconds = (time.monotonic() - self._began) / (run.at.step - self._first_step)
        steps_left = run.config.epochs * run.steps_per_epoch - run.at.step
        self.facts = [
            f"step {run.at.step}",
            f"loss {self.losses[-1]:.3f} {trend(self.losses)}".rstrip(),
            f"rate {run.optimizer.param_groups[0]['lr']:.1e}",
            f"{clips_per_second:.1f} clips/s",
            f"{memory_gb:.1f} GB",
            f"whole run {timedelta(seconds=round(step_seconds * steps_left))} left",
        ]
        if run.at.best_score >= 0:
            measure = METRICS["mean_average_precision" if run.data.task.multi_label else "top1"]
            last = "" if self.last_score is None else f"last {self.last_score:.1%}, "
            self.facts.append(f"{measure} {last}best {run.at.best_score:.1%}")
        progress.tell(*self.facts)


def _train_epochs(run: Run, states: SavedStates) -> None:
    batches, view = Batches(run), _View(run)
    while not run.is_done:
        _train_epoch(run, batches, states, view)
        view.last_score = _validate_epoch(run, states)


def _train_epoch(run: Run, batches: Batches, states: SavedStates, view: _View) -> None:
    """Train from where the run stands to the end of its epoch."""
    config, epoch = run.config, run.at.epochs_done
    first_step = run.at.step - epoch * run.steps_per_epoch
    run.model.train()
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
        for step in batches.steps(epoch, first_step):
            due = run.is_main and states.is_due()
            with clear_out_of_memory(run.model.device, advice):
                done = take_step(run, step, stop=stop.is_set(), save=due)
            seen += done.clips
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
        states.save()
        was_stopped = any(gather_object([stop.is_set()]))
    if was_stopped or stop.is_set():  # which may have come after the others were asked
        raise KeyboardInterrupt


def _log_step(run: Run, norm: float, clips_per_second: float, progress: Bar, view: _View) -> None:
    run.report_skipped()
    if not run.at.losses:
        return  # all were left out
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


def _validate_epoch(run: Run, states: SavedStates) -> float | None:
    """Keep the adapter if it is the best on one view so far, or the last; close the epoch.

    Returns:
        what the classifier is judged by, where that was measured.
    """
    score = None
    values, told = {}, f"{run.at.train_seconds:.0f} s of training"
    with run.as_kept():
        run.save_adapter("adapter_last")
        if run.config.keep == "last":
            run.save_adapter("adapter")
        else:
            result = _evaluate(run, replace(run.config.clip, views=(1, 1)), cached=True)
            score = result.score
            if result.score > run.at.best_score:
                run.at.best_score, run.best_result = result.score, result
                run.at.best_epoch = run.at.epochs_done + 1
                run.save_adapter("adapter")
            values = {
                "top1": result.top1,
                "top5": result.top5,
                "mean_class_accuracy": result.mean_class_accuracy,
                result.metric: result.score,
                "val_loss": result.loss,
            }
            told = f"{METRICS[result.metric]} {result.score:.1%} (best {run.at.best_score:.1%})"
    run.log(values | {"train_seconds": round(run.at.train_seconds, 2)})
    run.at.epochs_done += 1
    states.save()
    say(f"epoch {run.at.epochs_done}/{run.config.epochs}: {told}")
    if run.is_done and run.at.epochs_done < run.config.epochs:
        say(f"no better epoch in {run.config.patience}; training ends")
    return score


def _evaluate(
    run: Run, clip: ClipConfig, temporal: bool = False, cached: bool = False
) -> Evaluation:
    score: Callable[..., Scored] = score_videos
    if cached and run.prefix_cache:
        make_loader = partial(CachedLoader, run.prefix_cache, lambda index: (VALIDATION, index))
        score = partial(score_videos, make_loader=make_loader, forward=run.forward)
    return evaluate_videos(
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


def _finish(run: Run, data: Path, temporal: bool) -> Evaluation:
    """Evaluate the kept adapter with the recipe's views and write the result."""
    kept = run.folder / "adapter"
    copy_trained(run.model, read_tensors(kept), str(kept))
    result = run.best_result  # already what is wanted, where validation used the recipe's views
    if result is None or result.views != run.config.clip.views or temporal:
        result = _evaluate(run, run.config.clip, temporal)
    if run.is_main:
        write_evaluation(run.folder / "eval.json", result, data)
        run.unreported += result.skipped
    run.report_skipped()
    run.accelerator.end_training()
    return result
