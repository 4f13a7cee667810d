"""Named tensors of TorchScript archives, such as OpenAI's CLIP files, without their code."""

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st_adapter.errors import CheckpointError

_LONGEST_NAME = 1000


def is_torchscript(file: Path) -> bool:
    """Whether a file is an archive that torch.jit wrote, by what torch itself goes by."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """Read parameters and buffers by their dotted names, as `state_dict()` would give them.

    torch.jit.load would run the archive's own `__setstate__`. Here its modules become inert
    records of their attributes; constants that only its code uses are not looked at.

    Raises:
        CheckpointError: the archive names anything that tensors do not need, or lies about them.
        Exception: it is damaged; a damaged pickle can raise nearly anything.
    """
    with zipfile.ZipFile(file) as archive:
        return _named_tensors(_Unpickler(archive).load())


class _Module:
    """A module of an archive: its attributes, and none of its code."""

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """View a storage as a tensor that lies within it and repeats none of it."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Tensor) or any(type(n) is not int or n < 0 for n in numbers):
        raise CheckpointError("a tensor in it is not a view of a storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) and (last >= storage.numel() or prod(size) > storage.numel()):
        raise CheckpointError(
            f"a tensor of {list(size)} reaches beyond its storage of {storage.numel()} values"
        )
    return storage.as_strided(tuple(size), tuple(stride), offset)


_GLOBALS: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "collections.OrderedDict": OrderedDict,
    "torch.jit._pickle.restore_type_tag": lambda value, _tag: value,
    **{f"torch.jit._pickle.build_{kind}list": list for kind in ("int", "double", "bool", "tensor")},
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
"""All that an archive may name, and what replaces it: nothing that has an effect."""


class _Unpickler(pickle.Unpickler):
    """Rebuild the tree of modules in `data.pkl`, with its tensors from `data/`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        pickles = [name for name in archive.namelist() if Path(name).name == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"it holds {len(pickles)} data.pkl, not one")
        self._root = pickles[0].removesuffix("data.pkl")
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}
        content = self._read("data.pkl")
        _check_memo(content)
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        """Replace the classes of modules, and allow what tensors need; refuse the rest."""
        full_name = f"{module}.{name}"
        if full_name.startswith("__torch__."):
            return _Module
        if full_name not in _GLOBALS:
            raise CheckpointError(f"it names {full_name}, which tensors do not need; refused")
        return _GLOBALS[full_name]

    def persistent_load(self, pid: Any) -> Tensor:
        """Read a storage as a flat tensor; `pid` is (kind, dtype, key, device, length)."""
        _, dtype, key, _, length = pid
        if not isinstance(dtype, torch.dtype) or type(length) is not int:
            raise CheckpointError("a storage in it is of no known kind")
        if (key, dtype) not in self._storages:  # many tensors may view one
            content = bytearray(self._read(f"data/{key}"))
            values = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0).to(dtype)
            self._storages[key, dtype] = values
        values = self._storages[key, dtype]
        if values.numel() != length:
            raise CheckpointError(
                f"storage {key} has {values.nbytes} bytes, where {length} values of {dtype} take "
                f"{length * dtype.itemsize}"
            )
        return values

    def _read(self, name: str) -> bytes:
        """Read an entry that is stored uncompressed, so that none is larger than the file."""
        entry = self._archive.getinfo(self._root + name)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{entry.filename} in it is compressed; torch.jit does not do so")
        return self._archive.read(entry)


def _check_memo(content: bytes) -> None:
    """Refuse a pickle that numbers more objects than it has bytes: memory would be made for all."""
    for opcode, number, _ in pickletools.genops(content):
        if "PUT" in opcode.name and int(number or 0) > len(content):
            raise CheckpointError(f"it numbers an object {number} in {len(content)} bytes")


def _named_tensors(root: Any) -> dict[str, Tensor]:
    """Walk the modules from the root; a module met again is not walked again."""
    found: dict[str, Tensor] = {}
    walked: set[int] = set()
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        attributes = getattr(module, "attributes", None)
        if not isinstance(attributes, dict) or id(module) in walked:
            continue
        if len(prefix) > _LONGEST_NAME:
            raise CheckpointError("its modules are nested too deep")
        walked.add(id(module))
        for name, value in attributes.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
    if not found:
        raise CheckpointError("it holds no named tensors")
    return found
