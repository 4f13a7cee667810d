"""Train a classifier on labelled videos, into a run folder that can be resumed at any time."""

import shlex
import statistics
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object

from st_adapter.catalogue.costs import count_parts
from st_adapter.common.interrupt import deferred_interrupt
from st_adapter.common.lock import alone_in
from st_adapter.common.progress import Bar, bar, console, say
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.labels import Task
from st_adapter.data.video.index import index_of
from st_adapter.data.video.reader import make_reader
from st_adapter.errors import DataError, TrainingError
from st_adapter.evaluation.evaluate import Evaluation, evaluate
from st_adapter.evaluation.metrics import METRICS
from st_adapter.model import checkpoint
from st_adapter.model.classifier import VideoClassifier, model_of
from st_adapter.model.sharding import check_shardable, gathered, num_shards
from st_adapter.runtime.compilation import compile_for_training
from st_adapter.runtime.device import check_input_size, choose_device, choose_precision, hold_frozen
from st_adapter.runtime.lanes import lanes_of
from st_adapter.runtime.memory import check_memory, clips_in_pass, fit_batch, peak_memory_gb
from st_adapter.runtime.prefix_cache import PrefixCache, make_prefix_cache
from st_adapter.training.batches import Batches, class_maps, train_transform
from st_adapter.training.launch import check_accelerate, is_launched, launch
from st_adapter.training.optimizer import make_optimizer
from st_adapter.training.run import Run
from st_adapter.training.run_folder import (
    check_folder,
    read_videos,
    resumed_config,
    write_evaluation,
)
from st_adapter.training.run_view import RunView
from st_adapter.training.step import take_step
from st_adapter.training.trackers import check_tracker, start_tracker

_LOG_EVERY = 10
"""Most steps between two lines of metrics.jsonl; short epochs have ten lines."""


