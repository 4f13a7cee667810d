"""Models on the meta device, where tensors have shapes and no data."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Build models on the meta device, where tensors have shapes and no data."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Skips in-place operations on tensors without data.

    They change nothing there, and they took two thirds of the time to build a model: torch runs
    some of them in Python, and a few import its compiler.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            tensor = args[0] if args else kwargs["tensor"]  # as torch.nn.init names it
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
