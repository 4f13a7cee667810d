"""From decoded frames to clips of one size: training draws, and the crops of test views."""

import math
import random
from collections.abc import Sequence
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
    """Random crop, colours and erasing, each drawn once for all frames of a clip.

    Attributes:
        size: height and width of the result, pixels.
        crop: "area" is a random resized crop (Inception style); "jitter" scales the short side
            by a random factor of `size` and crops anywhere.
        crop_range: of the area, or of the factor.
        flip: mirror half of the clips, which is left to who knows what they show then.
        color_jitter: most relative change of brightness, contrast and saturation.
        erasing: probability that a random box is grey.
        randaugment: RandAugment m7 n4 mstd0.5 inc1, before the crop as in the official code.
    """

    size: int
    crop: Literal["area", "jitter"]
    crop_range: tuple[float, float]
    flip: bool
    randaugment: bool
    color_jitter: float = 0.0
    erasing: float = 0.0

    def short_side(self, rng: random.Random) -> int | None:
        """The short side to decode to; None keeps the video's own."""
        if self.crop == "area":
            return None
        low, high = (round(self.size * factor) for factor in self.crop_range)
        return round(rng.uniform(low, high))

    def __call__(self, frames: Frames, rng: random.Random) -> Squares:
        """Make a training clip of frames decoded at `short_side`."""
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
    """Apply a transform of torchvision's, which draws from torch's global generator alone.

    It is seeded from `rng` for the draw, and has its state back afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.getrandbits(32))
        changed: Tensor = transform(Video(frames)).as_subclass(Tensor)
    return changed


def random_area_box(
    height: int, width: int, area_range: tuple[float, float], rng: random.Random
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a box of random area and aspect ratio 3:4 to 4:3.

    Ten draws, then the largest central box, as in torchvision's RandomResizedCrop, whose own
    draw takes its randomness from a global generator.
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


def spatial_views(frames: Frames, size: int, num_views: int) -> list[Squares]:
    """Cut the centre, or three squares along the long side, of frames with short side `size`."""
    height, width = frames.shape[-2:]
    fractions: Sequence[float] = (0, 0.5, 1) if num_views == 3 else (0.5,)
    return [
        F.crop(frames, int((height - size) * f), int((width - size) * f), size, size)
        for f in fractions
    ]
