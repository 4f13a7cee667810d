"""Draw the frames of a clip next to each other."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import pad


def film_strip(
    frames: UInt8[Tensor, "t 3 h w"], count: int = 8, gap: int = 0
) -> UInt8[Tensor, "h width 3"]:
    """Join evenly spaced frames of a clip into one picture, from left to right.

    Args:
        frames: The clip, with colours in 0..255.
        count: Largest number of frames in the picture.
        gap: Width of the white gap between two frames, in pixels.

    >>> frames = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 3, 4, 4)
    >>> film_strip(frames, count=3, gap=1)[0, :, 0].tolist()
    [0, 0, 0, 0, 255, 6, 6, 6, 6, 255, 11, 11, 11, 11]
    """
    picks = torch.linspace(0, len(frames) - 1, min(count, len(frames))).round().long()
    tiles = pad(frames[picks], (0, gap), value=255)
    strip = torch.cat(list(tiles), dim=2).permute(1, 2, 0)
    return strip[:, : strip.shape[1] - gap]
