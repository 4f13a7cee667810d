"""Which frames of a video make a clip. Only integers are computed here; no file is opened.

The arithmetic, including rounding of halves to even, is that of the official code:
linziyi96/st-adapter at b914b38, video_dataset/dataset.py.
"""

import random

from st_adapter.errors import ArgumentError


def uniform(
    num_frames: int,
    clip_frames: int,
    rng: random.Random | None = None,
    *,
    view: int = 0,
    num_views: int = 1,
) -> list[int]:
    """Choose one frame from each of `clip_frames` equal segments of the whole video.

    Args:
        num_frames: Frames in the video, at least 1.
        clip_frames: Frames to choose, at least 1.
        rng: Draws a frame from each segment, both ends included. Without it, the middle of each
            segment is chosen, or points that divide it evenly if there are several views.
        view: Number of the view, from 0.
        num_views: Number of temporal views.

    Raises:
        ArgumentError: If a number of frames is less than 1.

    >>> uniform(7, 3)
    [1, 3, 5]
    """
    _check(num_frames, clip_frames)
    segment = (num_frames - 1) / clip_frames
    indices = []
    for i in range(clip_frames):
        start, end = round(segment * i), round(segment * (i + 1))
        if rng is not None:
            indices.append(rng.randint(start, end))
        else:
            indices.append(start + (end - start) * (view + 1) // (num_views + 1))
    return indices


def strided(
    num_frames: int,
    clip_frames: int,
    frame_stride: int,
    rng: random.Random | None = None,
    *,
    view: int = 0,
    num_views: int = 1,
) -> list[int]:
    """Choose every `frame_stride`-th frame of a window.

    A video that is too short for the window repeats its last frame.

    Args:
        num_frames: Frames in the video, at least 1.
        clip_frames: Frames to choose, at least 1.
        frame_stride: Distance between two chosen frames, at least 1.
        rng: Draws the start of the window. Without it, one view is in the middle, and several are
            spread evenly from the start to the end of the video.
        view: Number of the view, from 0.
        num_views: Number of temporal views.

    Raises:
        ArgumentError: If a number of frames is less than 1.

    >>> strided(10, 3, 4)
    [0, 4, 8]
    >>> strided(5, 3, 4)
    [0, 4, 4]
    """
    _check(num_frames, clip_frames)
    slack = max(0, num_frames - ((clip_frames - 1) * frame_stride + 1))
    if rng is not None:
        start = rng.randint(0, slack)
    elif num_views == 1:
        start = slack // 2
    else:
        start = round(slack / (num_views - 1) * view)
    return [min(start + i * frame_stride, num_frames - 1) for i in range(clip_frames)]


def choose(
    num_frames: int,
    clip_frames: int,
    frame_stride: int,
    rng: random.Random | None = None,
    *,
    view: int = 0,
    num_views: int = 1,
) -> list[int]:
    """Choose frames with `strided`, or with `uniform` if `frame_stride` is 0.

    Args:
        num_frames: Frames in the video, at least 1.
        clip_frames: Frames to choose, at least 1.
        frame_stride: Distance between two chosen frames, or 0.
        rng: Makes the choice random.
        view: Number of the view, from 0.
        num_views: Number of temporal views.

    Raises:
        ArgumentError: If a number of frames is less than 1.
    """
    if frame_stride:
        return strided(num_frames, clip_frames, frame_stride, rng, view=view, num_views=num_views)
    return uniform(num_frames, clip_frames, rng, view=view, num_views=num_views)


def _check(num_frames: int, clip_frames: int) -> None:
    if num_frames < 1 or clip_frames < 1:
        raise ArgumentError(
            f"num_frames and clip_frames must be at least 1, got {num_frames=}, {clip_frames=}"
        )
