"""Live scores: the frames of a camera or stream are scored as they come."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.frame_stream import FrameStream, classify_clips
from st_adapter.model.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class LiveScores:
    """The scores of the last frames of a stream.

    Attributes:
        seconds: Time of the newest frame, as it was passed.
        ranked: Pairs of label and score, best first, as `Prediction.scores`.
        predicted: The predicted label, or a list of labels, as `Prediction.predicted`.
        heads: The pairs of each head, as `Prediction.heads`.
    """

    seconds: float
    ranked: list[tuple[str, float]]
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

    @torch.inference_mode()
    def push(self, frames: Sequence[UInt8[Tensor, "h w 3"]]) -> None:
        """Add the next frames, upright RGB with a short side of `clip.size` pixels."""
        if self._stream is None:
            frames = frames[-self._clip.frames :]
        clip = torch.stack([*frames]).permute(0, 3, 1, 2)
        views = torch.stack(spatial_views(clip, self._clip.size, self._clip.views[1]))
        views = views.contiguous().to(self._model.device)
        if self._stream is not None:
            views = self._stream.push(views)
        self._recent.extend(views.unbind(1))

    @torch.inference_mode()
    def scores(self, seconds: float) -> LiveScores:
        """Return the scores of the last frames: as many as a clip has, or all so far.

        Args:
            seconds: Time of the newest frame.
        """
        recent = torch.stack([*self._recent], 1)
        logits = (
            self._model(recent) if self._stream is None else classify_clips(self._model, recent)
        )
        task = self._spec.task
        averaged = probabilities(logits, task).mean(0, keepdim=True).cpu()
        ranking = rank(calibrate(averaged, task, self._spec.temperatures), self._spec)
        return LiveScores(
            seconds=seconds,
            ranked=ranking.scores,
            predicted=ranking.predicted,
            heads=ranking.heads,
        )


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
    new: list[Tensor] = []
    for item in frames_with_times:
        try:
            frame, seconds = item
        except (TypeError, ValueError):
            raise ArgumentError(
                "stream takes pairs of a frame and its time in seconds, not "
                f"{type(item).__name__!r} objects"
            ) from None
        if sampler.takes(float(seconds)):
            new += [to_rgb(checked) for checked in check_frames([frame], bgr=bgr)]
        if new and step.takes(float(seconds)):
            scorer.push(new)
            new = []
            yield scorer.scores(float(seconds))
