"""The answers to requests whose upload has arrived."""

import base64
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from st_adapter.config import ClipConfig
from st_adapter.data import frame_sampling
from st_adapter.data.video.decode import TruncatedError
from st_adapter.errors import ArgumentError, MemoryShortError, VideoError
from st_adapter.evaluation.predict import Prediction, make_prediction
from st_adapter.evaluation.timeline import TimelineOptions, make_timeline
from st_adapter.serving.answers import PredictForm, TimelineForm
from st_adapter.serving.deadlines import Deadline
from st_adapter.serving.decoding import DecoderPool, OpenVideo
from st_adapter.serving.metrics import Metrics
from st_adapter.serving.model_thread import Views
from st_adapter.serving.refusals import Refusal
from st_adapter.serving.tasks import Task, Tasks

_SHORT_SIDE = 120
"""Shorter side in pixels of the pictures that show which frames were looked at."""

_MOST_SCORES = 2_000_000
"""Largest number of scores in a timeline, windows times labels: about 20 MB of JSON."""

_WINDOWS_PER_LENGTH = 4
"""Windows that start within the length of one, unless a request says otherwise."""


class Service:
    """Answers one request per call, in the thread of the caller.

    Args:
        tasks: The classifiers.
        decoders: Decode the videos.
        metrics: Record how long that takes.
    """

    def __init__(self, tasks: Tasks, decoders: DecoderPool, metrics: Metrics) -> None:
        self._tasks, self._decoders, self._metrics = tasks, decoders, metrics

    def predict(self, path: Path, form: PredictForm, deadline: Deadline) -> dict[str, Any]:
        """Classify a video.

        Args:
            path: The video.
            form: What was asked.
            deadline: When the answer is due.

        Raises:
            Refusal: It cannot be answered.
        """
        tasks = self._tasks.choose(form.task)
        with _refusals(path):
            with self._decoders.open(path, deadline) as video:
                started = time.monotonic()
                clips = dict.fromkeys(task.predictor.clip for task in tasks)
                views = {clip: Views(*video.views(clip)) for clip in clips}
                frames = _pictures(video, tasks[0].predictor.clip) if form.frames else []
                self._metrics.decoded(time.monotonic() - started)
            predictions = _score(tasks, views, path, deadline)
        results = {name: _scores(result, form.top) for name, result in predictions.items()}
        return {"video": _describe(video), "results": results, "frames": frames}

    def timeline(self, path: Path, form: TimelineForm, deadline: Deadline) -> dict[str, Any]:
        """Find out what happens when in a video.

        Args:
            path: The video.
            form: What was asked.
            deadline: When the answer is due.

        Raises:
            Refusal: It cannot be answered.
        """
        options = TimelineOptions(
            window_seconds=form.window,
            step_seconds=form.step,
            smooth_seconds=form.smooth,
            min_seconds=form.min_seconds,
            background=form.background,
        )
        results = {}
        tasks = self._tasks.choose(form.task)
        with _refusals(path), self._decoders.open(path, deadline) as video:
            for task in tasks:
                _check_size(video, task, form)
                results[task.name] = _timeline(video, task, options, deadline)
        return {"video": _describe(video), "results": results}


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn the errors of a video into answers, which do not say where it was kept."""
    try:
        yield
    except (VideoError, ArgumentError) as error:
        text = str(error).removeprefix(f"{path}: ").replace(str(path), "the video")
        raise Refusal(422, " ".join(text.split())) from error
    except MemoryShortError as error:
        raise Refusal(503, "the server is short of memory; try again", retry_seconds=5) from error


def _score(
    tasks: list[Task], views: dict[ClipConfig, Views], path: Path, deadline: Deadline
) -> dict[str, Prediction]:
    """Let the threads of the models score a video with all tasks, and wait for them."""
    waiting = [task.thread.score(task.predictor, views[task.predictor.clip]) for task in tasks]
    try:
        return {
            task.name: make_prediction(path, future.result(deadline.left()), task.predictor.spec)
            for task, future in zip(tasks, waiting, strict=True)
        }
    except FutureTimeoutError:
        raise deadline.refusal() from None
    finally:
        for future in waiting:
            future.cancel()


def _scores(result: Prediction, top: int) -> dict[str, Any]:
    def records(pairs: list[tuple[str, float]]) -> list[dict[str, Any]]:
        return [{"label": label, "score": round(score, 6)} for label, score in pairs[:top]]

    return {
        "predicted": result.predicted,
        "scores": records(result.scores),
        "heads": {name: records(pairs) for name, pairs in result.heads.items()},
    }


def _describe(video: OpenVideo) -> dict[str, Any]:
    info = video.info
    size = (info.width, info.height) if info.rotation % 180 == 0 else (info.height, info.width)
    return {
        "seconds": round(video.seconds, 3),
        "width": size[0],
        "height": size[1],
        "num_frames": info.num_frames,
    }


def _check_size(video: OpenVideo, task: Task, form: TimelineForm) -> None:
    """Raise Refusal if the timeline of a video would be too large to send."""
    window = form.window or task.window_seconds or video.seconds
    step = form.step or min(window, video.seconds) / _WINDOWS_PER_LENGTH
    windows = video.seconds / step
    if windows * len(task.predictor.spec.labels) > _MOST_SCORES:
        raise Refusal(422, f"{windows:,.0f} windows are too many; use a longer step")


def _timeline(
    video: OpenVideo, task: Task, options: TimelineOptions, deadline: Deadline
) -> dict[str, Any]:
    record = make_timeline(
        task.predictor.scorer,
        task.predictor.spec,
        video.info.path,
        task.predictor.clip,
        options,
        reader=video.reader(),
        advance=lambda seconds: deadline.check(),
    ).to_json()
    return {key: record[key] for key in ("labels", "windows", "spans")}


def _pictures(video: OpenVideo, clip: ClipConfig) -> list[dict[str, Any]]:
    """Return the frames that a classifier looks at as small pictures."""
    count, times = video.info.num_frames, video.info.start_seconds
    found: list[dict[str, Any]] = []
    for _ in range(2):
        numbers = _chosen(count, clip)
        try:
            found = []
            for number, frame in video.frames(numbers, _SHORT_SIDE):
                seconds = round(float(times[number]), 3)
                found.append({"seconds": seconds, "image": _data_uri(frame)})
            break
        except TruncatedError as error:  # as `read_views`, choose among those that it has
            count = min(count, error.num_decoded)
            if not count:
                break
    return found


def _chosen(num_frames: int, clip: ClipConfig) -> list[int]:
    """Return the frames of all temporal views, ascending."""
    count = clip.views[0]
    views = (
        frame_sampling.choose(num_frames, clip.frames, clip.stride, view=view, num_views=count)
        for view in range(count)
    )
    return sorted({number for view in views for number in view})


def _data_uri(frame: UInt8[ndarray, "h w 3"]) -> str:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
