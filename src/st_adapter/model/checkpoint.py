"""Classifiers from run folders and adapter folders on disk, checked before they are used."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from st_adapter.backbones.build import NAMED_SOURCES, build_backbone, check_fit, digest
from st_adapter.common.files import no_folder
from st_adapter.config import AdapterConfig, ClipConfig, MethodConfig
from st_adapter.data.labels import Task
from st_adapter.errors import CheckpointError
from st_adapter.model.classifier import (
    CONFIG_FILE,
    FORMAT_VERSION,
    TENSOR_FILE,
    VideoClassifier,
)
from st_adapter.model.sharding import like
from st_adapter.model.spec import ModelSpec


def load(path: str | Path, weights: str | None = None) -> VideoClassifier:
    """Rebuild a classifier from a run folder or an adapter folder, in evaluation mode.

    Args:
        path: a folder that holds `adapter_config.json`, or a run folder with `adapter/` in it.
        weights: where the backbone's weights are; unset takes what the folder records.

    Raises:
        CheckpointError: the folder is not one of those, or does not fit the backbone.
        ArgumentError: the backbone's weights cannot be found.
    """
    folder = adapter_folder(Path(path))
    spec = read_spec(folder)
    source = weights or _recorded_weights(folder, spec)
    backbone = build_backbone(spec.backbone, source, options=spec.backbone_options)
    if spec.digest != (found := digest(backbone)):
        raise CheckpointError(
            f"{folder} was trained on {spec.backbone} with other weights than {source} holds "
            f"(digest {spec.digest[:19]}, found {found[:19]}); give the right ones as weights"
        )
    model = VideoClassifier(backbone, dataclasses.replace(spec, weights=source))
    copy_trained(model, load_tensors(folder), str(folder))
    return model.eval()


def adapter_folder(path: Path) -> Path:
    """Find the adapter folder in `path` or in its `adapter/`."""
    for folder in (path, path / "adapter"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    what = f"holds no {CONFIG_FILE}" if path.is_dir() else no_folder(path)
    raise CheckpointError(f"{path} {what}; give a run folder of `st-adapter train`, or its adapter")


def read_spec(folder: Path) -> ModelSpec:
    """Read what an adapter folder records, without building anything."""
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
        raise CheckpointError(f"{file} is not a readable adapter record: {reason}") from None


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _recorded_weights(folder: Path, spec: ModelSpec) -> str:
    """The weights the adapter was trained on; a run folder knows the full path of a file."""
    if spec.weights in NAMED_SOURCES and spec.weights != "given":
        return spec.weights
    run_config = folder.parent / "config.json"
    if run_config.is_file():
        recorded = (
            json.loads(run_config.read_text(encoding="utf-8")).get("config", {}).get("weights", "")
        )
        if Path(recorded).name == spec.weights and Path(recorded).is_file():
            return str(recorded)
    source = "a model built by hand" if spec.weights == "given" else f"the file {spec.weights}"
    raise CheckpointError(
        f"{folder} was trained on {spec.backbone} from {source}, which is not at hand; "
        "give it as weights (--weights FILE)"
    )


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the trained tensors of an adapter folder."""
    file = folder / TENSOR_FILE
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not a readable tensor file: {error}") from None


def copy_trained(model: VideoClassifier, tensors: dict[str, Tensor], source: str) -> None:
    """Copy `tensors` into the trained parameters: all of them, or none and an error."""
    wanted = model.trained_tensors()
    check_fit(source, tensors, wanted)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(like(parameter, tensors[name]))
