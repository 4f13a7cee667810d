"""Clips through a model, forwards and backwards, as many at once as the device is fastest with."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from st_adapter.kernels import chosen_kernels
from st_adapter.model import VideoClassifier

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}

_LARGEST = 16 * 2**20
"""Bytes. Larger tensors leave the caches, and from 32 MB on malloc gives each back to the system
and takes it anew, page by page."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Compute in half the precision where that is asked for."""
    return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF)


def clips_at_once(model: VideoClassifier, frames: int, size: int, precision: str) -> int:
    """Clips in a pass that the device is fastest with, at least 1.

    A processor gains nothing by more than fill its caches, and loses much (`benchmarks/passes.py`);
    other devices are given all there are.

    Args:
        frames: of a clip.
        size: their height and width, pixels.
    """
    device = model.device
    if device.type != "cpu":
        return sys.maxsize
    frame = torch.zeros(1, 1, 3, size, size, dtype=torch.uint8)
    largest = _Largest(model)
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        chosen_kernels(device),
        autocast(device, precision),
        largest,
    ):
        model(frame)
    return max(1, _LARGEST // (largest.num_bytes * frames))


class _Largest(TorchDispatchMode):
    """Notes the most bytes of a tensor that is made inside, views of parameters left out."""

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.num_bytes = 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        own = [t.nbytes for t in made if t.untyped_storage().data_ptr() not in self._parameters]
        self.num_bytes = max([self.num_bytes, *own])
        return result


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
    """Add up the gradients of all clips' losses; return their sum.

    Args:
        forward: gives the logits of clips.
        loss_of: gives the sum of the losses of logits and targets.
        precision: of the forward pass; losses are computed in float32.
        at_once: most clips in a pass.
        scale: of what gradients are taken of.
    """
    device, total = clips.device, torch.zeros((), device=clips.device)
    for part, wanted in zip(clips.split(at_once), targets.split(at_once), strict=True):
        with chosen_kernels(device), autocast(device, precision):
            logits = forward(part)
        loss = loss_of(logits.float(), wanted)
        scale(loss).backward()
        total += loss.detach()
    return total
