"""Cross-validation: train once per fold, and score every video with the run that left it out."""

import shlex
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, write_json
from st_adapter.common.interrupt import Interrupted
from st_adapter.common.lock import alone_in
from st_adapter.common.paths import absolute
from st_adapter.common.ranks import is_launched
from st_adapter.common.remarks import note, say
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.annotations import Annotations, read_annotations, read_parts
from st_adapter.data.formats.listing import examples
from st_adapter.data.video.index import index_of
from st_adapter.data.video.reader import make_reader
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import ArgumentError, DataError
from st_adapter.evaluation.evaluate import Evaluation, evaluate_videos
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.run_record import recorded_run, write_evaluation
from st_adapter.evaluation.score import Scored, score_videos
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.device import choose_device
from st_adapter.training.run_folder import check_folder, write_config
from st_adapter.wording import setting

FOLDS_FILE = "folds.json"
"""The summary of a cross-validation, in its folder."""


def cross_validate(
    train: Callable[..., Evaluation],
    data: Path,
    folder: Path,
    config: TrainConfig,
    *,
    recipe: str,
    resume: bool,
    temporal: bool,
) -> Evaluation:
    """Train a run for each fold in `fold_1/` and so on, and evaluate all videos together.

    Args:
        train: The function that trains one fold.
        data: Labelled videos. A validation part is joined to the training part.
        folder: The folder to write, or with `resume` that of an interrupted cross-validation.
        config: Settings of all runs.
        recipe: Name of the recipe that `config` is from.
        resume: Go on with the folds that are not finished.
        temporal: Also evaluate with the frames in other orders.

    Returns:
        The evaluation of all videos, each scored by the run that was not trained on it.

    Raises:
        ArgumentError, DataError: A setting or the data cannot be used.
        Interrupted: Ctrl-C or SIGTERM came.
    """
    assert config.folds is not None
    if is_launched():
        raise ArgumentError(
            f"folds cannot run under a launcher; train each of them with {setting('fold', 'N')}"
        )
    annotations = read_annotations(data, options=config.data)
    counts = _count_units(annotations)
    _check_classes(data, annotations, counts)
    folds = [replace(config, fold=number + 1) for number in range(config.folds)]
    parts = [read_parts(data, fold) for fold in folds]  # finds what cannot work before training
    if min(counts.values()) < config.folds:
        few = {name: count for name, count in counts.items() if count < config.folds}
        note(
            f"some of the {config.folds} folds have no videos of {examples(few)}; "
            f"{setting('folds', max(2, min(few.values())))} would have every class in each"
        )
    if annotations.val:
        note(
            f"all {len(annotations.train) + len(annotations.val)} videos of {data} are divided "
            f"into folds, with those of its validation part ({len(annotations.val)})"
        )
    with alone_in(folder):
        _start(folder, data, config, recipe, resume, annotations.digest())
        for number, fold in enumerate(folds, start=1):
            place = folder / f"fold_{number}"
            if number > 1:  # which precision is faster is measured once, so that all have the same
                settled = recorded_run(folder / "fold_1")[2].precision
                fold = replace(fold, precision=settled)
            _check_split(place, parts[number - 1])
            _train_fold(train, data, place, fold, recipe, temporal, folder)
        began = time.monotonic()
        result = _evaluate(folder, config, data, [part.val for part in parts], temporal)
        result = replace(result, baselines=result.baselines | _one_frame(folder, config.folds))
        write_json(folder / FOLDS_FILE, _summary(folder, folds, result.metric))
        seconds, device = time.monotonic() - began, choose_device(config.device)
        write_evaluation(folder / "eval.json", result, absolute(data), device, seconds)
    return result


def _count_units(annotations: Annotations) -> dict[str, int]:
    """Return the number of groups, or of files without groups, of each class."""
    videos = annotations.joined()
    units_of: dict[int, set[str]] = defaultdict(set)
    for i, unit in enumerate(videos.groups() or videos.names()):
        for target in videos.targets(i).tolist():
            units_of[target].add(unit)
    return {annotations.labels[label]: len(own) for label, own in sorted(units_of.items())}


def _check_classes(data: Path, annotations: Annotations, counts: dict[str, int]) -> None:
    """Check that no class is in a single group or file."""
    alone = [name for name, count in counts.items() if count < 2]
    if alone and not annotations.task.multi_label:
        what = "groups" if annotations.joined().groups() else "videos"
        raise DataError(
            f"{data}: folds need at least 2 {what} of each class, one to train and one to "
            f"validate on; there is only 1 of {examples(alone)}"
        )


