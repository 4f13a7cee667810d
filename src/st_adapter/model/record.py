"""The record of a classifier as JSON, in adapter folders and in exported files."""

import dataclasses
from pathlib import Path
from typing import Any

from st_adapter.common.task import Task
from st_adapter.config import AdapterConfig, ClipConfig, ClipTiming, MethodConfig
from st_adapter.errors import CheckpointError
from st_adapter.model.spec import ModelSpec

FORMAT_VERSION = 1


def to_record(spec: ModelSpec) -> dict[str, Any]:
    """Return the record of a classifier as plain values for JSON."""
    # The path of a weights file means nothing on another machine. Names such as "hub" stay.
    weights = Path(spec.weights).name
    return {"format_version": FORMAT_VERSION, **dataclasses.asdict(spec), "weights": weights}


def from_record(record: dict[str, Any], file: Path) -> ModelSpec:
    """Rebuild the record of a classifier from what `to_record` returned.

    Args:
        record: values read from JSON.
        file: file that they were read from, for messages.

    Raises:
        CheckpointError: the record is damaged, or is of another format version.
    """
    try:
        values = _tuples(record)
        version = values.pop("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{file} has format {version}; this version reads format 1")
        values["adapter"] = AdapterConfig(**_tuples(values["adapter"]))
        values["clip"] = ClipConfig(**_tuples(values["clip"]))
        values["method_config"] = MethodConfig(**values.get("method_config", {}))
        if values.get("timing") is not None:
            values["timing"] = ClipTiming(**values["timing"])
        task = values.get("task", {})
        heads = tuple((name, count) for name, count in task.get("heads", ()))
        values["task"] = Task(heads=heads, multi_label=task.get("multi_label", False))
        return ModelSpec(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{file} is not a readable adapter record: {reason}") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
