"""What a finished run says of itself: what it was trained on, and how good it was found to be."""

import json
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, write_json
from st_adapter.common.paths import absolute
from st_adapter.common.provenance import command
from st_adapter.common.remarks import note, say
from st_adapter.config import DataConfig, TrainConfig
from st_adapter.data.annotations import read_annotations, read_parts
from st_adapter.data.videos import VideoList
from st_adapter.errors import ArgumentError, DataError
from st_adapter.evaluation.evaluate import Evaluation
from st_adapter.model.spec import ModelSpec
from st_adapter.recipes import resolve


def recorded_run(folder: Path) -> tuple[Path, str, TrainConfig]:
    """Read DATA, recipe name and configuration that the run in `folder` was started with.

    Raises:
        ArgumentError: there is no run, or its record cannot be read.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ArgumentError(f"{folder} holds no config.json of a run; leave --resume out")
    config = resolve("default", file, {})
    record = json.loads(file.read_text(encoding="utf-8"))
    return Path(record.get("data", "")), record.get("recipe", "default"), config


def evaluation_videos(
    run: Path,
    data: Path,
    spec: ModelSpec,
    options: DataConfig | None = None,
) -> VideoList:
    """The videos of DATA to measure the classifier in `run` on.

    Its validation part; without one, all of it, but for the DATA that the run was trained on:
    of that, the part that was held out.

    Args:
        spec: of the classifier.
        options: how DATA is read; unset is as for training on the same DATA.
    """
    config = None
    if (run / "config.json").is_file():
        trained_on, _, recorded = recorded_run(run)
        config = recorded if absolute(trained_on) == absolute(data) else None
    options = options or (config.data if config else DataConfig())
    given = read_annotations(data, spec.labels, options, spec.task)
    if not given.val and config is not None:
        if config.val is not None:
            note(f"the run was trained on {data}; its validation data is {config.val}")
            return given.train
        held_out = read_parts(data, config)
        trained = read_json(run / "config.json").get("data_digest")
        if trained not in (None, held_out.digest()):
            raise DataError(
                f"{data} is not what the run was trained on any more: nothing tells which of its "
                "videos were held out; give those to measure on by a list of their own"
            )
        say(f"evaluating on the part of {data} that was held out from training")
        return held_out.val
    return given.val or given.train


def evaluation_file(run: Path, out: Path | None) -> Path | None:
    """Where an evaluation is written: `out`, or `eval.json` in a run folder.

    Raises:
        ArgumentError: something other than an evaluation lies there.
    """
    if out is None and (run / "config.json").is_file():
        out = run / "eval.json"
    if out is not None and out.exists() and not _earlier_evaluation(out):
        raise ArgumentError(f"{out} is no earlier evaluation; choose another --out")
    return out


def _earlier_evaluation(file: Path) -> dict[str, Any]:
    """What an evaluation wrote; empty where the file is missing, damaged or something else."""
    try:
        record = read_json(file)
    except ArgumentError:
        return {}
    return record if "confusion" in record else {}


def write_evaluation(file: Path, evaluation: Evaluation, data: Path) -> None:
    """Write what was measured, on which data and by which command."""
    origin = {"data": absolute(data), "command": command()}
    before = _earlier_evaluation(file).get("data", "")
    if before not in ("", origin["data"]):
        note(f"{file} held the result on {before}; --out FILE would keep both")
    write_json(file, evaluation.to_json() | origin)
