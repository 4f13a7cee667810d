"""What a run folder says of its run, and where its evaluations go."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from st_adapter.backbones.build import NAMED_SOURCES
from st_adapter.common.files import check_writable, read_json, read_json_lines, write_json
from st_adapter.common.paths import absolute, is_remote
from st_adapter.common.progress import say
from st_adapter.common.provenance import command, versions
from st_adapter.config import DataConfig, TrainConfig
from st_adapter.data.annotations import Annotations, read_annotations, read_parts
from st_adapter.data.videos import VideoList
from st_adapter.errors import ArgumentError, DataError
from st_adapter.evaluation.evaluate import Evaluation
from st_adapter.model.spec import ModelSpec
from st_adapter.recipes import resolve

_CACHE = ("prefix_cache", "prefix_cache_folder")
_OF_THE_MACHINE = ("workers", "device", "checkpoint_activations", "compile", "tracker", *_CACHE)
_NAMES = ("config.json", "adapter", "adapter_last", "metrics.jsonl", "eval.json", "state")


def write_evaluation(file: Path, evaluation: Evaluation, data: Path) -> None:
    """Write what was measured, on which data and by which command."""
    origin = {"data": absolute(data), "command": command()}
    before = read_json(file).get("data", "") if file.exists() else ""
    if before not in ("", origin["data"]):
        say(f"note: {file} held the result on {before}; --out FILE would keep both")
    write_json(file, evaluation.to_json() | origin)


def write_config(
    folder: Path,
    config: TrainConfig,
    *,
    recipe: str,
    data: str,
    data_digest: str = "",
    next_epoch: int | None = None,
) -> None:
    """Write the record of a run, its paths as they read from any folder.

    `data` and its digest are empty and `next_epoch` counts the epochs done for a run that was
    trained elsewhere.
    """
    record: dict[str, Any] = {"recipe": recipe, "data": data}
    if data_digest:
        record["data_digest"] = data_digest
    if next_epoch is not None:
        record["next_epoch"] = next_epoch
    record |= {"command": command(), "versions": versions()}
    values = config.to_json() | absolute_paths(config)
    write_json(folder / "config.json", record | {"config": values})


def recorded_next_epoch(folder: Path) -> int:
    """How many epochs the run in `folder` has been trained for; 0 where nothing tells."""
    try:
        recorded = json.loads((folder / "config.json").read_text(encoding="utf-8"))["next_epoch"]
    except (OSError, ValueError, TypeError, KeyError):  # not one that was imported
        recorded = None
    lines = read_json_lines(folder / "metrics.jsonl")
    done = max(
        (line["epoch"] for line in lines if "train_seconds" in line or "top1" in line),
        default=0,
    )
    return recorded if type(recorded) is int else done


def check_folder(folder: Path, data: Path, resume: bool) -> None:
    """Raise ArgumentError where a new run would overwrite one, or there is none to resume."""
    has_config = (folder / "config.json").exists()
    if not resume and any((folder / name).exists() for name in _NAMES):
        hint = "go on with it by --resume, or " if has_config else ""
        raise ArgumentError(f"{folder} already holds a run; {hint}choose another --out")
    if (folder / "comparison.json").exists():
        raise ArgumentError(f"{folder} holds a comparison; choose another --out")
    if absolute(folder) == absolute(data):
        raise ArgumentError(f"{folder} is the data; choose another --out")
    check_writable(folder)
    if not resume:
        return
    before, _, _ = recorded_run(folder)
    if not before.is_absolute() and not is_remote(before):
        raise ArgumentError(f"{folder} was trained elsewhere; it holds no state to go on from")
    if absolute(before) != absolute(data):
        raise ArgumentError(
            f"{folder} was started on {before}, not {absolute(data)}; resume with the same data, "
            "or start anew with another --out"
        )


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


def resumed_config(folder: Path, wanted: TrainConfig | None) -> TrainConfig:
    """The configuration to go on with: the recorded one, run by this machine as wanted.

    Raises:
        ArgumentError: `wanted` differs in anything else.
    """
    _, _, recorded = recorded_run(folder)
    if wanted is None:
        return recorded
    values = wanted.to_json() | absolute_paths(wanted)
    for name, before in recorded.to_json().items():
        same = values[name] == before or (name == "precision" and values[name] == "auto")
        if name not in (*_OF_THE_MACHINE, "processes") and not same:
            flag = f"--{name.replace('_', '-')}"
            raise ArgumentError(
                f"{folder} was started with {flag} {before}, not {values[name]}; "
                "a resumed run keeps its configuration"
            )
    return replace(recorded, **{name: getattr(wanted, name) for name in _OF_THE_MACHINE})


def absolute_paths(config: TrainConfig) -> dict[str, Any]:
    """The configuration's paths as they read from any folder."""
    named = config.weights in NAMED_SOURCES
    return {
        "weights": config.weights if named else str(Path(config.weights).resolve()),
        "val": None if config.val is None else absolute(config.val),
        "videos": None if config.videos is None else absolute(config.videos),
        "prefix_cache_folder": config.prefix_cache_folder
        and str(Path(config.prefix_cache_folder).resolve()),
        **{
            name: str(Path(text).resolve())
            for name in ("mirror", "reversal")
            if (text := getattr(config, name)) is not None and text.lower().endswith(".csv")
        },
    }


def read_videos(data: Path, config: TrainConfig) -> Annotations:
    """Read DATA in the two parts that a configuration trains and validates on.

    Raises:
        DataError: as `read_parts`.
    """
    val = Path(config.val) if config.val is not None else None
    return read_parts(data, val, config.val_fraction, config.seed, config.group, config.data)


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
            say(f"note: the run was trained on {data}; its validation data is {config.val}")
            return given.train
        held_out = read_videos(data, config)
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
    if out is None:
        return run / "eval.json" if (run / "config.json").is_file() else None
    if out.exists():
        try:
            is_evaluation = "confusion" in json.loads(out.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            is_evaluation = False
        if not is_evaluation or not out.is_file():
            raise ArgumentError(f"{out} is no earlier evaluation; choose another --out")
    return out
