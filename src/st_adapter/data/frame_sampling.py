"""Which frames of a video make a clip: integers alone, no file is opened here.

The arithmetic is that of the official code, linziyi96/st-adapter at b914b38,
video_dataset/dataset.py, and so is its rounding (halves to even).
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
    """One frame from each of `clip_frames` equal segments of the whole video.

    With `rng` each frame is drawn from its segment, both ends included. Without, it is the
    segment's middle; several views divide the segments evenly instead.

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
    """Every `frame_stride`-th frame of a window; a shorter video repeats its last frame.

    With `rng` the window starts anywhere. Without, one view is the middle window, several views
    spread from the first to the last.

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
    """`strided` where a stride is given, `uniform` where it is 0."""
    if frame_stride:
        return strided(num_frames, clip_frames, frame_stride, rng, view=view, num_views=num_views)
    return uniform(num_frames, clip_frames, rng, view=view, num_views=num_views)


def _check(num_frames: int, clip_frames: int) -> None:
    if num_frames < 1 or clip_frames < 1:
        raise ArgumentError(f"sampling needs at least one frame, not {num_frames=} {clip_frames=}")
