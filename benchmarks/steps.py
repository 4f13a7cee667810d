"""Clips of noise, and a training step and scoring of them as the package does both."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from st_adapter.runtime.micro_batches import clips_at_once


def noise(clips: int, frames: int, size: int, device: torch.device) -> Tensor:
    """A batch of clips, [b, t, 3, h, w] of uint8: what a model costs does not depend on them."""
    shape = (clips, frames, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


def backward(
    model: Callable[[Tensor], Tensor],
    clips: Tensor,
    *,
    at_once: int | None = None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> None:
    """Add up the gradients of a batch.

    Args:
        at_once: clips in a micro-batch; by default as many as in training.
        scale: multiplies the loss, for float16.
    """
    for part in clips.split(at_once or _at_once(clips)):
        target = torch.zeros(len(part), dtype=torch.long, device=part.device)
        loss = F.cross_entropy(model(part), target) * (len(part) / len(clips))
        scale(loss).backward()


def score(model: Callable[[Tensor], Tensor], clips: Tensor) -> None:
    """Run a batch through a model, micro-batch by micro-batch, and keep nothing."""
    with torch.no_grad():  # in inference mode, products would not be seen as such by `products`
        for part in clips.split(_at_once(clips)):
            model(part)


def _at_once(clips: Tensor) -> int:
    return clips_at_once(clips.device, clips.shape[1], clips.shape[-1])


def count_memory_from_here(device: torch.device) -> float:
    """Reset the peak of this process's memory; return what it holds now, in GB (2^30 bytes)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**30
    ctypes.CDLL(None).malloc_trim(0)  # what making the weights took is not held any more
    held = psutil.Process().memory_info().rss / 2**30
    Path("/proc/self/clear_refs").write_text("5")
    return held
