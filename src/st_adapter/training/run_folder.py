"""The record of a run in `config.json`: write it, check it, and resume from it."""

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
from st_adapter.wording import setting, switch

_KEPT = ("keep_features", "features")
_MACHINE_SETTINGS = ("workers", "device", "checkpoint_activations", "compile", "tracker", *_KEPT)
"""Settings that a resumed run may change, because they do not change what it learns."""

_RUN_FILES = ("config.json", "adapter", "adapter_last", "metrics.jsonl", "eval.json", "state")
"""Files and folders by which a folder is recognised as holding a run."""


def write_config(
    folder: Path,
    config: TrainConfig,
    *,
    recipe: str,
    data: str,
    **more: Any,
) -> None:
    """Write `config.json`, the record of a run. Paths in it are absolute.

    Args:
        folder: The run folder.
        config: The settings of the run.
        recipe: Name of the recipe.
        data: DATA that it was trained on; empty for an imported run.
        more: Further entries: `data_digest`, or for an imported run `next_epoch`, the number of
            epochs it was trained for.
    """
    record = {"recipe": recipe, "data": data, **more, "command": command(), "versions": versions()}
    values = config.to_json() | absolute_paths(config)
    write_json(folder / "config.json", record | {"config": values})


def recorded_next_epoch(folder: Path) -> int:
    """Return the number of epochs that the run in `folder` was trained for; 0 if unknown."""
    try:
        recorded = json.loads((folder / "config.json").read_text(encoding="utf-8"))["next_epoch"]
    except (OSError, ValueError, TypeError, KeyError):  # not an imported run
        recorded = None
    lines = read_json_lines(folder / "metrics.jsonl")
    done = max(
        (line["epoch"] for line in lines if "train_seconds" in line or "top1" in line),
        default=0,
    )
    return recorded if type(recorded) is int else done


def check_folder(folder: Path, data: Path, resume: bool) -> None:
    """Check that a run can start or resume in a folder.

    Raises:
        ArgumentError: A new run would overwrite another run, a comparison or its own data; the
            folder does not contain the run to resume; or that run was started on other data.
    """
    has_config = (folder / "config.json").exists()
    if not resume and any((folder / name).exists() for name in _RUN_FILES):
        hint = f"continue it with {switch('resume')}, or " if has_config else ""
        raise ArgumentError(
            f"{folder} already contains a run; {hint}choose another {setting('out')}"
        )
    if (folder / "comparison.json").exists():
        raise ArgumentError(f"{folder} contains a comparison; choose another {setting('out')}")
    if absolute(folder) == absolute(data):
        raise ArgumentError(f"{folder} is the folder of the data; choose another {setting('out')}")
    check_writable(folder)
    if not resume:
        return
    before, _, _ = recorded_run(folder)
    if not before.is_absolute() and not is_remote(before):
        raise ArgumentError(f"{folder} is an imported run; it has no saved state to resume from")
    if absolute(before) != absolute(data):
        raise ArgumentError(
            f"{folder} was started on {before}, not {absolute(data)}; resume with the same data, "
            f"or start a new run with another {setting('out')}"
        )


def resumed_config(folder: Path, wanted: TrainConfig | None) -> TrainConfig:
    """Return the settings to resume a run with.

    These are the recorded ones, except for settings of the machine, such as `workers`, and a
    higher number of epochs, which are taken from `wanted`.

    Raises:
        ArgumentError: `wanted` differs in any other setting.
    """
    _, _, recorded = recorded_run(folder)
    if wanted is None:
        return recorded
    values = wanted.to_json() | absolute_paths(wanted)
    for name, before in recorded.to_json().items():
        same = values[name] == before or (name in ("precision", "keep") and values[name] == "auto")
        same |= name == "epochs" and values[name] > before
        if name not in (*_MACHINE_SETTINGS, "processes") and not same:
            raise ArgumentError(
                f"{folder} was started with {setting(name, before)}, not {values[name]}; "
                "a resumed run keeps its configuration"
            )
    return replace(recorded, **{n: getattr(wanted, n) for n in ("epochs", *_MACHINE_SETTINGS)})


def absolute_paths(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that are paths, by name, as absolute paths."""
    names = ["val", "videos", "features"]
    if config.weights not in NAMED_SOURCES:
        names.append("weights")
    if config.head_init not in ("random", "prototype"):
        names.append("head_init")
    names += [n for n in ("mirror", "reversal") if str(getattr(config, n)).lower().endswith(".csv")]
    paths = {name: absolute(path) for name in names if (path := getattr(config, name))}
    folder = Path(config.backbone.removeprefix("hf:"))
    if config.backbone.startswith("hf:") and folder.is_dir():
        paths["backbone"] = f"hf:{absolute(folder)}"
    return paths
