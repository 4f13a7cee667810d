"""Draw the frames of a clip next to each other."""

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray


def film_strip(
    frames: UInt8[ndarray, "t h w 3"], count: int = 8, gap: int = 0
) -> UInt8[ndarray, "h width 3"]:
    """Join evenly spaced frames of a clip into one picture, from left to right.

    Args:
        frames: The clip, with colours in 0..255.
        count: Largest number of frames in the picture.
        gap: Width of the white gap between two frames, in pixels.

    >>> frames = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1) + np.zeros((4, 4, 3), np.uint8)
    >>> film_strip(frames, count=3, gap=1)[0, :, 0].tolist()
    [0, 0, 0, 0, 255, 6, 6, 6, 6, 255, 11, 11, 11, 11]
    """
    picks = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    tiles = np.pad(frames[picks], ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    strip: ndarray = np.concatenate([*tiles], axis=1)
    return strip[:, : strip.shape[1] - gap]
