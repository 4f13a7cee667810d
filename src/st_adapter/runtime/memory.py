"""Memory: estimate what a training step needs, and explain what to do if it does not fit."""

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
from st_adapter.wording import setting, switch

_ROOM = 1.3
"""Factor between the memory that the estimate counts and the memory to keep available."""


def check_memory(
    model: VideoClassifier, config: TrainConfig, needed: int, advice: str | None = None
) -> None:
    """Check that a training step fits in memory, before a run writes anything.

    Args:
        model: The classifier, on its device.
        config: Settings of the run.
        needed: Bytes that a step needs, as estimated by `step_bytes`.
        advice: How to save memory. By default, what this run could still turn on.

    Raises:
        ArgumentError: If the step needs more memory than is available.
    """
    available = share_of_memory(model.device)
    if needed > available:
        raise ArgumentError(
            f"a training step with batch size {config.batch_size}, frames {config.frames} and "
            f"size {config.size} needs about {needed / 2**30:.1f} GB, but {model.device} has "
            f"{available / 2**30:.1f} GB free; {advice or what_saves_memory(model, config)}"
        )


def fit_batch(
    config: TrainConfig, needed: Callable[[int], int], available: int, copies: int = 1
) -> TrainConfig:
    """Split a training step into the fewest batches that fit in memory with some room to spare.

    The step keeps its number of clips: `batch_size` shrinks and `accumulate` grows. If nothing
    fits, the smallest possible batch is used.

    Args:
        config: Settings of the run.
        needed: Returns the bytes that a batch of this many clips needs.
        available: Bytes available.
        copies: Clips that are trained for each clip of the batch: 2 with its reversal, otherwise 1.

    Returns:
        The settings with `batch_size` and `accumulate` changed.
    """
    step, unit = config.batch_size * config.accumulate, config.repeats
    sizes = [n for n in range(step, 0, -1) if step % n == 0 and n % unit == 0]
    fitting = [n for n in sizes if _ROOM * needed(n * copies) < available]
    size = fitting[0] if fitting else sizes[-1]
    return replace(config, batch_size=size, accumulate=step // size)


def step_bytes(model: VideoClassifier, config: TrainConfig) -> Callable[[int], int]:
    """Estimate the memory of a training step.

    Counts what the model keeps for the backward pass (measured on two frames, times the frames of a
    micro-batch), gradients and optimizer state, and, on the CPU, the batches that dataloader
    workers load ahead.

    Args:
        model: The classifier, on its device.
        config: Settings of the run.

    Returns:
        A function from the number of clips in a batch to bytes.
    """
    device, size = model.device, config.size
    pixels = 3 * size**2 * config.frames
    by_clip = _kept_bytes(model, size) * config.frames + 4 * pixels  # uint8 pixels become float32
    # Gradient and AdamW's two moments, in float32.
    trained = 12 * model.num_parameters(only_trainable=True)
    ahead = 2 * config.workers if device.type == "cpu" else 0  # 2 is DataLoader's prefetch_factor
    most = clips_at_once(device, config.frames, size)
    return lambda n: trained + by_clip * min(n, most) + pixels * n * (1 + ahead)


def share_of_memory(device: torch.device) -> int:
    """Return the bytes available to this process.

    This is the free memory of its GPU. On the CPU, processes that a launcher has started on this
    machine share the available memory equally.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.type == "cpu" else 1
    return int(psutil.virtual_memory().available) // sharers


def _kept_bytes(model: VideoClassifier, size: int) -> int:
    """Measure the bytes per frame, without parameters, that are kept for the backward pass."""
    device, frames = model.device, 2
    clip = torch.zeros(1, frames, 3, size, size, dtype=torch.uint8, device=device)
    kept: dict[int, int] = {}  # by address: several saved tensors can share one storage

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
def clear_out_of_memory(device: torch.device, advice: str | None = None) -> Iterator[None]:
    """Raise a MemoryShortError with `advice` if an allocation fails inside this block.

    Args:
        device: The device to name in the message.
        advice: What the user can do. By default, lower one of the settings that need memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise MemoryShortError(
            f"out of memory on {device}; {advice or lower_settings()}"
        ) from error


def lower_settings() -> str:
    """Return advice to lower the settings that need memory."""
    return f"lower {setting('batch-size')}, {setting('frames')} or {setting('size')}"


def what_saves_memory(model: VideoClassifier, config: TrainConfig) -> str:
    """Return advice on how a run could save memory, without what it does already."""
    ways = []
    if model.family.can_checkpoint and not config.checkpoint_activations:
        ways.append(f"use {switch('checkpoint-activations')}")
    if model.precision == "float32":
        ways.append(f"use {setting('precision', 'bfloat16')}")
    half = config.batch_size // 2
    if half and half * 2 == config.batch_size and half % config.repeats == 0:
        batches = setting("accumulate", 2 * config.accumulate)
        ways.append(f"use {setting('batch-size', half)} with {batches} (the same step)")
    return "; or ".join([*ways, f"lower {setting('frames')} or {setting('size')}"])


def peak_memory_gb(device: torch.device) -> float:
    """Return the highest memory use of this process so far in GB (2^30 bytes).

    On a GPU this is what torch has allocated there, otherwise the memory of the whole process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Not getrusage on Linux, which can report the peak of the process that forked this one.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource  # does not exist on Windows

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return kilobytes / (2**30 if sys.platform == "darwin" else 2**20)
