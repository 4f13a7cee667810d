"""Construction of models with a random generator of their own, or without values."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# The functions of torch that draw random numbers while timm constructs a model.
_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "kaiming_uniform_"}
_NEW = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
_DRAWS = _IN_PLACE | _NEW | {"rand_like", "randn_like", "randint_like"}


class OwnRandom(TorchFunctionMode):
    """Give models that are built inside a `with` block the values of a fixed seed.

    The values are those that `torch.manual_seed(seed)` would give. torch's global generator is
    neither read nor changed, so that the block and other threads do not affect each other. Calls
    that pass a generator of their own keep it.

    Args:
        seed: seed of the generator.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Add a generator to every call that draws random numbers."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS and kwargs.get("generator") is None:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            device = tensors[0].device if tensors else kwargs.get("device")
            device = torch.device(device or torch.get_default_device())
            if device.type != "meta":  # tensors without values
                if device not in self._generators:
                    generator = torch.Generator(device).manual_seed(self._seed)
                    self._generators[device] = generator
                kwargs = kwargs | {"generator": self._generators[device]}
        return func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Build models on the meta device, whose tensors have shapes but no values."""
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Skip in-place operations on meta tensors.

    They have no effect there, but torch runs `normal_` in Python and imports its compiler for it.
    This takes seconds, and `st-adapter predict` would wait for them.
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
