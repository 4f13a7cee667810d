"""The windows of a long video, each scored as if it was a video of its own."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from st_adapter.common.remarks import note
from st_adapter.config import ClipConfig
from st_adapter.data import frame_sampling
from st_adapter.data.reading import spatial_views
from st_adapter.data.video.arrays import stack
from st_adapter.data.video.decode import TruncatedError
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.reader import Reader
from st_adapter.errors import VideoError

ScoreClips = Callable[[UInt8[Any, "n t h w 3"]], Float[ndarray, "n classes"]]
"""Computes the scores of clips, in 0..1."""

Advance = Callable[[float], None]
"""Called with the number of seconds of the video that are done, to show progress."""


class Windows(NamedTuple):
    """Scores of windows, before calibration."""

    starts: Float[ndarray, " w"]
    ends: Float[ndarray, " w"]
    scores: Float[ndarray, "w c"]


class Part(NamedTuple):
    """The part of a video to look at, and how it is divided into windows."""

    start_seconds: float
    end_seconds: float
    window_seconds: float
    step_seconds: float


def _window_starts(part: Part) -> Float[ndarray, " w"]:
    """Return when windows start; the last one ends within the part."""
    room = part.end_seconds - part.start_seconds - part.window_seconds
    count = 1 + math.floor(room / part.step_seconds + 1e-6)
    starts: ndarray = part.start_seconds + np.arange(max(1, count)) * part.step_seconds
    return starts.round(3)  # as printed, so that the printed segment has these frames


def frames_shown(info: VideoInfo, start: float, end: float) -> range:
    """Return the frames of a segment, or the one that is still shown if none starts in it."""
    try:
        return info.frame_range(start, end)
    except VideoError:
        before = int(np.searchsorted(info.start_seconds, start, side="right"))
        return range(max(0, before - 1), max(1, before))


def score_windows(
    score: ScoreClips,
    info: VideoInfo,
    clip: ClipConfig,
    part: Part,
    reader: Reader,
    batch_size: int,
    advance: Advance,
) -> Windows:
    """Score each window as if it was a video of its own."""
    starts = _window_starts(part)
    ends = np.minimum(starts + part.window_seconds, part.end_seconds).round(3)
    temporal, spatial = clip.views
    chosen = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        shown = frames_shown(info, start, end)
        chosen += [
            [
                shown[i]
                for i in frame_sampling.choose(
                    len(shown), clip.frames, clip.stride, view=view, num_views=temporal
                )
            ]
            for view in range(temporal)
        ]
    scores: list[ndarray] = []
    batch: list[Any] = []
    clips = read_in_order(reader, info, clip, chosen)
    at_once = max(1, batch_size // (temporal * spatial)) * temporal
    for number, frames in enumerate(clips, start=1):
        batch += spatial_views(frames, clip.size, spatial)
        if number % at_once == 0 or number == len(chosen):
            scores.append(_score_batch(score, batch, temporal * spatial))
            batch = []
            advance(float(ends[number // temporal - 1]) - part.start_seconds)
    if batch:  # the video ended early, in the middle of a batch
        whole = len(batch) // (temporal * spatial) * (temporal * spatial)
        scores += [_score_batch(score, batch[:whole], temporal * spatial)] if whole else []
    return join_windows(info, starts, ends, scores)


def _score_batch(
    score: ScoreClips, clips: Sequence[UInt8[Any, "t h w 3"]], views: int
) -> Float[ndarray, "n classes"]:
    """Return the scores of windows, each the mean over its views."""
    scores = score(stack(clips))
    averaged: ndarray = scores.reshape(-1, views, scores.shape[1]).mean(1)
    return averaged


def join_windows(
    info: VideoInfo,
    starts: Float[ndarray, " w"],
    ends: Float[ndarray, " w"],
    scores: Sequence[Float[ndarray, "n c"]],
) -> Windows:
    """Put scores together with their windows, of which the last are missing in a damaged file."""
    if not scores:
        raise VideoError(f"{info.path}: too few frames can be decoded for one window")
    joined = np.concatenate([*scores])
    return Windows(starts[: len(joined)], ends[: len(joined)], joined)


def read_in_order(
    reader: Reader, info: VideoInfo, clip: ClipConfig, chosen: Sequence[Sequence[int]]
) -> Iterator[UInt8[Any, "t h w 3"]]:
    """Yield clips of a video, which is decoded once. Frames are kept while a later clip needs them.

    Ends early, with a note, if the video is damaged and has fewer frames than it promises.

    Args:
        reader: Decodes the video.
        info: The video.
        clip: Size of the frames.
        chosen: The frame numbers of each clip. Later clips do not start before earlier ones.
    """
    wanted = sorted({number for clip_frames in chosen for number in clip_frames})
    stream = reader.stream_frames(info.path, wanted, clip.size, info, clip.square_pixels)
    first_needed = np.minimum.accumulate([min(numbers) for numbers in reversed(chosen)])[::-1]
    kept: dict[int, Any] = {}
    for place, numbers in enumerate(chosen):
        for number in [number for number in kept if number < first_needed[place]]:
            del kept[number]
        while max(numbers) not in kept:
            try:
                number, frame = next(stream)
            except TruncatedError as error:
                note(f"{error}, of {info.num_frames} that it promises; the timeline ends there")
                return
            kept[number] = frame
        yield stack([kept[number] for number in numbers])
