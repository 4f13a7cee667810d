"""Clips through a model, forwards and backwards, as many at once as the device is fastest with."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from st_adapter.errors import ArgumentError
from st_adapter.backbones.cpu_kernels import chosen_kernels
from st_adapter.runtime.malloc import keep_freed_memory
from st_adapter.model.classifier import VideoClassifier

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}

_LARGEST = 16 * 2**20
"""Bytes. Larger tensors leave the caches, and from 32 MB on malloc gives each back to the system
and takes it anew, page by page."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute in half the precision where that is asked for.

    Raises:
        ArgumentError: a precision of another name.
    """
    if precision != "float32" and precision not in HALF:
        raise ArgumentError(f"precision is float32, {' or '.join(HALF)} here, not {precision!r}")
    return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF)


def clips_at_once(model: VideoClassifier, frames: int, size: int, precision: str) -> int:
    """Clips in a pass that the device is fastest with, at least 1.

    A processor gains nothing by more than fill its caches, and loses much (`benchmarks/passes.py`);
    other devices are given all there are.

    Args:
        frames: of a clip.
        size: their height and width, pixels.
    """
    if model.device.type != "cpu":
        return sys.maxsize
    if model.is_compiled:
        return 1  # as fast as more of them, and code for one number of clips is enough
    known, key = _KNOWN.setdefault(model, {}), (size, precision)
    if key not in known:
        known[key] = _largest_tensor(model, size, precision)
    return max(1, _LARGEST // (known[key] * frames))


_KNOWN: WeakKeyDictionary[VideoClassifier, dict[tuple[int, str], int]] = WeakKeyDictionary()
"""By size and precision, what a frame's largest tensor was found to be."""


@torch.no_grad()
def _largest_tensor(model: VideoClassifier, size: int, precision: str) -> int:
    """Bytes of the largest tensor that one frame becomes; leaves no random draw."""
    frame = torch.zeros(1, 1, 3, size, size, dtype=torch.uint8)
    kernels, largest = chosen_kernels(frame.device), _Largest(model)
    with torch.random.fork_rng(devices=[]), kernels, autocast(frame.device, precision), largest:
        model(frame)
    return largest.num_bytes


class _Largest(TorchDispatchMode):
    """Notes the most bytes of a tensor that is made inside of others than parameters.

    Autocast's copies of weights, and views of them, are as large for one clip as for many.
    """

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights: list[Tensor] = list(model.parameters())
        self._storages = {_storage(p) for p in self._weights}
        self.num_bytes = 1

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps torch (2.15) from wrapping the method in what imports its compiler when called."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        leaves = tree_leaves((args, kwargs))
        given = {_storage(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
        if given and given <= self._storages:
            self._weights += made  # kept: memory that is given back would be taken for a weight
            self._storages |= {_storage(weight) for weight in made}
        else:
            self.num_bytes = max([self.num_bytes, *(activation.nbytes for activation in made)])
        return result


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@torch.inference_mode()
def infer(
    forward: Callable[[Tensor], Tensor],
    clips: Shaped[Tensor, "b t ..."],
    *,
    device: torch.device,
    precision: str,
    at_once: int,
) -> Float[Tensor, "b classes"]:
    """Logits of all clips, in float32.

    Args:
        forward: gives the logits of clips on `device`.
        precision: of the forward pass.
        at_once: most clips in a pass.
    """
    keep_freed_memory(device)
    parts = []
    for part in clips.split(at_once):
        with chosen_kernels(device), autocast(device, precision):
            logits = forward(part.to(device))
        parts.append(logits.float())
    return torch.cat(parts)


def backward(
    forward: Callable[[Tensor], Tensor],
    clips: Shaped[Tensor, "b t ..."],
    targets: Shaped[Tensor, "b ..."],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *,
    precision: str,
    at_once: int,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Tensor:
    """Add up the gradients of all passes' losses; return their sum.

    Args:
        forward: gives the logits of clips.
        loss_of: gives a loss of logits and targets, which is added up over the passes.
        precision: of the forward pass; losses are computed in float32.
        at_once: most clips in a pass.
        scale: of what gradients are taken of.
    """
    device, total = clips.device, torch.zeros((), device=clips.device)
    keep_freed_memory(device)
    for part, wanted in zip(clips.split(at_once), targets.split(at_once), strict=True):
        with chosen_kernels(device), autocast(device, precision):
            logits = forward(part)
        loss = loss_of(logits.float(), wanted)
        scale(loss).backward()
        total += loss.detach()
    return total
