"""torch.compile, tried before it is relied on."""

import torch

from st_adapter.common.remarks import say
from st_adapter.config import ClipConfig
from st_adapter.errors import ArgumentError
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.device import best_seconds
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.runtime.micro_batches import clips_at_once

_NO_GAIN = 0.95
"""Speed-up below which compiling is said to cost, with room for whatever else the machine does."""


def compile_model(
    model: VideoClassifier,
    clip: ClipConfig,
    most: int,
    *,
    dtype: torch.dtype = torch.uint8,
    scoring: bool = False,
) -> None:
    """Compile the model for steps and validation, or for scoring alone, and say what is gained.

    Args:
        clip: frames and size of the clips that follow.
        most: of them in a batch; the device is given as many at once as it takes.
        dtype: of the clips.

    Raises:
        ArgumentError: the model cannot be compiled here.
    """
    count = min(most, clips_at_once(model.device, clip.frames, clip.size))
    shape = (count, clip.frames, 3, clip.size, clip.size)
    clips = torch.zeros(shape, dtype=dtype, device=model.device)
    say("compiling the model")
    model.train(not scoring)
    with clear_out_of_memory(model.device):
        before = best_seconds(model, clips, scoring=scoring)
        model.compile()
        try:
            after = best_seconds(model, clips, scoring=scoring)
            with torch.inference_mode():
                model.eval()(clips)
        except RuntimeError as error:  # what torch's compiler raises; its own classes are private
            reason = str(error).strip().splitlines()[0]
            raise ArgumentError(
                f"the model cannot be compiled here, {reason}; leave out --compile"
            ) from error
    what = "scoring" if scoring else "a step"
    advice = "; it is faster without" if before / after < _NO_GAIN else ""
    say(f"compiled, {what} takes {after / before:.2f} times the time it took before{advice}")
