"""Named tensors from files, with nothing in them executed."""

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

_PREFIXES = ("module.", "backbone.", "model.", "encoder.", "module.backbone.", "module.encoder.")
"""What wrappers put before every name: DataParallel, and those of self-supervised training."""


def read_tensors(
    file: Path, key: str = "", fits: Callable[[dict[str, Tensor]], bool] | None = None
) -> dict[str, Tensor]:
    """Read a flat table of named tensors: safetensors, .pth, .pt, .bin or a TorchScript archive.

    A file may hold several tables, such as a model and its moving average.

    Args:
        key: of the table to take.
        fits: says of a table whether it is the one that is looked for.

    Raises:
        ArgumentError: there is no such file, or several tables in it fit.
        CheckpointError: it is damaged, or holds anything but tensors.
    """
    record = read_record(file)
    if key:
        if not isinstance(record, Mapping) or key not in record:
            have = ", ".join(map(str, record)) if isinstance(record, Mapping) else "none"
            raise ArgumentError(f"{file} has no table {key!r}; it has {have}")
        record = record[key]
    if fits is None:
        return find_table(record, file)
    without = {
        (name, prefix): {n[len(prefix) :]: t for n, t in table.items() if n.startswith(prefix)}
        for name, table in _tables(record, file)
        for prefix in ("", *_PREFIXES)
    }
    fitting = [place for place, table in without.items() if fits(table)]
    if len({name for name, _ in fitting}) > 1:
        names = ", ".join(name for name, _ in fitting)
        raise ArgumentError(f"{file} has several tables that fit: {names}; give FILE#NAME")
    if not fitting:
        return find_table(record, file)
    name, prefix = fitting[0]
    if prefix or name not in ("", "model", "state_dict"):
        taken = f"its table {name} is taken" if name else "its tensors are taken"
        note(f"{file}: {taken}" + (f", without {prefix!r} before each name" if prefix else ""))
    return without[name, prefix]


def split_key(source: str) -> tuple[Path, str]:
    """A weights file, and the key of a table in it that FILE#KEY names.

    >>> split_key("dino.pth#teacher")
    (PosixPath('dino.pth'), 'teacher')
    """
    name, _, key = source.rpartition("#")
    return (Path(name), key) if name and not Path(source).is_file() else (Path(source), "")


def _tables(record: Any, file: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The flat tables in a record, by their keys; the record itself has none."""
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
