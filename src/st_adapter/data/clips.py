"""Clips as tensors: those that a model scores, and random ones for training."""

import random
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.data import frame_sampling
from st_adapter.data.augment.transform import TrainTransform
from st_adapter.data.reading import read_clips
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video


def as_clips(frames: Shaped[Any, "... h w 3"]) -> Shaped[Tensor, "... 3 h w"]:
    """Turn decoded frames into the form that models take.

    Args:
        frames: An array of numpy, or a tensor.

    Returns:
        A contiguous tensor. With another memory layout, the last bits of scores would differ.
    """
    return torch.as_tensor(frames).movedim(-1, -3).contiguous()


def draw_clips(
    video: Video,
    clip: ClipConfig,
    transform: TrainTransform,
    rng: random.Random,
    repeats: int = 1,
    reader: Reader = Reader(),
) -> Iterator[UInt8[Tensor, "t 3 h w"]]:
    """Decode a video once and yield random training clips of it, augmented but not mirrored.

    Mirroring is left to the caller, who knows how it changes the class.

    Args:
        video: A video or a segment of one.
        clip: How clips are sampled.
        transform: Augmentation, and the size of clips.
        rng: Makes all random choices. The caller may draw from it between two clips.
        repeats: Number of clips.
        reader: Decodes the video.

    Raises:
        VideoError: If the video cannot be read.
    """

    def choose(num_frames: int) -> list[int]:
        return frame_sampling.choose(num_frames, clip.frames, clip.stride, rng)

    short_side, choosers = transform.short_side(rng), [choose] * repeats
    for frames in read_clips(video, choosers, short_side, reader, clip.square_pixels):
        # Channels stay last in memory, which makes resizing fastest.
        yield transform(torch.as_tensor(frames).permute(0, 3, 1, 2), rng)
