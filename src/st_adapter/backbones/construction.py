"""Models constructed with random numbers of their own."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "kaiming_uniform_"}
_NEW = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
_DRAWS = _IN_PLACE | _NEW | {"rand_like", "randn_like", "randint_like"}


class OwnRandom(TorchFunctionMode):
    """Build models inside with the numbers that `torch.manual_seed(seed)` would give them.

    torch's global generator is neither read nor changed, so what other threads draw meanwhile
    changes nothing here, nor the reverse: torch keeps such modes by thread. A generator that is
    given to a call is kept.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Add a generator to every call that draws."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS and kwargs.get("generator") is None:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            device = tensors[0].device if tensors else kwargs.get("device")
            device = torch.device(device or torch.get_default_device())
            if device.type != "meta":  # nothing is drawn there
                if device not in self._generators:
                    generator = torch.Generator(device).manual_seed(self._seed)
                    self._generators[device] = generator
                kwargs = kwargs | {"generator": self._generators[device]}
        return func(*args, **kwargs)
