"""Adapter folders on disk: written whole, and checked before they are used."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from st_adapter.backbones.sources import NAMED_SOURCES
from st_adapter.backbones.weight_files.tensors import split_key
from st_adapter.common.files import atomic_path, no_folder, write_json
from st_adapter.common.task import Task
from st_adapter.config import AdapterConfig, ClipConfig, MethodConfig
from st_adapter.errors import CheckpointError
from st_adapter.model.spec import ModelSpec

FORMAT_VERSION = 1
CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"


def write(folder: Path, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter folder: the record of a classifier, and its trained tensors."""
    record = {"format_version": FORMAT_VERSION, **dataclasses.asdict(spec)}
    if spec.weights not in NAMED_SOURCES:  # name a file, not where it lay
        record["weights"] = Path(spec.weights).name
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(folder / TENSOR_FILE) as temporary:
        save_file(whole, temporary)
    write_json(folder / CONFIG_FILE, record)


def find(path: Path) -> Path:
    """Return the adapter folder that `path` is, or that lies in it as `adapter/`.

    Raises:
        CheckpointError: there is none.
    """
    for folder in (path, path / "adapter"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    what = f"holds no {CONFIG_FILE}" if path.is_dir() else no_folder(path)
    raise CheckpointError(f"{path} {what}; give a run folder of `st-adapter train`, or its adapter")


def read_spec(folder: Path) -> ModelSpec:
    """Read what an adapter folder records, without building anything.

    Raises:
        CheckpointError: it cannot be read, or was written in a later format.
    """
    file = folder / CONFIG_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version = record.pop("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{file} has format {version}; this version reads 1")
        record = _tuples(record)
        record["adapter"] = AdapterConfig(**_tuples(record["adapter"]))
        record["clip"] = ClipConfig(**_tuples(record["clip"]))
        record["method_config"] = MethodConfig(**record.get("method_config", {}))
        task = record.get("task", {})
        heads = tuple((name, count) for name, count in task.get("heads", ()))
        record["task"] = Task(heads=heads, multi_label=task.get("multi_label", False))
        return ModelSpec(**record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{file} is not a readable adapter record: {reason}") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the trained tensors of an adapter folder.

    Raises:
        CheckpointError: they cannot be read.
    """
    file = folder / TENSOR_FILE
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not a readable tensor file: {error}") from error


def recorded_weights(folder: Path, spec: ModelSpec) -> str:
    """Where the weights are that the adapter was trained on; a run knows the full path of a file.

    Raises:
        CheckpointError: nothing tells.
    """
    if spec.weights in NAMED_SOURCES and spec.weights != "given":
        return spec.weights
    run_config = folder.parent / "config.json"
    if run_config.is_file():
        record = json.loads(run_config.read_text(encoding="utf-8"))
        recorded = record.get("config", {}).get("weights", "")
        if Path(recorded).name == spec.weights and split_key(recorded)[0].is_file():
            return str(recorded)
    source = "a model built by hand" if spec.weights == "given" else f"the file {spec.weights}"
    raise CheckpointError(
        f"{folder} was trained on {spec.backbone} from {source}, which is not at hand; "
        "give it as weights (--weights FILE)"
    )
