"""Clips of one video, which is decoded once for all of them."""

import random
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.data import frame_sampling
from st_adapter.data.augment.transform import TrainTransform, spatial_views
from st_adapter.data.video.decode import TruncatedError
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError

Chooser = Callable[[int], list[int]]
"""Maps the number of frames of a video to the numbers of those to decode."""


def read_views(
    video: Video, clip: ClipConfig, reader: Reader = Reader()
) -> tuple[UInt8[Tensor, "d t 3 h w"], list[int]]:
    """Decode a video and cut all its test views.

    Views can be equal: spatial ones if the video is square, temporal ones if it is too short. Each
    distinct view is returned once, so that it is scored once.

    Args:
        video: A video or a segment of one.
        clip: How clips are sampled, and how many views there are.
        reader: Decodes the video.

    Returns:
        The d distinct views, and for each view its index among them. Spatial views vary fastest.

    Raises:
        VideoError: If the video cannot be read.
    """
    temporal, spatial = clip.views

    def chooser(view: int) -> Chooser:
        return lambda num_frames: frame_sampling.choose(
            num_frames, clip.frames, clip.stride, view=view, num_views=temporal
        )

    choosers = [chooser(view) for view in range(temporal)]
    windows = read_clips(video, choosers, clip.size, reader, clip.square_pixels)
    views = [view for window in windows for view in spatial_views(window, clip.size, spatial)]
    # Crops are slices of their window, and equal windows are one tensor. So two views are equal if
    # they start at the same address, and no pixels need to be compared.
    different = {view.data_ptr(): view for view in views}
    row = {address: i for i, address in enumerate(different)}
    return torch.stack(list(different.values())), [row[view.data_ptr()] for view in views]


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
        yield transform(frames, rng)


def read_clips(
    video: Video,
    choosers: Sequence[Chooser],
    short_side: int | None,
    reader: Reader = Reader(),
    square_pixels: bool = False,
) -> list[UInt8[Tensor, "t 3 h w"]]:
    """Choose frames of a video and decode them all at once.

    The packets of a damaged file can promise more frames than can be decoded. In that case frames
    are chosen again among those that can.

    Args:
        video: A video or a segment of one.
        choosers: Choose the frames of each clip.
        short_side: Scale frames to this many pixels on the shorter side; None keeps their size.
        reader: Decodes the video.
        square_pixels: Stretch frames whose pixels are not square.

    Returns:
        A clip for each chooser. Equal choices share one tensor.

    Raises:
        VideoError: If no frame can be read, or the segment contains none.
    """
    info = reader.probe(video.path)
    shown = info.frame_range(video.start_seconds, video.end_seconds)
    for _ in range(2):
        chosen = [tuple(shown[i] for i in choose(len(shown))) for choose in choosers]
        union = sorted({i for indices in chosen for i in indices})
        try:
            frames = reader.read_frames(video.path, union, short_side, info, square_pixels)
        except TruncatedError as error:
            shown = range(shown.start, min(shown.stop, error.num_decoded))
            if not shown:
                raise
            continue
        row = {number: i for i, number in enumerate(union)}
        # Channels last is the layout in memory, so that `stack` copies whole frames.
        pictures = frames.permute(0, 2, 3, 1)
        clips = {
            choice: torch.stack([pictures[row[i]] for i in choice]).permute(0, 3, 1, 2)
            for choice in chosen
        }
        return [clips[choice] for choice in chosen]
    raise VideoError(f"{video.path}: yields a different number of frames each time it is decoded")
