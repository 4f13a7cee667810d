"""How much memory a step takes, how much there is, and what is said when it runs out."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, MemoryShortError
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.micro_batches import clips_at_once

_ROOM = 1.3
"""Memory to leave for what is not counted, times what is."""


def check_memory(
    model: VideoClassifier, config: TrainConfig, needed: int, advice: str | None = None
) -> None:
    """Raise ArgumentError where a training step cannot fit, before anything is written.

    Args:
        needed: bytes that the step takes, as `step_bytes` estimates.
        advice: what would save memory; by default what the run has not turned on yet.
    """
    available = share_of_memory(model.device)
    if needed > available:
        raise ArgumentError(
            f"a step of {config.batch_size} clips of {config.frames} frames at {config.size} px "
            f"needs about {needed / 2**30:.1f} GB, {available / 2**30:.1f} GB are free on "
            f"{model.device}; {advice or what_saves_memory(model, config)}"
        )


def fit_batch(
    config: TrainConfig, needed: Callable[[int], int], available: int, copies: int = 1
) -> TrainConfig:
    """Cut a step into the fewest batches that fit in memory with some room to spare.

    Args:
        needed: bytes of a batch of so many clips.
        available: bytes there are.
        copies: clips that a clip of the batch becomes, with its reversal.
    """
    step, unit = config.batch_size * config.accumulate, config.repeats
    sizes = [n for n in range(step, 0, -1) if step % n == 0 and n % unit == 0]
    fitting = [n for n in sizes if _ROOM * needed(n * copies) < available]
    size = fitting[0] if fitting else sizes[-1]
    return replace(config, batch_size=size, accumulate=step // size)


def step_bytes(model: VideoClassifier, config: TrainConfig) -> Callable[[int], int]:
    """Estimate the bytes of a training step, by the clips in its batch.

    Counts what one frame makes the model keep for the backward pass, times the frames of a
    micro-batch, and the batches that are loaded ahead where they lie in the same memory.
    """
    device, size = model.device, config.size
    pixels = 3 * size**2 * config.frames
    by_clip = _kept_bytes(model, size) * config.frames + 4 * pixels  # which become float32
    trained = 12 * model.num_parameters(only_trainable=True)  # gradient and two moments
    ahead = 2 * config.workers if device.type == "cpu" else 0  # torch's prefetch_factor
    most = clips_at_once(device, config.frames, size)
    return lambda n: trained + by_clip * min(n, most) + pixels * n * (1 + ahead)


def share_of_memory(device: torch.device) -> int:
    """Bytes that this process may take: all of a GPU, its part of what processes share."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.type == "cpu" else 1
    return int(psutil.virtual_memory().available) // sharers


def _kept_bytes(model: VideoClassifier, size: int) -> int:
    """Bytes, besides the parameters, that a frame makes the model keep for the backward pass."""
    device, frames = model.device, 2
    clip = torch.zeros(1, frames, 3, size, size, dtype=torch.uint8, device=device)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        _ = model(clip).sum()
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values()) // frames


@contextmanager
def clear_out_of_memory(
    device: torch.device, advice: str = "lower --batch-size, --frames or --size"
) -> Iterator[None]:
    """Turn a failed allocation into a MemoryShortError that says what would help."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise MemoryShortError(f"out of memory on {device}; {advice}") from error


def what_saves_memory(model: VideoClassifier, config: TrainConfig) -> str:
    """What a run that needs too much memory has not turned on yet."""
    ways = []
    if model.family.can_checkpoint and not config.checkpoint_activations:
        ways.append("use --checkpoint-activations")
    if model.precision == "float32":
        ways.append("use --precision bfloat16")
    half = config.batch_size // 2
    if half and half * 2 == config.batch_size and half % config.repeats == 0:
        ways.append(f"use --batch-size {half} --accumulate {2 * config.accumulate}, the same step")
    return "; or ".join([*ways, "lower --frames or --size"])


def peak_memory_gb(device: torch.device) -> float:
    """Most memory this process has held, GB of 2^30 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")  # Linux's getrusage may tell of the process before this one
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource  # there is none on Windows

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return kilobytes / (2**30 if sys.platform == "darwin" else 2**20)
