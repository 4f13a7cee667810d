"""torch.compile, tried before it is relied on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.errors import ArgumentError
from st_adapter.machine import step_seconds
from st_adapter.model import VideoClassifier
from st_adapter.passes import clips_at_once, infer
from st_adapter.progress import say

_WORSE = 0.95
"""A gain that is none, whatever the machine does beside."""


def compile_for_training(
    model: VideoClassifier, clip: ClipConfig, precision: str, batch_size: int
) -> None:
    """Compile the model from its first pass on, and say what that gains.

    Raises:
        ArgumentError: it cannot be compiled here.
    """
    say("compiling the model")
    before = _clip_seconds(model, clip, precision, batch_size)
    with _compiling(model):
        gain = before / _clip_seconds(model, clip, precision, batch_size)
    what_to_do = "; leave --compile out" if gain < _WORSE else ""
    say(f"compiled, a step takes {1 / gain:.2f} times the time it took before{what_to_do}")


def compile_for_inference(model: VideoClassifier, clip: ClipConfig, precision: str) -> None:
    """Compile the model for clips of this form.

    Raises:
        ArgumentError: it cannot be compiled here.
    """
    model.eval()
    with _compiling(model):
        infer(model, _black(model, clip, 1), device=model.device, precision=precision, at_once=1)


def _clip_seconds(
    model: VideoClassifier, clip: ClipConfig, precision: str, batch_size: int
) -> float:
    """Time that a clip of a batch takes forwards and backwards."""
    at_once = clips_at_once(model, clip.frames, clip.size, precision)
    clips = _black(model, clip, min(at_once, batch_size))
    return step_seconds(model, clips, precision) / len(clips)


def _black(model: VideoClassifier, clip: ClipConfig, count: int) -> Tensor:
    shape = (count, clip.frames, 3, clip.size, clip.size)
    return torch.zeros(shape, dtype=torch.uint8, device=model.device)


@contextmanager
def _compiling(model: VideoClassifier) -> Iterator[None]:
    """Compile it, and turn the compiler's errors into one line."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # tells of no GPU
    model.compile()
    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(
            f"the model cannot be compiled here, {reason}; leave out --compile"
        ) from None