def _start(
    folder: Path, data: Path, config: TrainConfig, recipe: str, resume: bool, digest: str
) -> None:
    """Write `config.json`. When resumed, check that the videos are the same."""
    check_folder(folder, data, resume)
    more_epochs = False
    if resume:
        more_epochs = recorded_run(folder)[2].epochs < config.epochs
        if read_json(folder / "config.json").get("data_digest") != digest:
            raise ArgumentError(
                f"{folder} was started on other videos or labels; resume with the same data, or "
                f"start a new run with another {setting('out')}"
            )
    for file in folder.glob("fold_*/eval.json") if more_epochs else ():
        file.unlink()  # marks a fold as finished
    write_config(folder, config, recipe=recipe, data=absolute(data), data_digest=digest)


def _check_split(place: Path, parts: Annotations) -> None:
    """Check that a fold that was begun has the same videos in each part as now."""
    record = place / "config.json"
    if record.exists() and read_json(record).get("data_digest") != parts.digest():
        raise ArgumentError(
            f"{place} was trained with other videos left out, because groups have changed or "
            f"scikit-learn divides them differently; start a new run with another {setting('out')}"
        )


def _train_fold(
    train: Callable[..., Evaluation],
    data: Path,
    place: Path,
    config: TrainConfig,
    recipe: str,
    temporal: bool,
    folder: Path,
) -> None:
    """Train one fold, go on with it, or leave it unchanged if it is finished."""
    if (place / "eval.json").exists():
        return
    say(f"fold {config.fold} of {config.folds}")
    try:
        begun = (place / "config.json").exists()
        options = {"recipe": recipe, "resume": begun, "temporal": temporal}
        train(data, place, config, **options, diagnose=False)
    except Interrupted as error:
        raise Interrupted(
            f"stopped in fold {config.fold} of {config.folds}; continue with: st-adapter train "
            f"{shlex.quote(str(data))} --out {shlex.quote(str(folder))} --resume"
        ) from error


def _evaluate(
    folder: Path, config: TrainConfig, data: Path, held_out: Sequence[VideoList], temporal: bool
) -> Evaluation:
    """Score each video with the run of the fold that left it out, and measure all scores."""
    say(f"scoring every video with the fold that left it out: {sum(map(len, held_out))} videos")
    ends = [0]
    for part in held_out:
        ends.append(ends[-1] + len(part))

    def load(number: int) -> Predictor:
        return Predictor(
            folder / f"fold_{number + 1}",
            device=config.device,
            precision=recorded_run(folder / f"fold_{number + 1}")[2].precision,
            decoder=config.decoder,
        )

    def score(
        model: VideoClassifier,
        videos: Sequence[Video],
        clip: ClipConfig,
        *,
        share: Sequence[int],
        **options: Any,
    ) -> Scored:
        for number in range(len(held_out)):
            own = [i for i in share if ends[number] <= i < ends[number + 1]]
            chosen = load(number).model if number else model
            yield from score_videos(chosen, videos, clip, share=own, **options)

    first = load(0)
    return evaluate_videos(
        first.model,
        [video for part in held_out for video in part],
        config.clip,
        batch_size=config.batch_size,
        workers=config.workers,
        temporal=temporal,
        reader=make_reader(config.decoder, config.workers, str(first.model.device), index_of(data)),
        score=score,
    )


def _one_frame(folder: Path, folds: int) -> dict[str, float]:
    """Return the accuracy of one frame over all folds, if every fold measured it."""
    records = [read_json(folder / f"fold_{number + 1}" / "eval.json") for number in range(folds)]
    measured = [record.get("baselines", {}).get("one_frame") for record in records]
    if None in measured:
        return {}
    counts = [record["num_videos"] for record in records]
    right = sum(share * count for share, count in zip(measured, counts, strict=True))
    return {"one_frame": right / sum(counts)}


def _summary(folder: Path, folds: Sequence[TrainConfig], metric: str) -> dict[str, Any]:
    """Summarise the scores of the folds."""
    rows = []
    for fold in folds:
        place = folder / f"fold_{fold.fold}"
        evaluation = read_json(place / "eval.json")
        rows.append(
            {
                "folder": place.name,
                "num_videos": evaluation["num_videos"],
                "score": evaluation[metric],
            }
        )
    scores = [row["score"] for row in rows]
    return {
        "folds": rows,
        "metric": metric,
        "mean": statistics.fmean(scores),
        "spread": statistics.stdev(scores),
        "lowest": min(scores),
        "highest": max(scores),
    }
