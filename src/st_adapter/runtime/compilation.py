"""torch.compile, tried before it is relied on."""

from collections.abc import Callable

import torch
from torch import Tensor

from st_adapter.common.remarks import say
from st_adapter.config import ClipConfig
from st_adapter.errors import ArgumentError
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.device import seconds_of, step_seconds
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.runtime.micro_batches import clips_at_once

_NO_GAIN = 0.95
"""Speed-up below which compiling is said to cost, with room for whatever else the machine does."""


def black_clips(
    model: VideoClassifier, clip: ClipConfig, most: int, dtype: torch.dtype = torch.uint8
) -> Tensor:
    """As many clips as the model's device is given at once, `most` at most."""
    count = min(most, clips_at_once(model.device, clip.frames, clip.size))
    shape = (count, clip.frames, 3, clip.size, clip.size)
    return torch.zeros(shape, dtype=dtype, device=model.device)


def compile_for_training(model: VideoClassifier, clips: Tensor) -> None:
    """Compile the model for steps and for validation, and say what a step gains.

    Args:
        clips: such as will be trained on, on the model's device.

    Raises:
        ArgumentError: the model cannot be compiled here.
    """
    model.train()
    _compile(model, "a step", lambda: step_seconds(model, clips))
    model.eval()
    with torch.inference_mode():
        model(clips)


def compile_for_scoring(model: VideoClassifier, clips: Tensor) -> None:
    """Compile the model, and say what scoring gains.

    Args:
        clips: such as will be scored, on the model's device.

    Raises:
        ArgumentError: the model cannot be compiled here.
    """
    model.eval()
    with torch.inference_mode():
        _compile(model, "scoring", lambda: seconds_of(lambda: model(clips), model.device))


def _compile(model: VideoClassifier, what: str, measure: Callable[[], float]) -> None:
    say("compiling the model")
    with clear_out_of_memory(model.device):
        before = _second_time(measure)
        model.compile()
        try:
            after = _second_time(measure)
        except RuntimeError as error:  # what torch's compiler raises; its own classes are private
            reason = str(error).strip().splitlines()[0]
            raise ArgumentError(
                f"the model cannot be compiled here, {reason}; leave out --compile"
            ) from error
    advice = "; it is faster without" if before / after < _NO_GAIN else ""
    say(f"compiled, {what} takes {after / before:.2f} times the time it took before{advice}")


def _second_time(measure: Callable[[], float]) -> float:
    """The time of a call once it has been made before, at best of three."""
    measure()
    return min(measure() for _ in range(3))
