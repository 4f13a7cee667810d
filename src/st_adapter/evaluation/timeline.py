"""Long videos: the scores of windows over time, and the spans that they add up to."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from st_adapter.common.remarks import note
from st_adapter.config import ClipConfig
from st_adapter.data.timing import frame_rate
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.reader import Reader
from st_adapter.errors import ArgumentError, VideoError
from st_adapter.evaluation.calibration import calibrate
from st_adapter.evaluation.decisions import check_threshold, has_threshold, predicted_classes
from st_adapter.evaluation.scorer import Scorer
from st_adapter.evaluation.spans import Span, absorb_short, close_gaps, runs_of_labels, smooth
from st_adapter.evaluation.windows import (
    Advance,
    Part,
    Windows,
    frames_shown,
    score_windows,
)
from st_adapter.model.spec import ModelSpec
from st_adapter.wording import setting

_SHORTEST_SECONDS = 0.001
"""Shortest window and step; times are written to a thousandth of a second."""

_STEPS_PER_WINDOW = 4
"""By default, a new window starts after this fraction of its length."""


@dataclass(frozen=True, kw_only=True)
class TimelineOptions:
    """How a long video is cut into windows, and how their scores become spans.

    Attributes:
        window_seconds: Length of a window; None for the median length of training clips.
        step_seconds: Time from the start of one window to the next; None for a quarter of a window,
            or for one sampled frame in one pass.
        one_pass: Run each sampled frame through the backbone once.
        smooth_seconds: Average the scores of windows over this much time, 0 or more.
        min_seconds: Shortest span, 0 or more.
        threshold: Lowest score at which a span gets a label; None for the classifier's own rule.
        background: Label that stands for nothing of interest, of which no spans are reported.
        start_seconds: Start of the part to look at; None for the start of the video.
        end_seconds: End of that part; None for the end of the video.
    """

    window_seconds: float | None = None
    step_seconds: float | None = None
    one_pass: bool = False
    smooth_seconds: float = 0.0
    min_seconds: float = 0.0
    threshold: float | None = None
    background: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """What happens when in a video.

    Examples:
        >>> for span in predictor.timeline("match.mp4").spans:  # doctest: +SKIP
        ...     print(f"{span.start_seconds:.1f} to {span.end_seconds:.1f} s: {span.label}")
        0.0 to 12.5 s: Serve
        12.5 to 31.0 s: Rally

    Attributes:
        path: The video, as passed to the predictor.
        labels: The classes.
        duration_seconds: Length of the video.
        frames_per_second: Average frame rate of the video.
        window_seconds: Length of a window.
        step_seconds: Time from the start of one window to the next.
        one_pass: Whether each frame passed the backbone once.
        window_starts: Start of each window in seconds.
        window_ends: End of each window in seconds, exclusive.
        scores: Scores of each window for each class, in 0..1, before smoothing, calibrated if
            training did so.
        spans: Stretches with one label, by start. They overlap if a video can have several labels.
    """

    path: Path
    labels: tuple[str, ...]
    duration_seconds: float
    frames_per_second: float
    window_seconds: float
    step_seconds: float
    one_pass: bool
    window_starts: Float[ndarray, " w"]
    window_ends: Float[ndarray, " w"]
    scores: Float[ndarray, "w c"]
    spans: list[Span]

    def to_json(self) -> dict[str, Any]:
        """Return the record that `--out FILE.json` contains."""
        rows = zip(self.window_starts.tolist(), self.window_ends.tolist(), self.scores, strict=True)
        return {
            "format_version": 1,
            "path": str(self.path),
            "duration_seconds": self.duration_seconds,
            "frames_per_second": self.frames_per_second,
            "window_seconds": self.window_seconds,
            "step_seconds": self.step_seconds,
            "one_pass": self.one_pass,
            "labels": list(self.labels),
            "spans": [asdict(span) for span in self.spans],
            "windows": [
                {
                    "start_seconds": start,
                    "end_seconds": end,
                    "scores": [round(float(score), 6) for score in scores],
                }
                for start, end, scores in rows
            ],
        }


def make_timeline(
    scorer: Scorer,
    spec: ModelSpec,
    path: Path,
    clip: ClipConfig,
    options: TimelineOptions,
    *,
    reader: Reader = Reader(),
    advance: Advance = lambda seconds: None,
) -> Timeline:
    """Score the windows of a video and find spans. The video is decoded once, in order.

    Args:
        scorer: Runs the classifier.
        spec: Record of the classifier, with the temperatures and the threshold to use.
        path: The video.
        clip: How many frames of a window are looked at, in which size and how many views.
        options: Windows and spans.
        reader: Decodes the video.
        advance: Called with the number of seconds of the video are done.

    Raises:
        VideoError: If the video cannot be read.
        ArgumentError: If an option is invalid, or the classifier does not record how long its
            training clips were and no window is given.
        MemoryShortError: If a batch does not fit in memory.
    """
    _check(options, spec)
    info = reader.probe(path)
    part = _divide(info, clip, options, spec)
    if options.one_pass and clip.views[0] > 1:
        note(f"in one pass, a window has one temporal view, not {clip.views[0]}")
    if options.one_pass:
        windows = scorer.score_in_one_pass(info, clip, part, reader, advance)
    else:
        windows = score_windows(
            scorer.score_clips, info, clip, part, reader, scorer.batch_size, advance
        )
    scores = calibrate(windows.scores, spec.task, spec.temperatures)
    return Timeline(
        path=path,
        labels=spec.labels,
        duration_seconds=round(_duration(info), 3),
        frames_per_second=round(frame_rate(info), 3),
        window_seconds=part.window_seconds,
        step_seconds=part.step_seconds,
        one_pass=options.one_pass,
        window_starts=windows.starts,
        window_ends=windows.ends,
        scores=scores,
        spans=_find_spans(Windows(windows.starts, windows.ends, scores), info, part, spec, options),
    )


def _check(options: TimelineOptions, spec: ModelSpec) -> None:
    if options.step_seconds is not None:
        _checked("step", options.step_seconds)
    for name, value in (("smooth", options.smooth_seconds), ("min_seconds", options.min_seconds)):
        if not 0 <= value < math.inf:
            raise ArgumentError(
                f"{setting(name)} must be a time in seconds, 0 or more, not {value:g}"
            )
    if options.threshold is not None:
        check_threshold(options.threshold)
    if options.background is not None and options.background not in spec.labels:
        raise ArgumentError(
            f"the background label {options.background!r} is not one of the classes: "
            f"{', '.join(spec.labels)}"
        )


def _checked(name: str, seconds: float) -> float:
    if not _SHORTEST_SECONDS <= seconds < math.inf:
        raise ArgumentError(
            f"{setting(name)} must be a time of at least {_SHORTEST_SECONDS} seconds, "
            f"not {seconds:g}"
        )
    return seconds


def _duration(info: VideoInfo) -> float:
    """Return the length of a video in seconds, up to the end of its last frame."""
    return float(info.start_seconds[-1]) + 1 / frame_rate(info)


def _divide(info: VideoInfo, clip: ClipConfig, options: TimelineOptions, spec: ModelSpec) -> Part:
    """Decide which part of the video to look at, and how long windows and steps are."""
    start = options.start_seconds or 0.0
    end = _duration(info) if options.end_seconds is None else options.end_seconds
    end = min(end, _duration(info))
    if start < 0:
        raise ArgumentError(f"a part must start at 0 s or later, not at {start:g} s")
    if options.end_seconds is not None and start >= options.end_seconds:
        raise ArgumentError(
            f"a part must end after its start, not at {options.end_seconds:g} s if it starts at "
            f"{start:g} s"
        )
    if start >= end:
        raise VideoError(
            f"{info.path}: nothing to look at from {start:g} s on; the video is "
            f"{_duration(info):.2f} s long"
        )
    window = window_seconds(options.window_seconds, clip, spec)
    if window > end - start:
        note(
            f"{info.path}: a window of {window:g} s is longer than the {end - start:.2f} s to look "
            "at, which are scored as a whole"
        )
        window = end - start
    window = round(window, 3)
    step = options.step_seconds or window / _STEPS_PER_WINDOW
    if options.one_pass:  # windows start at sampled frames
        interval = window / clip.frames
        step = interval * max(1, round((options.step_seconds or 0.0) / interval))
    return Part(round(start, 3), round(end, 3), window, max(_SHORTEST_SECONDS, round(step, 6)))


def window_seconds(given: float | None, clip: ClipConfig, spec: ModelSpec) -> float:
    """Return the length of a window: as given, or so that it looks like a training clip.

    Raises:
        ArgumentError: If the given length is not above 0, or none is given and the classifier does
            not record how long its training clips were.
    """
    if given is not None:
        return _checked("window", given)
    if spec.timing is None:
        raise ArgumentError(
            "this classifier does not record how long its training clips were; say how many "
            f"seconds a window takes, with {setting('window')}"
        )
    same_stride = clip.stride == spec.clip.stride
    if clip.stride and not (same_stride and clip.frames == spec.clip.frames):
        return clip.frames * clip.stride / spec.timing.frames_per_second
    return spec.timing.median_seconds


def _find_spans(
    windows: Windows, info: VideoInfo, part: Part, spec: ModelSpec, options: TimelineOptions
) -> list[Span]:
    """Decide which labels hold in the time around the middle of each window, and join equal ones.

    The time between the middles of two windows is divided between them. The first window also
    stands for the time before its middle, and the last for the time after it.
    """
    middles = (windows.starts + windows.ends) / 2
    edges = np.concatenate(
        [[part.start_seconds], (middles[1:] + middles[:-1]) / 2, [windows.ends[-1]]]
    )
    if windows.ends[-1] + part.step_seconds > part.end_seconds:  # not cut off by damage
        edges[-1] = part.end_seconds
    scores = smooth(windows.scores, round(options.smooth_seconds / part.step_seconds / 2))
    chosen = _choose(scores, spec, options.threshold)
    chosen = _without_short(chosen, np.diff(edges), spec, options.min_seconds)
    spans = []
    for index, first, end in runs_of_labels(chosen, len(spec.labels)):
        if spec.labels[index] == options.background:
            continue
        start_seconds, end_seconds = (round(float(edges[i]), 3) for i in (first, end))
        frames = frames_shown(info, start_seconds, end_seconds)
        spans.append(
            Span(
                start_seconds=start_seconds,
                end_seconds=end_seconds,
                start_frame=frames.start,
                end_frame=frames.stop,
                label=spec.labels[index],
                score=round(float(scores[first:end, index].mean()), 6),
            )
        )
    return spans


def _choose(
    scores: Float[ndarray, "w c"], spec: ModelSpec, threshold: float | None
) -> list[list[int]]:
    """Return the classes of each window: by the classifier's rule, and not below the threshold."""
    if has_threshold(spec.task, len(spec.labels)):
        own = spec.threshold if threshold is None else threshold
        return predicted_classes(scores, spec.task, own)
    best = predicted_classes(scores, spec.task, spec.threshold)
    least = threshold or 0.0
    return [
        [i for i in row if window[i] >= least] for row, window in zip(best, scores, strict=True)
    ]


def _without_short(
    chosen: list[list[int]], seconds: ndarray, spec: ModelSpec, least: float
) -> list[list[int]]:
    """Remove what lasts less than `least` seconds."""
    if not least:
        return chosen
    lasts = seconds.tolist()
    if spec.task.multi_label:
        present = np.array([[i in row for i in range(len(spec.labels))] for row in chosen])
        kept = [close_gaps(column, lasts, least) for column in present.T]
        return [np.flatnonzero(row).tolist() for row in np.stack(kept, axis=1)]
    heads = []
    for _, own in spec.task.slices(len(spec.labels)):
        classes = range(own.start, own.stop)
        of_head = [next((i for i in row if i in classes), -1) for row in chosen]
        heads.append(absorb_short(of_head, lasts, least))
    return [[i for i in row if i >= 0] for row in zip(*heads, strict=True)]
