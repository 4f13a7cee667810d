"""The windows of a long video and their scores, which are computed in one of two ways."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from st_adapter.common.remarks import note
from st_adapter.config import ClipConfig
from st_adapter.data import frame_sampling
from st_adapter.data.augment.transform import spatial_views
from st_adapter.data.video.decode import TruncatedError
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.reader import Reader
from st_adapter.errors import VideoError
from st_adapter.evaluation.score import probabilities
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.frame_stream import classify_clips, summarise_clips

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
    model: VideoClassifier,
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
    scores: list[Tensor] = []
    batch: list[Tensor] = []
    clips = _read_in_order(reader, info, clip, chosen)
    at_once = max(1, batch_size // (temporal * spatial)) * temporal
    for number, frames in enumerate(clips, start=1):
        batch += spatial_views(frames, clip.size, spatial)
        if number % at_once == 0 or number == len(chosen):
            scores.append(_score_batch(model, batch, temporal * spatial))
            batch = []
            advance(float(ends[number // temporal - 1]) - part.start_seconds)
    if batch:  # the video ended early, in the middle of a batch
        whole = len(batch) // (temporal * spatial) * (temporal * spatial)
        scores += [_score_batch(model, batch[:whole], temporal * spatial)] if whole else []
    return _as_windows(info, starts, ends, scores)


def _as_windows(
    info: VideoInfo,
    starts: Float[ndarray, " w"],
    ends: Float[ndarray, " w"],
    scores: Sequence[Float[Tensor, "n c"]],
) -> Windows:
    """Put scores together with their windows, of which the last are missing in a damaged file."""
    if not scores:
        raise VideoError(f"{info.path}: too few frames can be decoded for one window")
    joined = torch.cat([*scores]).numpy()
    return Windows(starts[: len(joined)], ends[: len(joined)], joined)


def _score_batch(
    model: VideoClassifier, clips: Sequence[Tensor], views: int
) -> Float[Tensor, "n classes"]:
    """Return the scores of windows, each the mean over its views."""
    logits = model(torch.stack([*clips]).contiguous().to(model.device))
    scores = probabilities(logits, model.spec.task).cpu()
    averaged: Tensor = scores.unflatten(0, (-1, views)).mean(1)
    return averaged


def _read_in_order(
    reader: Reader, info: VideoInfo, clip: ClipConfig, chosen: Sequence[Sequence[int]]
) -> Iterator[UInt8[Tensor, "t 3 h w"]]:
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
    kept: dict[int, Tensor] = {}
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
        # Channels last is the layout in memory, as in `read_clips`.
        yield torch.stack([kept[number] for number in numbers]).permute(0, 3, 1, 2)


def score_in_one_pass(
    model: VideoClassifier,
    info: VideoInfo,
    clip: ClipConfig,
    part: Part,
    reader: Reader,
    batch_size: int,
    advance: Advance,
) -> Windows:
    """Run each sampled frame once, and score windows of as many frames as a clip has.

    Frames pass the backbone in clips that follow each other without overlap, and a window takes the
    features of its frames from the one or two clips that they are in. Adapters so see each frame as
    in training, at some place in a clip that starts and ends in zeros; of any window, one frame is
    at each place. Sequences without these ends agree with windows less often (85 % instead of 89 %
    of top labels where scenes change every three seconds; docs/lab/timelines.md).
    """
    interval = part.window_seconds / clip.frames
    per_step = round(part.step_seconds / interval)
    numbers = _sample_evenly(info, part, interval)
    recent: list[Tensor] = []  # summaries of the frames of the windows to come
    first_recent = next_start = 0  # frames: the first in `recent`, and of the next window
    scores: list[Tensor] = []
    for summaries in _summarise(model, info, clip, numbers, reader, batch_size):
        recent += summaries
        done = first_recent + len(recent)
        starts = range(next_start, done - clip.frames + 1, per_step)
        for low in range(0, len(starts), batch_size):
            places = [start - first_recent for start in starts[low : low + batch_size]]
            scores.append(_classify(model, [recent[i : i + clip.frames] for i in places]))
        next_start += len(starts) * per_step
        unneeded = min(len(recent), next_start - first_recent)
        del recent[:unneeded]
        first_recent += unneeded
        advance(done * interval)
    if not scores and recent:  # the video is shorter than a window
        scores.append(_classify(model, [recent]))
    times = part.start_seconds + np.arange(0, len(numbers), per_step) * interval
    ends = np.minimum(times + part.window_seconds, part.end_seconds)
    return _as_windows(info, times.round(3), ends.round(3), scores)


def _sample_evenly(info: VideoInfo, part: Part, interval: float) -> list[int]:
    """Return the frame that is shown in the middle of each interval of a part."""
    count = max(1, math.floor((part.end_seconds - part.start_seconds) / interval + 1e-6))
    middles = part.start_seconds + (np.arange(count) + 0.5) * interval
    shown: ndarray = np.searchsorted(info.start_seconds, middles, side="right") - 1
    return [int(number) for number in shown.clip(0)]


def _summarise(
    model: VideoClassifier,
    info: VideoInfo,
    clip: ClipConfig,
    numbers: Sequence[int],
    reader: Reader,
    batch_size: int,
) -> Iterator[list[Float[Tensor, "s *summary"]]]:
    """Yield the summaries of sampled frames, each with an axis for the spatial views."""
    spatial = clip.views[1]
    at_once = max(1, batch_size // spatial) * clip.frames

    def run(frames: Sequence[Tensor], length: int) -> list[Tensor]:
        views = torch.stack(spatial_views(torch.cat([*frames]), clip.size, spatial))
        clips = views.unflatten(1, (-1, length)).flatten(0, 1).contiguous()  # [s * clips, t, ...]
        summaries = summarise_clips(model, clips.to(model.device))
        return [*summaries.unflatten(0, (spatial, -1)).flatten(1, 2).unbind(1)]

    waiting: list[Tensor] = []
    for frame in _read_in_order(reader, info, clip, [[number] for number in numbers]):
        waiting.append(frame)
        if len(waiting) == at_once:
            yield run(waiting, clip.frames)
            waiting = []
    rest = len(waiting) % clip.frames
    whole, last = waiting[: len(waiting) - rest], waiting[len(waiting) - rest :]
    if whole:
        yield run(whole, clip.frames)
    if last:
        yield run(last, rest)


def _classify(
    model: VideoClassifier, clips: Sequence[Sequence[Float[Tensor, "s *summary"]]]
) -> Float[Tensor, "n classes"]:
    """Return the scores of clips of summaries, each the mean over its spatial views."""
    stacked = torch.stack([torch.stack([*frames], 1) for frames in clips])  # [clips, s, t, ...]
    logits = classify_clips(model, stacked.flatten(0, 1))
    scores = probabilities(logits, model.spec.task).cpu()
    averaged: Tensor = scores.unflatten(0, stacked.shape[:2]).mean(1)
    return averaged
