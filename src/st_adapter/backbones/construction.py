"""Two ways to construct models: with random numbers of their own, or without any data."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "kaiming_uniform_"}
_NEW = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
_DRAWS = _IN_PLACE | _NEW | {"rand_like", "randn_like", "randint_like"}


@contextmanager
def own_random(seed: int) -> Iterator[None]:
    """Build models inside with the numbers that `torch.manual_seed(seed)` would give them.

    torch's global generator is neither read nor changed, so what other threads draw meanwhile
    changes nothing here, nor the reverse. A generator that is given to a call is kept.
    """
    with _OwnRandom(seed):
        yield


class _OwnRandom(TorchFunctionMode):
    """Adds a generator to every call that draws. torch keeps such modes by thread."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS and kwargs.get("generator") is None:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            device = tensors[0].device if tensors else kwargs.get("device")
            device = torch.device(device or torch.get_default_device())
            if device.type != "meta":  # nothing is drawn there
                kwargs = kwargs | {"generator": self._generator(device)}
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


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
