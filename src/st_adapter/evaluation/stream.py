"""Live scores: the frames of a camera or stream are scored as they come."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from st_adapter.config import ClipConfig
from st_adapter.data.frames_in_memory import check_frames
from st_adapter.data.live.sampler import FrameSampler
from st_adapter.data.reading import spatial_views
from st_adapter.data.video.decode import FrameScaler
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.calibration import calibrate
from st_adapter.evaluation.ranking import rank
from st_adapter.evaluation.scorer import RecentFrames, Scorer
from st_adapter.evaluation.timeline import window_seconds
from st_adapter.model.spec import ModelSpec
from st_adapter.wording import setting


@dataclass(frozen=True, kw_only=True)
class LiveScores:
    """The scores of the last frames of a stream.

    Attributes:
        seconds: Time that was passed with the newest frame.
        scores: Pairs of label and score, best first, as `Prediction.scores`.
        predicted: The predicted label, or a list of labels, as `Prediction.predicted`.
        heads: The pairs of each head, as `Prediction.heads`.
    """

    seconds: float
    scores: list[tuple[str, float]]
    predicted: str | list[str]
    heads: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


class _RecentClip:
    """The last frames of a stream, which are scored as a clip, exactly as one of a file."""

    def __init__(self, scorer: Scorer, clip: ClipConfig) -> None:
        self._scorer, self._clip = scorer, clip
        self._recent: deque[ndarray] = deque(maxlen=clip.frames)  # of each frame [s, h, w, 3]

    def push(self, frames: Sequence[UInt8[ndarray, "h w 3"]]) -> None:
        frames = frames[-self._clip.frames :]
        views = spatial_views(np.stack(frames), self._clip.size, self._clip.views[1])
        self._recent.extend(np.stack(views, axis=1))

    def scores(self) -> Float[ndarray, "1 classes"]:
        scores = self._scorer.score_clips(np.stack(self._recent, axis=1))
        averaged: ndarray = scores.mean(0, keepdims=True)
        return averaged


class StreamScorer:
    """Keeps what the next scores need of the frames that came before.

    In one pass, each frame runs through the backbone once, when it comes. It then sees the frames
    before it, but not those after it, and a step costs the new frames only. Otherwise, the last
    frames are scored as a clip, exactly as one of a file, at the cost of a whole clip per step.

    Args:
        scorer: Runs the classifier.
        spec: Record of the classifier, with the temperatures to use.
        clip: Frames, size and spatial views.
        one_pass: Whether each frame runs through the backbone once.
    """

    def __init__(
        self, scorer: Scorer, spec: ModelSpec, clip: ClipConfig, *, one_pass: bool
    ) -> None:
        self._spec = spec
        self._recent: RecentFrames = (
            scorer.keep_summaries(clip) if one_pass else _RecentClip(scorer, clip)
        )

    def push(self, frames: Sequence[UInt8[ndarray, "h w 3"]]) -> None:
        """Add the next frames, upright RGB with a short side of `clip.size` pixels.

        Raises:
            MemoryShortError: If the frames do not fit in memory.
        """
        self._recent.push(frames)

    def scores(self, seconds: float) -> LiveScores:
        """Return the scores of the last frames: as many as a clip has, or all so far.

        Args:
            seconds: Time of the newest frame.

        Raises:
            MemoryShortError: If the clip does not fit in memory.
        """
        spec = self._spec
        ranking = rank(calibrate(self._recent.scores(), spec.task, spec.temperatures), spec)
        return LiveScores(
            seconds=seconds,
            scores=ranking.scores,
            predicted=ranking.predicted,
            heads=ranking.heads,
        )


def start_scorer(
    scorer: Scorer,
    spec: ModelSpec,
    clip: ClipConfig,
    *,
    window: float | None,
    one_pass: bool,
) -> tuple[StreamScorer, float]:
    """Return the state of a new stream, and the seconds between two frames to look at.

    Args:
        scorer: Runs the classifier.
        spec: Record of the classifier, with the temperatures to use.
        clip: Frames, size and spatial views.
        window: How many seconds back a result looks; None for the median length of the training
            clips.
        one_pass: Whether each frame runs through the backbone once.

    Raises:
        ArgumentError: If the window is invalid, or none is given and the classifier does not
            record how long its training clips were. Also if the scorer needs whole clips.
    """
    seconds = window_seconds(window, clip, spec)
    return StreamScorer(scorer, spec, clip, one_pass=one_pass), seconds / clip.frames


def check_seconds(name: str, seconds: float | None) -> None:
    """Check a setting that is a time, if it is given.

    Raises:
        ArgumentError: If it is not above 0 and finite.
    """
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ArgumentError(f"{setting(name)} must be a number of seconds above 0, not {seconds:g}")


def score_stream(
    scorer: StreamScorer,
    frames_with_times: Iterable[tuple[Any, float]],
    clip: ClipConfig,
    *,
    interval_seconds: float,
    step_seconds: float,
    bgr: bool = False,
) -> Iterator[LiveScores]:
    """Score frames as they come.

    Each frame that is looked at is passed on at once, so that a long step costs as little memory as
    a short one.

    Args:
        scorer: Holds the state of the stream.
        frames_with_times: Pairs of a frame and its time in seconds, in order. A frame is an array
            or tensor [h, w, 3], a PIL image, or a frame of PyAV.
        clip: Size of the frames.
        interval_seconds: Time between two frames that are looked at; the others are left out.
        step_seconds: Time from one result to the next.
        bgr: Colours of arrays are in the order blue, green, red.

    Yields:
        Scores, the first for the first frame, of which a clip is made by itself.
    """
    to_rgb = FrameScaler(clip.size)
    sampler, step = FrameSampler(interval_seconds), FrameSampler(step_seconds)
    is_new = False
    for item in frames_with_times:
        try:
            frame, seconds = item
        except (TypeError, ValueError):
            raise ArgumentError(
                "stream takes pairs of a frame and its time in seconds, not "
                f"{type(item).__name__!r} objects"
            ) from None
        if sampler.takes(float(seconds)):
            scorer.push([to_rgb(checked) for checked in check_frames([frame], bgr=bgr)])
            is_new = True
        if is_new and step.takes(float(seconds)):
            is_new = False
            yield scorer.scores(float(seconds))
