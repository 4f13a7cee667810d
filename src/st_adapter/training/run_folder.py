"""What a run folder says of its run, and where its evaluations go."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from st_adapter.backbones.sources import NAMED_SOURCES
from st_adapter.common.files import check_writable, read_json_lines, write_json
from st_adapter.common.paths import absolute, is_remote
from st_adapter.common.provenance import command, versions
from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.run_record import recorded_run

_CACHE = ("prefix_cache", "prefix_cache_folder")
_OF_THE_MACHINE = ("workers", "device", "checkpoint_activations", "compile", "tracker", *_CACHE)
_NAMES = ("config.json", "adapter", "adapter_last", "metrics.jsonl", "eval.json", "state")


def write_config(
    folder: Path,
    config: TrainConfig,
    *,
    recipe: str,
    data: str,
    **more: Any,
) -> None:
    """Write the record of a run, its paths as they read from any folder.

    Args:
        data: what it was trained on; empty where that was elsewhere.
        more: `data_digest`, or `next_epoch`, the epochs done, where it was trained elsewhere.
    """
    record = {"recipe": recipe, "data": data, **more, "command": command(), "versions": versions()}
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


def resumed_config(folder: Path, wanted: TrainConfig | None) -> TrainConfig:
    """The configuration to go on with: the recorded one, run by this machine as wanted.

    More epochs may be wanted than there were to be.

    Raises:
        ArgumentError: `wanted` differs in anything else.
    """
    _, _, recorded = recorded_run(folder)
    if wanted is None:
        return recorded
    values = wanted.to_json() | absolute_paths(wanted)
    for name, before in recorded.to_json().items():
        same = values[name] == before or (name == "precision" and values[name] == "auto")
        same |= name == "epochs" and values[name] > before
        if name not in (*_OF_THE_MACHINE, "processes") and not same:
            flag = f"--{name.replace('_', '-')}"
            raise ArgumentError(
                f"{folder} was started with {flag} {before}, not {values[name]}; "
                "a resumed run keeps its configuration"
            )
    return replace(recorded, **{n: getattr(wanted, n) for n in ("epochs", *_OF_THE_MACHINE)})


def absolute_paths(config: TrainConfig) -> dict[str, Any]:
    """The configuration's paths as they read from any folder."""
    names = ["val", "videos", "prefix_cache_folder"]
    if config.weights not in NAMED_SOURCES:
        names.append("weights")
    names += [n for n in ("mirror", "reversal") if str(getattr(config, n)).lower().endswith(".csv")]
    return {name: absolute(path) for name in names if (path := getattr(config, name))}
