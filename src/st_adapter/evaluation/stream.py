"""Live scores: the frames of a camera or stream are scored as they come."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.data.augment.transform import spatial_views
from st_adapter.data.frames_in_memory import check_frames
from st_adapter.data.live.sampler import FrameSampler
from st_adapter.data.video.decode import FrameScaler
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.calibration import calibrate
from st_adapter.evaluation.ranking import rank
from st_adapter.evaluation.score import probabilities
from st_adapter.evaluation.timeline import window_seconds
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.frame_stream import FrameStream, classify_clips
from st_adapter.model.spec import ModelSpec
from st_adapter.runtime.memory import clear_out_of_memory
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


class StreamScorer:
    """Keeps what the next scores need of the frames that came before.

    In one pass, each frame runs through the backbone once, when it comes. It then sees the frames
    before it, but not those after it, and a step costs the new frames only. Otherwise, the last
    frames are scored as a clip, exactly as one of a file, at the cost of a whole clip per step.

    Args:
        model: The classifier, in evaluation mode.
        spec: Its record, with the temperatures to use.
        clip: Frames, size and spatial views.
        one_pass: Whether each frame runs through the backbone once.
    """

    def __init__(
        self, model: VideoClassifier, spec: ModelSpec, clip: ClipConfig, *, one_pass: bool
    ) -> None:
        self._model, self._spec, self._clip = model, spec, clip
        self._stream = FrameStream(model) if one_pass else None
        self._recent: deque[Tensor] = deque(maxlen=clip.frames)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        advice = f"lower {setting('frames')} or {setting('size')}"
        with torch.inference_mode(), clear_out_of_memory(self._model.device, advice):
            yield

    def push(self, frames: Sequence[UInt8[Tensor, "h w 3"]]) -> None:
        """Add the next frames, upright RGB with a short side of `clip.size` pixels.

        Raises:
            MemoryShortError: If the frames do not fit in memory.
        """
        if self._stream is None:
            frames = frames[-self._clip.frames :]
        with self._computing():
            clip = torch.stack([*frames]).permute(0, 3, 1, 2)
            views = torch.stack(spatial_views(clip, self._clip.size, self._clip.views[1]))
            views = views.contiguous().to(self._model.device)
            if self._stream is not None:
                views = self._stream.push(views)
            self._recent.extend(views.unbind(1))

    def scores(self, seconds: float) -> LiveScores:
        """Return the scores of the last frames: as many as a clip has, or all so far.

        Args:
            seconds: Time of the newest frame.

        Raises:
            MemoryShortError: If the clip does not fit in memory.
        """
        task = self._spec.task
        with self._computing():
            recent = torch.stack([*self._recent], 1)
            in_one_pass = self._stream is not None
            logits = classify_clips(self._model, recent) if in_one_pass else self._model(recent)
            averaged = probabilities(logits, task).mean(0, keepdim=True).cpu()
        ranking = rank(calibrate(averaged, task, self._spec.temperatures), self._spec)
        return LiveScores(
            seconds=seconds,
            scores=ranking.scores,
            predicted=ranking.predicted,
            heads=ranking.heads,
        )


def start_scorer(
    model: VideoClassifier,
    spec: ModelSpec,
    clip: ClipConfig,
    *,
    window: float | None,
    one_pass: bool,
) -> tuple[StreamScorer, float]:
    """Return the state of a new stream, and the seconds between two frames to look at.

    Args:
        model: The classifier, which is put in evaluation mode.
        spec: Its record, with the temperatures to use.
        clip: Frames, size and spatial views.
        window: How many seconds back a result looks; None for the median length of the training
            clips.
        one_pass: Whether each frame runs through the backbone once.

    Raises:
        ArgumentError: If the window is invalid, or none is given and the classifier does not
            record how long its training clips were.
    """
    seconds = window_seconds(window, clip, spec)
    scorer = StreamScorer(model.eval(), spec, clip, one_pass=one_pass)
    return scorer, seconds / clip.frames


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
