"""Clips of one video, cut from frames that are decoded once."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.data import frame_sampling
from st_adapter.data.augment.transform import spatial_views
from st_adapter.data.video.decode import TruncatedError
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError

Chooser = Callable[[int], list[int]]
"""From the number of frames to choose among to the numbers of those wanted."""


def read_views(
    video: Video, clip: ClipConfig, reader: Reader = Reader()
) -> tuple[UInt8[Tensor, "d t 3 h w"], list[int]]:
    """Decode a video once and cut its test views, each different one once.

    Views are the same where a video is square, or shorter than a window.

    Returns:
        The different clips, and the row in them of each view, temporal-major.

    Raises:
        VideoError: it cannot be read.
    """
    temporal, spatial = clip.views

    def chooser(view: int) -> Chooser:
        return lambda num_frames: frame_sampling.choose(
            num_frames, clip.frames, clip.stride, view=view, num_views=temporal
        )

    choosers = [chooser(view) for view in range(temporal)]
    windows = read_clips(video, choosers, clip.size, reader, clip.square_pixels)
    views = [view for window in windows for view in spatial_views(window, clip.size, spatial)]
    # Crops share the memory of their window, and equal windows are one tensor: crops are the same
    # where they begin at the same address.
    different = {view.data_ptr(): view for view in views}
    row = {address: i for i, address in enumerate(different)}
    return torch.stack(list(different.values())), [row[view.data_ptr()] for view in views]


def read_clips(
    video: Video,
    choosers: Sequence[Chooser],
    short_side: int | None,
    reader: Reader = Reader(),
    square_pixels: bool = False,
) -> list[UInt8[Tensor, "t 3 h w"]]:
    """Choose frames of a video and decode them in one pass; equal choices share a tensor.

    A damaged file may end before its packets promise. The choice is then made again among the
    frames that can be decoded.

    Raises:
        VideoError: no frame can be read, or none lies in the segment.
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
        pictures = frames.permute(0, 2, 3, 1)  # as they lie in memory: whole ones are copied
        clips = {
            choice: torch.stack([pictures[row[i]] for i in choice]).permute(0, 3, 1, 2)
            for choice in chosen
        }
        return [clips[choice] for choice in chosen]
    raise VideoError(f"{video.path}: decodes to another number of frames each time")
