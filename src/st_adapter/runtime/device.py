"""What this machine is good at: its device, and the faster arithmetic on it."""

import os
import time
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from st_adapter.errors import ArgumentError
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.precision import HALF, Precision
from st_adapter.runtime.memory import clear_out_of_memory

_WORTH_IT = 1.15
"""How much faster bfloat16 must be before its rounding is accepted."""


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first accelerator, else the CPU.

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
    """Names of the devices here, the CPU first."""
    devices = ["cpu"]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices + [f"cuda:{i}" for i in reversed(range(torch.cuda.device_count()))]


def choose_precision(
    name: str, model: VideoClassifier, *, clip_frames: int, size: int, scoring: bool = False
) -> tuple[Precision, str]:
    """Return the precision to use and why.

    "auto" times one clip in float32 and in bfloat16, and takes bfloat16 where that is at least
    1.15 times as fast.

    Args:
        clip_frames: frames per clip.
        size: height and width of the frames, pixels.
        scoring: time forward passes alone, not training steps.

    Raises:
        ArgumentError: a precision of another name.
        MemoryShortError: a clip does not fit.
    """
    if name in ("float32", *HALF):
        return cast(Precision, name), "as asked"
    if name != "auto":
        raise ArgumentError(f"precision is auto, float32, {' or '.join(HALF)}, not {name!r}")
    device = model.device
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "float32", "this GPU does not support bfloat16"
    clip = torch.zeros(1, min(clip_frames, 8), 3, size, size, dtype=torch.uint8, device=device)
    what = "pass" if scoring else "step"
    seconds: dict[Precision, float] = {"float32": 0.0, "bfloat16": 0.0}
    before = model.precision
    with clear_out_of_memory(device):
        for precision in seconds:
            model.precision = precision
            seconds[precision] = best_seconds(model, clip, scoring=scoring)
    model.precision = before
    gain = seconds["float32"] / seconds["bfloat16"]
    chosen: Precision = "bfloat16" if gain >= _WORTH_IT else "float32"
    return chosen, f"a bfloat16 {what} takes {1 / gain:.2f} times the time of a float32 one"


def best_seconds(model: VideoClassifier, clips: Tensor, *, scoring: bool) -> float:
    """Time of a forward pass, or of a forward and backward pass, at best of three.

    Leaves no gradient and no random draw.
    """
    device = model.device

    def run() -> None:
        with torch.inference_mode(scoring):
            loss = F.cross_entropy(model(clips), torch.zeros(len(clips), device=device).long())
        if not scoring:
            inputs = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(loss, inputs, allow_unused=True)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run()  # the first call of its kind takes longer
        return min(seconds_of(run, device) for _ in range(3))


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
    pixel = torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8, device=model.device)
    clip = pixel.expand(1, 2, 3, size, size)
    try:
        with torch.inference_mode(), clear_out_of_memory(model.device, f"lower --size {size}"):
            model(clip)
    except (AssertionError, RuntimeError, ValueError) as error:  # as each kind of backbone says it
        reason = f": {str(error).splitlines()[0]}" if str(error) else ""
        made_for = model.family.native_size()[-1]
        raise ArgumentError(
            f"{model.spec.backbone} cannot take frames of {size} px, it was made for {made_for} px"
            f"{reason}"
        ) from error
