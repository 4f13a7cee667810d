"""What this machine is good at: its device, and the faster arithmetic on it."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from timm.models import get_model_input_config
from torch import Tensor

from st_adapter.errors import ArgumentError
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.passes import HALF, backward, clips_at_once, infer

_WORTH_IT = 1.15
"""How much faster bfloat16 must be before its rounding is accepted."""


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
    """Return the precision to use and why.

    "auto" times a step of two clips in both, with weights in float32 still, and takes bfloat16
    where that is at least 1.15 times as fast, else float32.

    Args:
        scoring: time forward passes alone.

    Raises:
        MemoryShortError: two clips do not fit.
    """
    if name != "auto":
        return name, "as asked"
    device = model.device
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "float32", "this GPU has no bfloat16"
    frames = min(clip_frames, 8)
    clips = torch.zeros(2, frames, 3, size, size, dtype=torch.uint8, device=device)
    measure, what = (_pass_seconds, "pass") if scoring else (step_seconds, "step")
    with clear_out_of_memory(device):
        ways = {
            p: partial(measure, model, clips, p, at_once=clips_at_once(model, frames, size, p))
            for p in ("float32", "bfloat16")
        }
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
    at_once: int = sys.maxsize,
) -> float:
    """Time of a forward and backward pass; leaves no gradient and no random draw.

    Args:
        forward: the model's, compiled or not; unset runs it as it is.
        at_once: most clips in a pass.
    """
    device = clips.device
    target = torch.zeros(len(clips), dtype=torch.long, device=device)

    def step() -> None:
        backward(
            forward or model,
            clips,
            target,
            F.cross_entropy,
            precision=precision,
            at_once=at_once,
        )

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seconds = seconds_of(step, device)
    model.zero_grad()
    return seconds


def _pass_seconds(model: VideoClassifier, clips: Tensor, precision: str, at_once: int) -> float:
    """Time of a forward pass that keeps nothing, of a model in evaluation mode."""
    device = clips.device
    return seconds_of(
        lambda: infer(model, clips, device=device, precision=precision, at_once=at_once), device
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
