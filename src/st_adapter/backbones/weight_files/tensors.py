"""Read named tensors from files without running any code that a file may contain."""

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from st_adapter.backbones.weight_files.torchscript import is_torchscript, read_torchscript
from st_adapter.common.remarks import note
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.wording import setting

_PREFIXES = ("module.", "backbone.", "model.", "encoder.", "module.backbone.", "module.encoder.")
"""Prefixes that wrappers put before every name: DataParallel, and self-supervised training."""


def read_tensors(
    file: Path, key: str = "", fits: Callable[[dict[str, Tensor]], bool] | None = None
) -> dict[str, Tensor]:
    """Read a table of named tensors: safetensors, .pth, .pt, .bin or a TorchScript archive.

    A file may contain several tables, such as a model and its moving average.

    Args:
        file: file to read.
        key: name of the table to use; empty to find it.
        fits: whether a table fits what the caller needs. Without it, the table must be at the top
            level, or under "state_dict" or "model".

    Raises:
        ArgumentError: the file or the table does not exist, or several tables fit.
        CheckpointError: the file is damaged, or contains anything other than tensors.
    """
    record = read_record(file)
    if key:
        if not isinstance(record, Mapping) or key not in record:
            have = ", ".join(map(str, record)) if isinstance(record, Mapping) else "none"
            raise ArgumentError(f"{file} does not have a table {key!r}; its keys: {have}")
        record = record[key]
    if fits is None:
        return find_table(record, file)
    # Each table with its own names, and with each prefix removed from them.
    candidates = {
        (name, prefix): {n[len(prefix) :]: t for n, t in table.items() if n.startswith(prefix)}
        for name, table in _tables(record, file)
        for prefix in ("", *_PREFIXES)
    }
    fitting = [place for place, table in candidates.items() if fits(table)]
    if len({name for name, _ in fitting}) > 1:
        names = ", ".join(name for name, _ in fitting)
        raise ArgumentError(f"{file} has several tables that fit: {names}; use FILE#NAME")
    if not fitting:
        return find_table(record, file)
    name, prefix = fitting[0]
    if prefix or name not in ("", "model", "state_dict"):
        used = f"using its table {name}" if name else "using its tensors"
        note(f"{file}: {used}" + (f", with {prefix!r} removed from each name" if prefix else ""))
    return candidates[name, prefix]


def split_key(source: str) -> tuple[Path, str]:
    """Split FILE#KEY into the path of a weights file and the key of a table in it.

    The key is empty if there is none. A file whose own name contains "#" is not split.

    >>> split_key("dino.pth#teacher")
    (PosixPath('dino.pth'), 'teacher')
    """
    name, _, key = source.rpartition("#")
    return (Path(name), key) if name and not Path(source).is_file() else (Path(source), "")


def _tables(record: Any, file: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tables in a record by their keys; the key of the record itself is empty."""
    if not isinstance(record, Mapping):
        return
    if record and all(isinstance(value, Tensor) for value in record.values()):
        yield "", find_table(record, file)
        return
    for key, value in record.items():
        if isinstance(value, Mapping):
            with suppress(CheckpointError):
                yield str(key), find_table(value, file)


def read_record(file: Path) -> Any:
    """Read the whole content of a weights file: a table of tensors, or a record that contains it.

    Args:
        file: file to read.

    Raises:
        ArgumentError: the file does not exist.
        CheckpointError: the file is damaged, or contains anything other than tensors.
    """
    if not file.is_file():
        raise ArgumentError(
            f"weights file {file} does not exist; {setting('weights')} takes hub, package, random "
            "or a file"
        )
    form = "weights file"
    try:
        if is_torchscript(file):
            form = "TorchScript archive"
            return read_torchscript(file)
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings(action="ignore"):  # about tensors that `find_table` rejects
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch advises weights_only=False: unsafe
            reason = "it is damaged, or contains more than tensors"
        raise CheckpointError(f"{file}: not a readable {form}: {reason}") from error


def find_table(record: Any, file: Path) -> dict[str, Tensor]:
    """Find the table of named tensors in a record: itself, or under "state_dict" or "model".

    Args:
        record: content of a weights file.
        file: path of that file, for the error message.

    Raises:
        CheckpointError: the record does not contain one, or a tensor in it is sparse or quantised.
    """
    for key in ("state_dict", "model"):
        if isinstance(record, Mapping) and isinstance(record.get(key), Mapping):
            record = record[key]
    if not isinstance(record, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in record.items()
    ):
        raise CheckpointError(f"{file} does not contain a flat table of named tensors")
    for name, tensor in record.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(
                f"{file}: {name} is a sparse or quantised tensor; convert it to a dense one"
            )
    return dict(record)
