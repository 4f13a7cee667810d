"""Turns decoded frames into random clips of one size, for training."""

import math
import random
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import ColorJitter, RandomErasing, Transform
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Video

from st_adapter.data.augment.randaugment import Frames, randaugment

_GREY = [128.0, 128.0, 128.0]
Squares = UInt8[Tensor, "t 3 side side"]


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Random augmentation of a training clip. Each choice is made once for all frames of the clip.

    `ClipDataset` applies it to video files. For frames that you decode yourself, call it with
    uint8 frames [t, 3, h, w] of any size and a `random.Random`, and leave `crop` at "area".

    Examples:
        >>> transform = TrainTransform(size=112, randaugment=True)  # doctest: +SKIP
        >>> transform(frames, random.Random(0)).shape  # doctest: +SKIP
        torch.Size([8, 3, 112, 112])

    Attributes:
        size: Height and width of the result in pixels.
        crop: "area" takes a box of random area and aspect ratio and resizes it (Inception style);
            "jitter" scales the short side by a random factor of `size` and crops anywhere.
        crop_range: Range of the box's fraction of the area, or of the factor for jitter.
        flip: Mirror half of the clips. Calling the transform does not do this; the data sets do,
            which know the class of a mirrored clip.
        randaugment: Apply RandAugment (m7 n4 mstd0.5 inc1) before the crop, as in the official
            code.
        color_jitter: Maximum relative change of brightness, contrast and saturation; 0 for none.
        erasing: Probability that a random box is made grey.
    """

    size: int
    crop: Literal["area", "jitter"] = "area"
    crop_range: tuple[float, float] = (0.5, 1.0)
    flip: bool = False
    randaugment: bool = False
    color_jitter: float = 0.0
    erasing: float = 0.0

    def short_side(self, rng: random.Random) -> int | None:
        """Draw the short side in pixels to decode to; None keeps that of the video.

        Args:
            rng: Makes the random choice.
        """
        if self.crop == "area":
            return None
        low, high = (round(self.size * factor) for factor in self.crop_range)
        return round(rng.uniform(low, high))

    def __call__(self, frames: Frames, rng: random.Random) -> Squares:
        """Make a training clip from frames that were decoded at `short_side`.

        Args:
            frames: Decoded frames.
            rng: Makes all random choices.
        """
        if self.randaugment:
            frames = randaugment(frames, rng)
        height, width = frames.shape[-2:]
        if self.crop == "area":
            box = random_area_box(height, width, self.crop_range, rng)
            bicubic = InterpolationMode.BICUBIC
            clip: Tensor = F.resized_crop(frames, *box, [self.size] * 2, bicubic, antialias=True)
        else:
            top, left = rng.randint(0, height - self.size), rng.randint(0, width - self.size)
            clip = F.crop(frames, top, left, self.size, self.size)
        if self.color_jitter:
            clip = _drawn(ColorJitter(*[self.color_jitter] * 3), clip, rng)
        if self.erasing:
            clip = _drawn(RandomErasing(self.erasing, value=_GREY), clip, rng)
        return clip


def _drawn(transform: Transform, frames: Frames, rng: random.Random) -> Frames:
    """Apply a random transform of torchvision, with randomness from `rng`.

    Such transforms draw from torch's global generator only. It is seeded here and then restored.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.getrandbits(32))
        changed: Tensor = transform(Video(frames)).as_subclass(Tensor)
    return changed


def random_area_box(
    height: int, width: int, area_range: tuple[float, float], rng: random.Random
) -> tuple[int, int, int, int]:
    """Draw a box of random area, with an aspect ratio from 3:4 to 4:3.

    Tries ten times, then takes the largest central box, as torchvision's RandomResizedCrop does.
    That one is not used because it draws from torch's global generator.

    Args:
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        area_range: Range of the box's fraction of the area.
        rng: Makes the random choice.

    Returns:
        Top, left, height and width of the box.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*area_range)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w
