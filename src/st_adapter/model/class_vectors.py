"""Files with one vector per class, from which the head of a classifier can start."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from st_adapter.common.files import atomic_path, check_writable, no_folder
from st_adapter.errors import ArgumentError, did_you_mean

_SHOWN = 5
"""Most class names that an error message lists."""


def read_vectors(file: Path) -> dict[str, Tensor]:
    """Read a file with one vector per class.

    Args:
        file: a .safetensors or .npz file with an array [c] under the name of each class, or a .csv
            table whose first column is the name and whose other columns are the numbers. A first
            row that is not numbers is a header.

    Returns:
        The vectors [c] in float32, by the names of the classes.

    Raises:
        ArgumentError: the file does not exist, cannot be read, or is of another kind.
    """
    readers: dict[str, Callable[[Path], Mapping[str, Any]]]
    readers = {".safetensors": load_file, ".npz": _read_npz, ".csv": _read_csv}
    if file.suffix.lower() not in readers:
        raise ArgumentError(
            f"{file} is not a file of class vectors; give a .safetensors, .npz or .csv file"
        )
    if not file.is_file():
        raise ArgumentError(f"{file} {no_folder(file)}")
    try:
        read = readers[file.suffix.lower()](file)
        vectors = {name: torch.as_tensor(vector).float() for name, vector in read.items()}
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ArgumentError(f"{file} is not a readable file of class vectors: {error}") from error
    if not vectors:
        raise ArgumentError(f"{file} does not contain any class vectors")
    return vectors


def write_vectors(file: Path, vectors: Mapping[str, Tensor]) -> None:
    """Write vectors [c] by the names of their classes to a .safetensors file.

    Raises:
        ArgumentError: the name of the file has another ending.
    """
    check_vector_file(file)
    with atomic_path(file) as temporary:
        save_file({name: vector.contiguous() for name, vector in vectors.items()}, temporary)


def check_vector_file(file: Path) -> None:
    """Check that vectors can be written to a file, before they are computed.

    Raises:
        ArgumentError: the name of the file has another ending than .safetensors, or its folder
            cannot be written to.
    """
    if file.suffix != ".safetensors":
        raise ArgumentError(f"class vectors are written to a .safetensors file, not {file}")
    check_writable(file.absolute().parent)


def _read_npz(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_csv(file: Path) -> dict[str, list[float]]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = [row for row in csv.reader(text) if row]
    if rows and not _is_number(rows[0][-1]):
        del rows[0]
    vectors: dict[str, list[float]] = {}
    for name, *numbers in rows:
        if name in vectors:
            raise ValueError(f"two rows are named {name!r}")
        vectors[name] = [float(number) for number in numbers]
    return vectors


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def match_vectors(
    vectors: Mapping[str, Any],
    labels: Sequence[str],
    source: str,
    width: int | None = None,
    joint_width: int | None = None,
) -> Float[Tensor, "classes c"]:
    """Stack vectors in the order of the classes.

    Args:
        vectors: a vector [c] for each class, by its name.
        labels: names of the classes.
        source: where the vectors are from, for error messages.
        width: width that the vectors must have; None to allow any.
        joint_width: width of the space that the image model shares with a text model, if it has
            one, to explain vectors of that width.

    Raises:
        ArgumentError: a class is missing or unknown, or a vector has the wrong width, is zero, or
            has values that are NaN or infinite.
    """
    _check_names(vectors, labels, source)
    rows = {label: torch.as_tensor(vectors[label]).float() for label in labels}
    first = next(iter(rows.values()))
    for label, row in rows.items():
        if row.ndim != 1 or (width is None and row.shape != first.shape):
            raise ArgumentError(
                f"{source} must have one vector per class, all of the same width; "
                f"{label!r} has shape {list(row.shape)}"
            )
        if width is not None and len(row) != width:
            hint = ""
            if len(row) == joint_width:
                hint = (
                    "; they are in the space that CLIP shares with text, and the classifier reads "
                    "the features before it: map them with `st-adapter labels embed`"
                )
            raise ArgumentError(
                f"{source} has vectors of width {len(row)}, but the features of this model have "
                f"width {width}{hint}"
            )
        if not row.isfinite().all() or not row.any():
            what = "is zero" if row.isfinite().all() else "has values that are NaN or infinite"
            raise ArgumentError(f"{source}: the vector of {label!r} {what}")
    return torch.stack(list(rows.values()))


def _check_names(vectors: Mapping[str, Any], labels: Sequence[str], source: str) -> None:
    missing = [label for label in labels if label not in vectors]
    extra = [name for name in vectors if name not in labels]
    if not missing and not extra:
        return
    wrong = []
    if missing:
        near = did_you_mean(missing[0], extra).removeprefix("; ")
        wrong.append(f"without a vector: {_examples(missing)}" + (f" ({near})" if near else ""))
    if extra:
        near = "" if missing else did_you_mean(extra[0], list(labels)).removeprefix("; ")
        wrong.append(f"not a class: {_examples(extra)}" + (f" ({near})" if near else ""))
    raise ArgumentError(f"{source} must have a vector for each class; {'; '.join(wrong)}")


def _examples(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