_LONGEST_WAIT = timedelta(hours=2)
"""For the slowest process, which may have more of the long videos to score."""


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; its state is saved."""


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
    run = _prepare(Path(data), folder, config)
    with alone_in(folder) if run.is_main else nullcontext():
        return _run(run, Path(data), recipe, resume, temporal)


def _run(run: Run, data: Path, recipe: str, resume: bool, temporal: bool) -> Evaluation:
    """Take a prepared run to its end."""
    if resume:
        run.restore()
    else:
        run.write_config(data, recipe)
    _announce(run)
    start_tracker(run.accelerator, run.config, run.folder)
    try:
        _train_epochs(run)
    except OSError as error:
        raise TrainingError(_ended(run, error)) from None
    except DataError as error:
        if resume or run.step > 1:
            raise DataError(_ended(run, error)) from None
        if run.is_main:
            (run.folder / "config.json").unlink()  # nothing has come of it
        raise
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped in epoch {run.epochs_done + 1} at step {run.step}; "
            f"go on with: st-adapter train {shlex.quote(str(data))} "
            f"--out {shlex.quote(str(run.folder))} --resume"
        ) from None
    return _finish(run, data, temporal)


def _ended(run: Run, error: Exception) -> str:
    """What is said of a run whose files or videos failed it."""
    return (
        f"ended at step {run.step}: {error}; {run.folder} keeps the last good state: see to that, "
        "then go on with --resume"
    )


def processes_to_start(config: TrainConfig) -> int:
    """How many processes to start here: as many as asked for, or one for each GPU."""
    if is_launched():
        return 1
    if choose_device(config.device).type != "cuda":
        return config.processes or 1
    gpus = 1 if ":" in config.device else torch.cuda.device_count()
    return min(config.processes or gpus, gpus)


def _prepare(data: Path, folder: Path, config: TrainConfig) -> Run:
    """Build all that a run needs in memory; refuse what cannot work."""
    annotations = read_videos(data, config)
    reversal, mirror = class_maps(config, annotations)
    device = choose_device(config.device)
    check_tracker(config.tracker)
    check_accelerate()
    check_shardable(config)
    accelerator = _join_processes(device, config.tracker, folder)
    config = replace(config, processes=config.processes or accelerator.num_processes)
    torch.manual_seed(config.seed)
    model = _build_model(config, annotations, device)
    check_input_size(model, config.size)
    chosen = choose_precision(config.precision, model, clip_frames=config.frames, size=config.size)
    precision, reason = broadcast_object_list([*chosen])  # each may have measured another
    hold_frozen(model, precision)
    copies = 2 if reversal else 1
    if config.fit_batch:
        fitted = fit_batch(model, config, precision, copies)
        (config,) = broadcast_object_list([fitted])  # memory differs from process to process
    check_memory(model, config, precision, config.batch_size * copies)
    say(f"{device}, {precision}: {reason}")
    if config.compile:
        compile_for_training(model, config, precision, lanes_of(model.device))
    reader = make_reader(config.decoder, config.workers, device, index_of(data))
    drawn_by = {
        "reader": [config.decoder, str(reader.device)],
        "transform": asdict(train_transform(config)),
        "mirror": mirror,
        "reversal": reversal,
    }
    prefix_cache = make_prefix_cache(
        model, config, precision, annotations, drawn_by, accelerator.num_processes
    )
    at_once = clips_in_pass(model, config, precision, config.batch_size * copies)
    if num_shards() > 1:
        model.shard()
    if not accelerator.is_main_process:
        torch.manual_seed(config.seed + accelerator.process_index)  # dropout of its own
    return Run(
        folder=folder,
        config=config,
        data=annotations,
        model=model,
        optimizer=make_optimizer(model, config),
        accelerator=accelerator,
        precision=precision,
        reversal=reversal,
        mirror=mirror,
        prefix_cache=prefix_cache,
        at_once=at_once,
        reader=reader,
    )


def _build_model(
    config: TrainConfig, annotations: Annotations, device: torch.device
) -> VideoClassifier:
    """The classifier as it is before the first step."""
    model = model_of(config, annotations.labels, task=annotations.task).to(device)
    if config.checkpoint_activations:
        model.checkpoint_activations()
    return model


def _join_processes(device: torch.device, tracker: str, folder: Path) -> Accelerator:
    """Meet the other processes of the run, where there are any; the main one alone speaks."""
    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train several times
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # --precision says
        device_placement=False,  # the model is where --device says
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
    )
    console.quiet = not accelerator.is_main_process
    return accelerator


def _announce(run: Run) -> None:
    config, model, data = run.config, run.model, run.data
    trained = model.num_parameters(only_trainable=True)
    image_model = sum(count_parts(model).values())
    beside = " and their reversals" if run.reversal else ""
    say(
        f"{config.method} on {config.backbone}: {trained / 1e6:.3f} M trained parameters, "
        f"{trained / image_model:.1%} of the image model's {image_model / 1e6:.1f} M"
    )
    say(
        f"{len(data.train)} training and {len(data.val)} validation videos "
        f"of {len(data.labels)} classes{_kind(data.task)}"
    )
    say(
        f"{config.step_clips} clips{beside} a step = {config.batch_size} clips x "
        f"{config.accumulate} accumulation x {_count(config.processes or 1, 'process')}; "
        f"{run.steps_per_epoch} step{'' if run.steps_per_epoch == 1 else 's'} an epoch; "
        f"learning rate {config.peak_lr():.2e}"
    )
    if config.step_clips > len(data.train) * config.repeats:
        say(
            f"note: a step has all {len(data.train)} training videos, as there are no more; a "
            "smaller --batch-size takes more steps"
        )
    now = run.accelerator.num_processes
    if now != config.processes:
        say(
            f"note: {_count(now, 'process')} instead of {config.processes}; a step has the same "
            f"{config.step_clips} clips, shared by those there are"
        )
    if num_shards() > 1:
        say(
            f"FSDP: parameters, gradients and optimizer lie in shards over {num_shards()} processes"
        )
    if run.is_done:
        say("the run is complete; evaluating the epoch that is kept")
    elif run.step:
        say(f"resuming in epoch {run.epochs_done + 1} at step {run.step}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es'}"


def _kind(task: Task) -> str:
    """What is told of a task that is not the usual one."""
    if task.heads:
        return f": {', '.join(f'{count} of {name}' for name, count in task.heads)}"
    return ", any number of them a video" if task.multi_label else ""


def _train_epochs(run: Run) -> None:
    """Train and validate until the run is done."""
    batches, view = Batches(run), RunView(run)
    while not run.is_done:
        _train_epoch(run, batches, view)
        view.last_score = _validate_epoch(run)


def _train_epoch(run: Run, batches: Batches, view: RunView) -> None:
    """Train from where the run stands to the end of its epoch."""
    config, epoch = run.config, run.epochs_done
    first_step = run.step - epoch * run.steps_per_epoch
    run.model.train()
    seen, began = 0, time.perf_counter()
    last = began
    title = f"epoch {epoch + 1}/{config.epochs}"
    log_every = min(_LOG_EVERY, max(1, run.steps_per_epoch // 10))
    with deferred_interrupt() as stop, bar(title, run.steps_per_epoch, first_step) as progress:
        progress.tell(*view.facts)
        for step in batches.steps(epoch, first_step):
            done = take_step(run, step, stop.is_set())
            seen += done.clips
            now = time.perf_counter()
            run.train_seconds += now - last
            last = now
            if run.step % log_every == 0 or run.step == 1:
                _log_step(run, done.norm, seen / (now - began), progress, view)
            progress.advance()
            if done.stop:
                break
            if done.save:
                run.save()
    run.save()
    if any(gather_object([stop.is_set()])):
        raise KeyboardInterrupt


def _log_step(run: Run, norm: float, clips_per_second: float, progress: Bar, view: RunView) -> None:
    run.report_skipped()
    if not run.losses:
        return  # all were left out
    loss = statistics.fmean(run.losses)
    run.losses.clear()
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


def _validate_epoch(run: Run) -> float | None:
    """Keep the adapter if it is the best on one view so far, or the last; close the epoch.

    Returns:
        what the classifier is judged by, where that was measured.
    """
    score = None
    values, note = {}, f"{run.train_seconds:.0f} s of training"
    with run.what_counts():
        run.save_adapter("adapter_last")
        if run.config.keep == "last":
            run.save_adapter("adapter")
        else:
            one_view = replace(run.config.clip, views=(1, 1))
            result = _evaluate(run, one_view, prefix_cache=run.prefix_cache)
            score = result.score
            if result.score > run.best_score:
                run.best_score, run.best_result = result.score, result
                run.best_epoch = run.epochs_done + 1
                run.save_adapter("adapter")
            values = {
                "top1": result.top1,
                "top5": result.top5,
                "mean_class_accuracy": result.mean_class_accuracy,
                result.metric: result.score,
                "val_loss": result.loss,
            }
            note = f"{METRICS[result.metric]} {result.score:.1%} (best {run.best_score:.1%})"
    run.log(values | {"train_seconds": round(run.train_seconds, 2)})
    run.epochs_done += 1
    run.save()
    say(f"epoch {run.epochs_done}/{run.config.epochs}: {note}")
    if run.is_done and run.epochs_done < run.config.epochs:
        say(f"no better epoch in {run.config.patience}; training ends")
    return score


def _evaluate(
    run: Run, clip: ClipConfig, temporal: bool = False, prefix_cache: PrefixCache | None = None
) -> Evaluation:
    config = run.config
    return evaluate(
        run.model,
        run.data.val,
        clip,
        batch_size=config.batch_size,
        workers=config.workers,
        precision=run.precision,
        temporal=temporal,
        reader=run.reader,
        accelerator=run.accelerator,
        prefix_cache=prefix_cache,
    )


def _finish(run: Run, data: Path, temporal: bool) -> Evaluation:
    """Evaluate the kept adapter with the recipe's views and write the result."""
    best = checkpoint.load_tensors(run.folder / "adapter")
    with gathered(run.model):
        checkpoint.copy_trained(run.model, best, str(run.folder / "adapter"))
        result = run.best_result  # already what is wanted, where validation used the recipe's views
        if result is None or result.views != run.config.clip.views or temporal:
            result = _evaluate(run, run.config.clip, temporal)
    if run.is_main:
        write_evaluation(run.folder / "eval.json", result, data)
        run.unreported += result.skipped
    run.report_skipped()
    run.accelerator.end_training()
    return result
