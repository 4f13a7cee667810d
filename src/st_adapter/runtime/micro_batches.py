"""How many clips a device is given at once."""

import sys

import torch

_PIXELS = 8 * 224 * 224
"""Of the clips in a CPU's micro-batch.

More of them leave its caches: four clips of ViT-B/16 at 8 x 224 x 224 in one pass took 5.9 s for a
training step and one by one 4.3 s (2 cores of an AMD EPYC, bfloat16, 2026-11-26).
"""


def clips_at_once(device: torch.device, frames: int, size: int) -> int:
    """Return the clips in a micro-batch, at least 1; all there are on anything but a CPU.

    Args:
        frames: frames per clip.
        size: height and width of the frames, pixels.
    """
    if device.type != "cpu":
        return sys.maxsize
    return max(1, _PIXELS // (frames * size * size))
