"""RandAugment with the settings for Something-Something v2: m7, n4, mstd0.5, inc1.

This is the variant of timm (`rand-m7-n4-mstd0.5-inc1`) of Cubuk et al., arXiv 1909.13719. A higher
level makes every operation stronger, each of the four operations is applied with probability 0.5,
and its level is drawn around 7 of 10. torchvision's RandAugment differs in operations and ranges.
Geometric operations interpolate bilinearly, because torchvision cannot warp tensors bicubically.
"""

import math
import random
from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

Frames = UInt8[Tensor, "t 3 h w"]
Operation = Callable[[Frames, float, float], Frames]
"""Maps frames, a level in 0..1 and a sign of -1 or 1 to frames of the same shape."""

NUM_OPERATIONS = 4
MAGNITUDE = 7.0
MAGNITUDE_STD = 0.5
PROBABILITY = 0.5
_FILL = [128.0]


def randaugment(frames: Frames, rng: random.Random) -> Frames:
    """Apply up to four random operations, the same to every frame.

    Args:
        frames: Frames of one clip.
        rng: Draws the operations and their levels.
    """
    frames = frames.contiguous()  # most operations are slow with channels last
    for operation in rng.choices(list(OPERATIONS.values()), k=NUM_OPERATIONS):
        happens = rng.random() < PROBABILITY
        level = min(10.0, max(0.0, rng.gauss(MAGNITUDE, MAGNITUDE_STD))) / 10
        sign = rng.choice((-1.0, 1.0))
        if happens:
            frames = operation(frames, level, sign)
    return frames.contiguous(memory_format=torch.channels_last)  # speeds up resizing


def _affine(
    frames: Frames, *, angle: float = 0.0, shear: tuple[float, float] = (0.0, 0.0)
) -> Frames:
    planes: Tensor = F.affine(
        frames.flatten(0, 1)[None],  # as one image, so that the sampling grid is computed once
        angle=angle,
        translate=[0, 0],
        scale=1.0,
        shear=[shear[0], shear[1]],
        interpolation=InterpolationMode.BILINEAR,
        fill=_FILL,
        center=[0.0, 0.0] if any(shear) else None,
    )
    moved: Tensor = planes[0].unflatten(0, frames.shape[:2])
    return moved


def _shear(frames: Frames, slope_x: float, slope_y: float) -> Frames:
    """Shear about the top left corner, as Pillow does; torchvision shears about the centre."""
    degrees = (math.degrees(math.atan(slope_x)), math.degrees(math.atan(slope_y)))
    return _affine(frames, shear=degrees)


def _translate(frames: Frames, right: float, down: float) -> Frames:
    """Shift by whole pixels. What leaves the frame is cut off; the gap becomes grey."""
    x, y = round(right), round(down)
    return pad(frames, [x, -x, y, -y], value=_FILL[0])


def _sharpness(frames: Frames, factor: float) -> Frames:
    frames = frames.contiguous(memory_format=torch.channels_last)  # ten times as fast
    sharp: Tensor = F.adjust_sharpness(frames, factor)
    return sharp.contiguous()


def _solarize_add(frames: Frames, level: float, sign: float) -> Frames:
    """Make values below 128 brighter, by up to 110."""
    return frames + (frames < 128).to(frames.dtype) * int(level * 110)


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda x, level, sign: F.autocontrast(x),
    "equalize": lambda x, level, sign: F.equalize(x),
    "invert": lambda x, level, sign: F.invert(x),
    "rotate": lambda x, level, sign: _affine(x, angle=sign * level * 30),
    "posterize": lambda x, level, sign: F.posterize(x, 4 - int(level * 4)),
    "solarize": lambda x, level, sign: F.solarize(x, 256 - int(level * 256)),
    "solarize_add": _solarize_add,
    "color": lambda x, level, sign: F.adjust_saturation(x, 1 + sign * level * 0.9),
    "contrast": lambda x, level, sign: F.adjust_contrast(x, 1 + sign * level * 0.9),
    "brightness": lambda x, level, sign: F.adjust_brightness(x, 1 + sign * level * 0.9),
    "sharpness": lambda x, level, sign: _sharpness(x, 1 + sign * level * 0.9),
    "shear_x": lambda x, level, sign: _shear(x, sign * level * 0.3, 0.0),
    "shear_y": lambda x, level, sign: _shear(x, 0.0, sign * level * 0.3),
    "translate_x": lambda x, level, sign: _translate(x, sign * level * 0.45 * x.shape[-1], 0.0),
    "translate_y": lambda x, level, sign: _translate(x, 0.0, sign * level * 0.45 * x.shape[-2]),
}
