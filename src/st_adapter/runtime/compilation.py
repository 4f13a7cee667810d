"""torch.compile, tried before it is relied on."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.errors import ArgumentError
from st_adapter.runtime.lanes import side_by_side
from st_adapter.runtime.device import least_in_turns, seconds_of, step_seconds
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.passes import clips_at_once, infer
from st_adapter.common.progress import say

Forward = Callable[[Tensor], Tensor]

_ROUNDS = 4
"""Of what is timed before it is said what compiling gains, the first of which compiles."""

_NO_GAIN = 0.95
"""Speed-up below which compiling is said to cost, with room for what the machine does beside."""


def compile_for_training(
    model: VideoClassifier, config: TrainConfig, precision: str, lanes: int = 1
) -> None:
    """Compile the model for steps and for validation, and say what a step gains.

    Args:
        lanes: batches that will be scored side by side.

    Raises:
        ArgumentError: it cannot be compiled here.
    """
    clip, most = config.clip, config.batch_size * (2 if config.reversal else 1)
    kind = torch.float32 if config.mixup or config.cutmix else torch.uint8  # what mixing makes

    def clip_seconds(clips: Tensor, forward: Forward | None = None) -> float:
        return step_seconds(model, clips, precision, forward) / len(clips)

    model.train()
    before = _black(model, clip, precision, most, kind)
    with _compiling(model, lanes), clear_out_of_memory(model.device):
        after = _black(model, clip, precision, most, kind)
        ways = {
            "before": partial(clip_seconds, before, model.forward),
            "after": partial(clip_seconds, after),
        }
        seconds = least_in_turns(ways, _ROUNDS)
        _score(model, _black(model, clip, precision, config.batch_size), precision, lanes)
    model.train()
    _say_gain("a step", **seconds)


def compile_for_inference(
    model: VideoClassifier, clip: ClipConfig, precision: str, batch_size: int, lanes: int = 1
) -> None:
    """Compile the model for clips of this form, as its weights now are; say what scoring gains.

    On a processor the code holds weights packed for its products, copies that later changes of
    the model do not reach.

    Args:
        lanes: batches that will be scored side by side.

    Raises:
        ArgumentError: it cannot be compiled here.
    """
    packed = model.device.type == "cpu"
    before = _black(model, clip, precision, batch_size)
    # Packed convolutions (torch 2.15) fail in code for any shape.
    compiling = _compiling(model, lanes, dynamic=False if packed else None)
    with compiling, clear_out_of_memory(model.device):
        after = _black(model, clip, precision, batch_size)
        ways = {
            "before": partial(_score, model, before, precision, lanes, forward=model.forward),
            "after": partial(_score, model, after, precision, lanes, packed),
        }
        seconds = least_in_turns(ways, _ROUNDS)
    _say_gain("scoring", **seconds)


def _say_gain(what: str, before: float, after: float) -> None:
    advice = "; it is faster without" if before / after < _NO_GAIN else ""
    say(f"compiled, {what} takes {after / before:.2f} times the time it took before{advice}")


def _score(
    model: VideoClassifier,
    clips: Tensor,
    precision: str,
    lanes: int,
    packed: bool = False,
    forward: Forward | None = None,
) -> float:
    """Score a pass in each lane: code is for as many threads as compiled it.

    Returns:
        Time that a clip takes, seconds.
    """
    from torch._inductor import config

    model.eval()
    device = model.device

    def score(clips: Tensor, _dropped: object) -> Tensor:
        with config.patch(freezing=packed):  # of this thread alone, from torch 2.12 on
            logits = infer(
                forward or model, clips, device=device, precision=precision, at_once=len(clips)
            )
        return logits.cpu()

    with config.patch(freezing=packed):  # of all threads, before
        seconds = seconds_of(lambda: list(side_by_side(score, lanes * [clips], lanes)), device)
    return seconds / (lanes * len(clips))


def _black(
    model: VideoClassifier,
    clip: ClipConfig,
    precision: str,
    most: int,
    kind: torch.dtype = torch.uint8,
) -> Tensor:
    """As many clips as are run at once, of at most a batch."""
    count = min(most, clips_at_once(model, clip.frames, clip.size, precision))
    shape = (count, clip.frames, 3, clip.size, clip.size)
    return torch.zeros(shape, dtype=kind, device=model.device)


@contextmanager
def _compiling(model: VideoClassifier, lanes: int, dynamic: bool | None = None) -> Iterator[None]:
    """Compile it, and turn the compiler's errors into one line."""
    say("compiling the model")
    from torch._dynamo.exc import TorchDynamoException  # takes seconds
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    remarks = logging.getLogger("torch.utils.cpp_extension")  # of no GPU, where none is asked for
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    model.compile(dynamic=dynamic)
    model.compiled_lanes = lanes
    try:
        yield
    except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
        model._compiled_call_impl, model.compiled_lanes = None, 1
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(
            f"the model cannot be compiled here, {reason}; leave out --compile"
        ) from None
    finally:
        remarks.setLevel(level)
