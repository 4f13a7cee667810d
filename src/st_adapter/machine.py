"""What this machine is good at: its device, the faster arithmetic, how much fits in memory."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from timm.models import get_model_input_config
from torch import Tensor

from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, MemoryShortError
from st_adapter.kernels import chosen_kernels
from st_adapter.model import VideoClassifier
from st_adapter.passes import HALF, autocast, backward, infer
from st_adapter.sharding import num_shards

_WORTH_IT = 1.15
"""How much faster bfloat16 must be before its rounding is accepted."""

_ROOM = 1.3
"""Memory to leave for what is not counted, times what is."""


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first accelerator, else the processor.

    Where several processes run, each has a GPU of its own.

    Raises:
        ArgumentError: there is no such device here.
    """
    have = available_devices()
    if name == "auto":
        name = have[-1].split(":")[0]
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    full_name = f"{device.type}:{device.index or 0}" if device and device.type == "cuda" else name
    if device is None or full_name not in have:
        raise ArgumentError(f"device {name!r} is not there; this machine has {', '.join(have)}")
    return device


def available_devices() -> list[str]:
    """Names of the devices here, the processor first."""
    devices = ["cpu"]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices + [f"cuda:{i}" for i in reversed(range(torch.cuda.device_count()))]


def hold_frozen(model: VideoClassifier, precision: str) -> None:
    """Hold frozen weights in the precision that autocast computes in."""
    if precision in HALF:
        model.hold_frozen_in(HALF[precision])


def choose_precision(
    name: str, model: VideoClassifier, *, clip_frames: int, size: int, scoring: bool = False
) -> tuple[str, str]:
    """Return the precision to use and why; "auto" times a step in float32 and bfloat16.

    Args:
        scoring: time forward passes alone.
    """
    if name != "auto":
        return name, "as asked"
    device = model.device
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "float32", "this GPU has no bfloat16"
    clips = torch.zeros(2, min(clip_frames, 8), 3, size, size, dtype=torch.uint8, device=device)
    measure, what = (_pass_seconds, "pass") if scoring else (step_seconds, "step")
    ways = {p: partial(measure, model, clips, p) for p in ("float32", "bfloat16")}
    seconds = least_in_turns(ways)
    gain = seconds["float32"] / seconds["bfloat16"]
    chosen = "bfloat16" if gain >= _WORTH_IT else "float32"
    return chosen, f"a bfloat16 {what} takes {1 / gain:.2f} times the time of a float32 one"


def least_in_turns(ways: Mapping[str, Callable[[], float]], rounds: int = 3) -> dict[str, float]:
    """The least of what each way of doing something takes; what else runs here slows all alike."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            found[name].append(measure())
    return {name: min(seconds) for name, seconds in found.items()}


def step_seconds(
    model: VideoClassifier,
    clips: Tensor,
    precision: str,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Time of a forward and backward pass; leaves no gradient and no random draw.

    Args:
        forward: the model's, compiled or not; unset runs it as it is.
    """
    size, device = len(clips), clips.device
    target = torch.zeros(size, dtype=torch.long, device=device)

    def step() -> None:
        backward(
            forward or model, clips, target, F.cross_entropy, precision=precision, at_once=size
        )

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seconds = seconds_of(step, device)
    model.zero_grad()
    return seconds


def _pass_seconds(model: VideoClassifier, clips: Tensor, precision: str) -> float:
    """Time of a forward pass that keeps nothing, of a model in evaluation mode."""
    device, size = clips.device, len(clips)
    return seconds_of(
        lambda: infer(model, clips, device=device, precision=precision, at_once=size), device
    )


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Time of a call, until the device is done with it."""
    _wait_for(device)
    start = time.perf_counter()
    run()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def check_input_size(model: VideoClassifier, size: int) -> None:
    """Raise ArgumentError unless the backbone takes square frames of `size` pixels."""
    clip = torch.zeros(1, 1, 1, 1, 1, device=model.device).expand(1, 2, 3, size, size)
    try:
        with torch.inference_mode(), clear_out_of_memory(model.device, f"lower --size {size}"):
            model(clip)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = f": {str(error).splitlines()[0]}" if str(error) else ""
        made_for = get_model_input_config(model.backbone)["input_size"][-1]
        raise ArgumentError(
            f"{model.spec.backbone} cannot take frames of {size} px, it was made for {made_for} px"
            f"{reason}"
        ) from None


def check_memory(
    model: VideoClassifier, config: TrainConfig, precision: str, batch_size: int
) -> None:
    """Raise ArgumentError where a training step cannot fit, before anything is written.

    Args:
        batch_size: clips in a forward pass, reversals among them.
    """
    fixed, by_clip = _step_bytes(model, config, precision)
    needed, available = fixed + by_clip * batch_size, _share_of_memory(model.device)
    if needed > available:
        raise ArgumentError(
            f"a step of {batch_size} clips of {config.frames} frames at {config.size} px needs "
            f"about {needed / 2**30:.1f} GB, {available / 2**30:.1f} GB are free on "
            f"{model.device}; {what_saves_memory(model, config, precision)}"
        )


def fit_batch(
    model: VideoClassifier, config: TrainConfig, precision: str, copies: int
) -> TrainConfig:
    """Cut a step into the fewest forward passes that fit in memory with some room to spare.

    Args:
        copies: clips that a clip of the batch becomes, with its reversal.
    """
    fixed, by_clip = _step_bytes(model, config, precision)
    available = _share_of_memory(model.device)
    step, unit = config.batch_size * config.accumulate, config.repeats
    sizes = [n for n in range(step, 0, -1) if step % n == 0 and n % unit == 0]
    fitting = [n for n in sizes if _ROOM * (fixed + by_clip * n * copies) < available]
    size = fitting[0] if fitting else sizes[-1]
    return replace(config, batch_size=size, accumulate=step // size)


def _step_bytes(model: VideoClassifier, config: TrainConfig, precision: str) -> tuple[int, int]:
    """Bytes of a training step at any batch size, and of each clip in it.

    Counts what the model keeps for the backward pass, for each further frame.
    """
    size = config.size
    kept_by_one, kept_by_two = (_kept_bytes(model, precision, size, n) for n in (1, 2))
    frame_bytes = 3 * size * size * 5  # as uint8 and as float32
    by_clip = (kept_by_two - kept_by_one + frame_bytes) * config.frames
    trained = 12 * model.num_parameters(only_trainable=True) // num_shards()  # gradient, moments
    return kept_by_one + trained, by_clip


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
