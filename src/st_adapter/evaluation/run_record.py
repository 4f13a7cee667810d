"""What a run folder records: its data, its configuration and its evaluation."""

import json
from pathlib import Path
from typing import Any

import torch

from st_adapter.common.files import read_json, write_json
from st_adapter.common.paths import absolute
from st_adapter.common.provenance import command, date, machine
from st_adapter.common.remarks import note, say
from st_adapter.config import DataConfig, TrainConfig
from st_adapter.data.annotations import read_annotations, read_parts
from st_adapter.data.videos import VideoList
from st_adapter.errors import ArgumentError, DataError
from st_adapter.evaluation.evaluate import Evaluation
from st_adapter.model.spec import ModelSpec
from st_adapter.recipes import resolve
from st_adapter.wording import setting, switch


def recorded_run(folder: Path) -> tuple[Path, str, TrainConfig]:
    """Read what the run in `folder` was started with.

    Returns:
        Path of the training data, name of the recipe, and configuration.

    Raises:
        ArgumentError: If the folder does not contain a run or its record cannot be read.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ArgumentError(
            f"{folder} does not contain the config.json of a run; "
            f"start one without {switch('resume')}"
        )
    config = resolve("default", file, {})
    record = json.loads(file.read_text(encoding="utf-8"))
    return Path(record.get("data", "")), record.get("recipe", "default"), config


def evaluation_videos(
    run: Path,
    data: Path,
    spec: ModelSpec,
    options: DataConfig | None = None,
) -> VideoList:
    """Return the videos to evaluate a run on.

    This is the validation part of `data`, or all of it if it has none. If the run was trained on
    `data`, and `data` has no validation part or was divided into folds, it is the part that
    training held out.

    Args:
        run: A run folder or an adapter folder.
        data: Labelled videos.
        spec: Describes the classifier in `run`.
        options: How to read `data`. By default as in training if the run was trained on the same
            data, otherwise `DataConfig()`.

    Raises:
        DataError: If `data` cannot be used, or has changed since the run was trained on it.
    """
    config = None
    if (run / "config.json").is_file():
        trained_on, _, recorded = recorded_run(run)
        config = recorded if absolute(trained_on) == absolute(data) else None
    options = options or (config.data if config else DataConfig())
    given = read_annotations(data, spec.labels, options, spec.task)
    if config is not None and (config.fold is not None or not given.val):
        if config.val is not None:
            note(
                f"evaluating on {data}, which the run was trained on; "
                f"its validation data is {config.val}"
            )
            return given.train
        # As in training, because `data` may be a link to it, and paths count in the digest.
        held_out = read_parts(trained_on, config)
        trained = read_json(run / "config.json").get("data_digest")
        if trained not in (None, held_out.digest()):
            raise DataError(
                f"{data} has changed since the run was trained on it, so it is unknown which "
                "videos were held out; give a list of the videos to evaluate on instead"
            )
        say(f"evaluating on the part of {data} that was held out from training")
        return held_out.val
    if not given.val and not (run / "config.json").is_file():
        note(
            f"{run} does not record which videos it was trained on, so all {len(given.train)} of "
            f"{data} are evaluated; videos it was trained on make the accuracy too high"
        )
    return given.val or given.train


def evaluation_file(run: Path, out: Path | None) -> Path | None:
    """Return the file to write an evaluation to: `out`, or `eval.json` if `run` is a run folder.

    Returns:
        None if `out` is None and `run` is an adapter folder.

    Raises:
        ArgumentError: If the file exists and was not written by an evaluation.
    """
    if out is None and (run / "config.json").is_file():
        out = run / "eval.json"
    if out is not None and out.exists() and not _earlier_evaluation(out):
        raise ArgumentError(
            f"{out} exists and was not written by `evaluate`; choose another {setting('out')}"
        )
    return out


def keep_what_training_found(run: Path, evaluation: Evaluation, data: str) -> None:
    """Add to an evaluation what training found out about the same videos.

    This is the accuracy of a linear probe on one frame, and whether temperatures and threshold were
    fitted to these videos.

    Args:
        run: A run folder or an adapter folder.
        evaluation: The evaluation; it is changed in place.
        data: Path of the videos.
    """
    before = _earlier_evaluation(run / "eval.json")
    if before.get("data") != data or before["num_videos"] != evaluation.num_videos:
        return
    evaluation.calibration["fitted_here"] = before.get("calibration", {}).get("fitted_here", False)
    if "one_frame" in before.get("baselines", {}):
        evaluation.baselines["one_frame"] = before["baselines"]["one_frame"]


def _earlier_evaluation(file: Path) -> dict[str, Any]:
    """Read an evaluation; return {} if the file is missing, damaged or something else."""
    try:
        record = read_json(file)
    except ArgumentError:
        return {}
    return record if "confusion" in record else {}


def write_evaluation(
    file: Path, evaluation: Evaluation, data: str, device: torch.device, seconds: float
) -> None:
    """Write an evaluation with what it came from.

    Args:
        file: The file to write.
        evaluation: The evaluation.
        data: Path of the videos.
        device: Device of the classifier.
        seconds: How long the evaluation took.
    """
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    origin = {
        "data": data,
        "command": command(),
        "date": date(),
        "seconds": round(seconds, 2),
        "machine": machine(gpu),
    }
    before = _earlier_evaluation(file).get("data", "")
    if before not in ("", data):
        other = setting("out", "FILE")
        note(f"replacing the evaluation on {before} in {file}; use {other} to keep both")
    write_json(file, evaluation.to_json() | origin)
