"""Read named tensors from TorchScript archives, such as OpenAI's CLIP files.

torch.jit.load would run code from the archive, so that a file from a stranger could do anything.
This reader unpickles only what tensors need and checks every size before it allocates memory.
"""

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
"""Characters in the longest allowed name, which limits how deep modules can be nested."""


def is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive: as in torch, a zip file with a constants.pkl."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """Read parameters and buffers by their dotted names, as in `state_dict()`.

    Modules of the archive become plain records of their attributes. Constants, which only code
    uses, are not read.

    Args:
        file: archive to read.

    Raises:
        CheckpointError: the archive refers to anything other than tensors and modules, or states
            sizes that are not those of its data.
        Exception: the archive is damaged; a damaged pickle can raise nearly any exception.
    """
    with zipfile.ZipFile(file) as archive:
        return _named_tensors(_Unpickler(archive).load())


class _Module:
    """Hold the attributes of a module of an archive, without its code."""

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """View a storage as a tensor.

    A view that reaches beyond its storage, or has more values than it, is rejected: it would read
    other memory, or claim to be of enormous size.
    """
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Tensor) or any(type(n) is not int or n < 0 for n in numbers):
        raise CheckpointError("it contains a tensor that is not a view of a storage")
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
"""The only functions and types that an archive may refer to, with harmless replacements."""


class _Unpickler(pickle.Unpickler):
    """Rebuild the tree of modules in `data.pkl` with the tensors in `data/`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        pickles = [name for name in archive.namelist() if Path(name).name == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"expected one data.pkl in it, found {len(pickles)}")
        self._root = pickles[0].removesuffix("data.pkl")
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}
        content = self._read("data.pkl")
        _check_memo(content)
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        """Replace the classes of modules, allow what tensors need, and reject everything else."""
        full_name = f"{module}.{name}"
        if full_name.startswith("__torch__."):
            return _Module
        if full_name not in _GLOBALS:
            raise CheckpointError(f"it refers to {full_name}, which tensors do not need")
        return _GLOBALS[full_name]

    def persistent_load(self, pid: Any) -> Tensor:
        """Read a storage as a flat tensor; `pid` is (kind, dtype, key, device, length)."""
        _, dtype, key, _, length = pid
        if not isinstance(dtype, torch.dtype) or type(length) is not int:
            raise CheckpointError("it contains a storage of unknown type")
        if (key, dtype) not in self._storages:  # several tensors may share a storage
            content = bytearray(self._read(f"data/{key}"))
            values = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0).to(dtype)
            self._storages[key, dtype] = values
        values = self._storages[key, dtype]
        if values.numel() != length:
            raise CheckpointError(
                f"storage {key} has {values.nbytes} bytes, but {length} values of {dtype} need "
                f"{length * dtype.itemsize}"
            )
        return values

    def _read(self, name: str) -> bytes:
        """Read an entry, which must be uncompressed, so that it cannot be larger than the file."""
        entry = self._archive.getinfo(self._root + name)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{entry.filename} in it is compressed, which torch.jit never does"
            )
        return self._archive.read(entry)


def _check_memo(content: bytes) -> None:
    """Reject a pickle that numbers an object higher than it has bytes.

    Python would allocate memory for that many objects.
    """
    for opcode, number, _ in pickletools.genops(content):
        if "PUT" in opcode.name and int(number or 0) > len(content):
            raise CheckpointError(f"it has {len(content)} bytes but numbers an object {number}")


def _named_tensors(root: Any) -> dict[str, Tensor]:
    """Collect the tensors of all modules, starting at the root; visit each module once."""
    found: dict[str, Tensor] = {}
    visited: set[int] = set()
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        attributes = getattr(module, "attributes", None)
        if not isinstance(attributes, dict) or id(module) in visited:
            continue
        if len(prefix) > _LONGEST_NAME:
            raise CheckpointError("its modules are nested too deeply")
        visited.add(id(module))
        for name, value in attributes.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
    if not found:
        raise CheckpointError("it does not contain named tensors")
    return found
