"""Compilation with torch.compile, with a trial that shows whether it works and pays off."""

import torch

from st_adapter.common.remarks import say
from st_adapter.config import ClipConfig
from st_adapter.errors import ArgumentError
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.device import best_seconds
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.runtime.micro_batches import clips_at_once
from st_adapter.wording import switch

_NO_GAIN = 0.95
"""Speed-up below which compilation counts as a loss. It is less than 1 because other programs on
the machine disturb the measurement.
"""


def compile_model(
    model: VideoClassifier,
    clip: ClipConfig,
    most: int,
    *,
    dtype: torch.dtype = torch.uint8,
    scoring: bool = False,
) -> None:
    """Compile the model and report how much faster it is.

    Compilation happens here, on clips of zeros, so that it cannot fail later in a run.

    Args:
        model: The classifier.
        clip: Frames and size of the clips to come.
        most: Maximum number of clips in a batch. The trial uses as many as the device gets at once.
        dtype: Type of the clips' values.
        scoring: Compile for forward passes only, not for training steps and validation.

    Raises:
        ArgumentError: If the model cannot be compiled on this machine.
        MemoryShortError: If the clips do not fit in memory.
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
        except RuntimeError as error:  # base of the compiler's own error classes, which are private
            reason = str(error).strip().splitlines()[0]
            raise ArgumentError(
                f"the model cannot be compiled on this machine: {reason}; "
                f"run without {switch('compile')}"
            ) from error
    what = "scoring" if scoring else "a training step"
    advice = f"; it is faster without {switch('compile')}" if before / after < _NO_GAIN else ""
    say(f"compiled: {what} takes {after / before:.2f} times as long as before{advice}")
