"""How much memory a step takes, how much there is, and what is said where it runs out."""

import os
import resource
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
from st_adapter.backbones.cpu_kernels import chosen_kernels
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.passes import autocast, clips_at_once
from st_adapter.model.sharding import num_shards

_ROOM = 1.3
"""Memory to leave for what is not counted, times what is."""


def check_memory(
    model: VideoClassifier,
    config: TrainConfig,
    precision: str,
    batch_size: int,
    advice: str | None = None,
) -> None:
    """Raise ArgumentError where a training step cannot fit, before anything is written.

    Args:
        batch_size: clips in a batch, reversals among them.
        advice: what would save memory; unset is what a run has not turned on yet.
    """
    needed = _step_bytes(model, config, precision)(batch_size)
    available = _share_of_memory(model.device)
    if needed > available:
        raise ArgumentError(
            f"a step of {batch_size} clips of {config.frames} frames at {config.size} px needs "
            f"about {needed / 2**30:.1f} GB, {available / 2**30:.1f} GB are free on "
            f"{model.device}; {advice or what_saves_memory(model, config, precision)}"
        )


def fit_batch(
    model: VideoClassifier, config: TrainConfig, precision: str, copies: int
) -> TrainConfig:
    """Cut a step into the fewest batches that fit in memory with some room to spare.

    Args:
        copies: clips that a clip of the batch becomes, with its reversal.
    """
    needed = _step_bytes(model, config, precision)
    available = _share_of_memory(model.device)
    step, unit = config.batch_size * config.accumulate, config.repeats
    sizes = [n for n in range(step, 0, -1) if step % n == 0 and n % unit == 0]
    fitting = [n for n in sizes if _ROOM * needed(n * copies) < available]
    size = fitting[0] if fitting else sizes[-1]
    return replace(config, batch_size=size, accumulate=step // size)


def _step_bytes(
    model: VideoClassifier, config: TrainConfig, precision: str
) -> Callable[[int], int]:
    """Bytes of a training step, by the clips in its batch.

    Counts what the model keeps for the backward pass, for each further frame of a pass, and the
    batches that are loaded ahead, where they lie in the same memory.
    """
    size, pixels = config.size, 3 * config.size**2 * config.frames
    kept_by_one, kept_by_two = (_kept_bytes(model, precision, size, n) for n in (1, 2))
    by_clip = (kept_by_two - kept_by_one) * config.frames + 4 * pixels  # which are float32 then
    trained = 12 * model.num_parameters(only_trainable=True) // num_shards()  # gradient, moments
    ahead = 2 * config.workers if model.device.type == "cpu" else 0  # torch's prefetch_factor

    def of_batch(num_clips: int) -> int:
        at_once = clips_in_pass(model, config, precision, num_clips)
        return kept_by_one + trained + by_clip * at_once + pixels * num_clips * (1 + ahead)

    return of_batch


def clips_in_pass(
    model: VideoClassifier, config: TrainConfig, precision: str, num_clips: int
) -> int:
    """How many clips of a batch a pass has: all in shards, where processes keep step."""
    if num_shards() > 1:
        return num_clips
    return min(num_clips, clips_at_once(model, config.frames, config.size, precision))


def _share_of_memory(device: torch.device) -> int:
    """Bytes that this process may take: all of a GPU, its part of what processes share."""
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.type == "cpu" else 1
    return free_memory(device) // sharers


def _kept_bytes(model: VideoClassifier, precision: str, size: int, clip_frames: int) -> int:
    """Bytes, beyond the parameters, that one clip makes the model keep for the backward pass."""
    device = model.device
    clip = torch.zeros(1, clip_frames, 3, size, size, dtype=torch.uint8, device=device)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        autocast(device, precision),
        chosen_kernels(device),
    ):
        _ = model(clip).sum()
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values())


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
        raise MemoryShortError(f"out of memory on {device}; {advice}") from None


def what_saves_memory(model: VideoClassifier, config: TrainConfig, precision: str) -> str:
    """What a run that needs too much memory has not turned on yet."""
    ways = []
    if model.can_checkpoint and not config.checkpoint_activations:
        ways.append("use --checkpoint-activations")
    if precision == "float32":
        ways.append("use --precision bfloat16")
    half = config.batch_size // 2
    if half and half * 2 == config.batch_size and half % config.repeats == 0:
        ways.append(f"use --batch-size {half} --accumulate {2 * config.accumulate}, the same step")
    return "; or ".join([*ways, "lower --frames or --size"])


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def peak_memory_gb(device: torch.device) -> float:
    """Most memory this process has held, GB of 2^30 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")  # Linux's getrusage may tell of the process before this one
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return kilobytes / (2**30 if sys.platform == "darwin" else 2**20)
