"""Named tensors from files, with nothing in them executed."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from st_adapter.backbones.weight_files.torchscript import is_torchscript, read_torchscript
from st_adapter.errors import ArgumentError, CheckpointError


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a flat table of named tensors: safetensors, .pth, .pt, .bin or a TorchScript archive.

    Raises:
        ArgumentError: there is no such file.
        CheckpointError: it is damaged, or holds anything but tensors.
    """
    return find_table(read_record(file), file)


def read_record(file: Path) -> Any:
    """Read all that a weights file holds: the table of tensors, or what it is nested in."""
    if not file.is_file():
        raise ArgumentError(
            f"weights file {file} does not exist; --weights takes hub, package, random or a file"
        )
    kind = "weights file"
    try:
        if is_torchscript(file):
            kind = "TorchScript archive"
            return read_torchscript(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings(action="ignore"):  # of tensors that `find_table` refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch would advise to run what is in it
            reason = "it is damaged, or holds more than tensors"
        raise CheckpointError(f"{file}: not a readable {kind}: {reason}") from error


def find_table(record: Any, file: Path) -> dict[str, Tensor]:
    """Find the table of named tensors in what `file` holds, under "state_dict" or "model" too."""
    for key in ("state_dict", "model"):
        if isinstance(record, Mapping) and isinstance(record.get(key), Mapping):
            record = record[key]
    if not isinstance(record, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in record.items()
    ):
        raise CheckpointError(f"{file}: holds no flat table of named tensors")
    for name, tensor in record.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{file}: {name} is a sparse or quantised tensor; use plain ones")
    return dict(record)
