"""Adapter folders: the record of a classifier and its trained tensors, written and read."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from st_adapter.backbones.sources import NAMED_SOURCES
from st_adapter.backbones.weight_files.tensors import split_key
from st_adapter.common.files import atomic_path, no_folder, write_json
from st_adapter.errors import CheckpointError
from st_adapter.model.record import from_record, to_record
from st_adapter.model.spec import ModelSpec
from st_adapter.wording import setting

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"

BUILD_AGAIN = "build that model again as before training, and pass it to load(path, backbone=model)"
"""Advice for image models that only the user's program can build."""


def write(folder: Path, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter folder with the record of a classifier and its trained tensors.

    Args:
        folder: folder to write to; it is created if it does not exist.
        spec: record of the classifier.
        tensors: trained tensors by name.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(folder / TENSOR_FILE) as temporary:
        save_file(whole, temporary)
    write_json(folder / CONFIG_FILE, to_record(spec))


def find(path: Path) -> Path:
    """Return the adapter folder: `path` itself, or `adapter/` inside it.

    Raises:
        CheckpointError: neither is an adapter folder.
    """
    for folder in (path, path / "adapter"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if (path / "fold_1").is_dir():
        raise CheckpointError(
            f"{path} is a cross-validation: each of its folds has its own classifier, such as "
            f"{path / 'fold_1'}; to get one classifier of all videos, train without "
            f"{setting('folds')}"
        )
    what = f"does not contain {CONFIG_FILE}" if path.is_dir() else no_folder(path)
    raise CheckpointError(
        f"{path} {what}; give a run folder of `st-adapter train`, or the adapter folder in it"
    )


def read_spec(folder: Path) -> ModelSpec:
    """Read the record in an adapter folder, without building the classifier.

    Raises:
        CheckpointError: the record cannot be read, or is of another format version.
    """
    file = folder / CONFIG_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not a readable adapter record: {error}") from error
    return from_record(record, file)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the trained tensors in an adapter folder, by name.

    Raises:
        CheckpointError: the file of tensors is missing or damaged.
    """
    file = folder / TENSOR_FILE
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not a readable tensor file: {error}") from error


def recorded_weights(folder: Path, spec: ModelSpec) -> str:
    """Return the source of the backbone's weights that an adapter was trained on.

    An adapter folder records only the name of a weights file. Its full path is in the `config.json`
    of the run, if the adapter folder is still in its run folder and the file still exists.

    Args:
        folder: adapter folder.
        spec: record in that folder.

    Returns:
        The source. For a timm model that the caller built ("given"), it is "hub": most such models
        have timm's pretrained weights, and the digest tells if this one has not.

    Raises:
        CheckpointError: the file cannot be found, or the caller built a model that timm does not
            know by a name.
    """
    if spec.weights == "given" and not spec.backbone:
        raise CheckpointError(
            f"{folder} was trained on an image model that a program built and that does not record "
            f"its name; {BUILD_AGAIN}"
        )
    if spec.weights in NAMED_SOURCES:
        return "hub" if spec.weights == "given" else spec.weights
    run_config = folder.parent / "config.json"
    if run_config.is_file():
        record = json.loads(run_config.read_text(encoding="utf-8"))
        recorded = record.get("config", {}).get("weights", "")
        if Path(recorded).name == spec.weights and split_key(recorded)[0].is_file():
            return str(recorded)
    raise CheckpointError(
        f"{folder} was trained on {spec.backbone} from the file {spec.weights}, which was not "
        f"found; give its weights ({setting('weights', 'FILE')})"
    )
