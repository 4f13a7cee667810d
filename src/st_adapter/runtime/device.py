"""Choice of the device and of the precision that is fastest on it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from st_adapter.errors import ArgumentError
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.precision import HALF, Precision
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.wording import setting

_WORTH_IT = 1.15
"""Speed-up of bfloat16 over float32 from which its rounding errors are accepted."""

_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""CPU instructions for products in bfloat16, the fastest first, as Linux names them."""


def choose_device(name: str) -> torch.device:
    """Return the device with this name.

    Args:
        name: "cpu", "mps", "cuda", "cuda:N", or "auto" for the first GPU and otherwise the CPU. If
            a launcher has started several processes, "auto" and "cuda" give each its own GPU.

    Raises:
        ArgumentError: If this machine does not have the device.
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
        raise ArgumentError(f"device {name!r} is not available; this machine has {', '.join(have)}")
    return device


def available_devices() -> list[str]:
    """Return the names of the devices of this machine, from the CPU to the preferred one."""
    devices = ["cpu"]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices + [f"cuda:{i}" for i in reversed(range(torch.cuda.device_count()))]


def processor_kind(device: torch.device) -> str | None:
    """Return the kind of processor of a device. Compare times only if their kinds are equal.

    What is faster on one kind can be slower on another, most of all in bfloat16.

    Args:
        device: The device that computes.

    Returns:
        The name of a GPU, or the best bfloat16 instructions of a CPU: "amx_bf16", "avx512_bf16" or
        "neither amx_bf16 nor avx512_bf16". None if the system does not say: only Linux does.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo")
    if device.type != "cpu" or not described.exists():
        return None
    flags = described.read_text(encoding="utf-8").split()
    return next((kind for kind in _BFLOAT16 if kind in flags), f"neither {' nor '.join(_BFLOAT16)}")


def choose_precision(
    name: str, model: VideoClassifier, *, clip_frames: int, size: int, scoring: bool = False
) -> tuple[Precision, str]:
    """Return the precision to use, and the reason for it as a short text.

    "auto" times one clip in float32 and in bfloat16 and chooses bfloat16 if it is at least 1.15
    times as fast. Neither the model nor the random number generators change.

    Args:
        name: "float32", "bfloat16", "float16" or "auto".
        model: The classifier, on its device.
        clip_frames: Frames per clip.
        size: Height and width of the frames in pixels.
        scoring: Time forward passes only, not training steps.

    Raises:
        ArgumentError: If the name is unknown.
        MemoryShortError: If a clip does not fit in memory.
    """
    if name in ("float32", *HALF):
        return cast(Precision, name), "as requested"
    if name != "auto":
        raise ArgumentError(f"precision must be auto, float32, {' or '.join(HALF)}, not {name!r}")
    device = model.device
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "float32", "this GPU does not support bfloat16"
    clip = torch.zeros(1, min(clip_frames, 8), 3, size, size, dtype=torch.uint8, device=device)
    what = "forward pass" if scoring else "training step"
    seconds: dict[Precision, float] = {"float32": 0.0, "bfloat16": 0.0}
    before = model.precision
    with clear_out_of_memory(device):
        for precision in seconds:
            model.precision = precision
            seconds[precision] = best_seconds(model, clip, scoring=scoring)
    model.precision = before
    gain = seconds["float32"] / seconds["bfloat16"]
    chosen: Precision = "bfloat16" if gain >= _WORTH_IT else "float32"
    return chosen, f"a {what} in bfloat16 takes {1 / gain:.2f} times as long as in float32"


def best_seconds(model: VideoClassifier, clips: Tensor, *, scoring: bool) -> float:
    """Return the time of a forward pass, or of a forward and backward pass, as the best of three.

    Sets no gradients and does not advance the random number generators.

    Args:
        model: The classifier.
        clips: A batch of clips on the model's device.
        scoring: Time forward passes only.
    """
    device = model.device

    def run() -> None:
        with torch.inference_mode(scoring):
            loss = F.cross_entropy(model(clips), torch.zeros(len(clips), device=device).long())
        if not scoring:
            inputs = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(loss, inputs, allow_unused=True)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run()  # warm-up: the first call also allocates and tunes
        return min(seconds_of(run, device) for _ in range(3))


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes until the device has finished its work."""
    _wait_for(device)
    start = time.perf_counter()
    run()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def check_input_size(model: VideoClassifier, size: int) -> None:
    """Run one forward pass to find out whether the backbone accepts square frames of `size` pixels.

    Raises:
        ArgumentError: If it does not.
        MemoryShortError: If two frames of this size do not fit in memory.
    """
    pixel = torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8, device=model.device)
    clip = pixel.expand(1, 2, 3, size, size)
    advice = f"lower {setting('size', size)}"
    try:
        with torch.inference_mode(), clear_out_of_memory(model.device, advice):
            model(clip)
    except (AssertionError, RuntimeError, ValueError) as error:  # which one depends on the backbone
        reason = f": {str(error).splitlines()[0]}" if str(error) else ""
        native_size = model.family.native_size()[-1]
        raise ArgumentError(
            f"{model.spec.backbone} does not accept frames of {size} px "
            f"(native size {native_size} px){reason}"
        ) from error
