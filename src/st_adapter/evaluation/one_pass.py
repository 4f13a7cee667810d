"""Frames that pass the backbone once and are scored in several windows, of a video or live."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.data.clips import as_clips
from st_adapter.data.reading import spatial_views
from st_adapter.data.video.arrays import stack
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.reader import Reader
from st_adapter.evaluation.score import probabilities
from st_adapter.evaluation.windows import Advance, Part, Windows, join_windows, read_in_order
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.frame_stream import FrameStream, classify_clips, summarise_clips
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.wording import setting


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
    scores: list[ndarray] = []
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
    return join_windows(info, times.round(3), ends.round(3), scores)


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

    def run(frames: Sequence[UInt8[Any, "h w 3"]], length: int) -> list[Tensor]:
        views = as_clips(stack(spatial_views(stack(frames), clip.size, spatial)))
        clips = views.unflatten(1, (-1, length)).flatten(0, 1)  # [s * clips, t, ...]
        summaries = summarise_clips(model, clips.to(model.device))
        return [*summaries.unflatten(0, (spatial, -1)).flatten(1, 2).unbind(1)]

    waiting: list[Any] = []
    for (frame,) in read_in_order(reader, info, clip, [[number] for number in numbers]):
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
) -> Float[ndarray, "n classes"]:
    """Return the scores of clips of summaries, each the mean over its spatial views."""
    stacked = torch.stack([torch.stack([*frames], 1) for frames in clips])  # [clips, s, t, ...]
    logits = classify_clips(model, stacked.flatten(0, 1))
    scores = probabilities(logits, model.spec.task).cpu()
    averaged: ndarray = scores.unflatten(0, stacked.shape[:2]).mean(1).numpy()
    return averaged


class RecentSummaries:
    """The last frames of a stream, each of which passes the backbone once, when it comes.

    It then sees the frames before it, but not those after it.

    Args:
        model: The classifier, in evaluation mode.
        clip: Frames, size and spatial views.
    """

    def __init__(self, model: VideoClassifier, clip: ClipConfig) -> None:
        self._model, self._clip = model, clip
        self._stream = FrameStream(model)
        self._recent: deque[Tensor] = deque(maxlen=clip.frames)  # of each frame [s, *summary]

    @contextmanager
    def _computing(self) -> Iterator[None]:
        advice = f"lower {setting('frames')} or {setting('size')}"
        with torch.inference_mode(), clear_out_of_memory(self._model.device, advice):
            yield

    def push(self, frames: Sequence[UInt8[ndarray, "h w 3"]]) -> None:
        """Add the next frames, upright RGB with a short side of `clip.size` pixels.

        Raises:
            MemoryShortError: If the frames do not fit in memory.
        """
        views = spatial_views(stack(frames), self._clip.size, self._clip.views[1])
        with self._computing():
            summaries = self._stream.push(as_clips(stack(views)).to(self._model.device))
            self._recent.extend(summaries.unbind(1))

    def scores(self) -> Float[ndarray, "1 classes"]:
        """Return the scores of the last frames: as many as a clip has, or all so far."""
        with self._computing():
            logits = classify_clips(self._model, torch.stack([*self._recent], 1))
            scores = probabilities(logits, self._model.spec.task).mean(0, keepdim=True)
        return scores.cpu().numpy()
