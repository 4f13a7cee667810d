"""Scores of a classifier in an exported file, for a Predictor. Needs no torch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from st_adapter.config import ClipConfig
from st_adapter.data.reading import read_views
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video
from st_adapter.errors import ArgumentError, VideoError
from st_adapter.evaluation.scorer import RecentFrames
from st_adapter.evaluation.windows import Advance, Part, Windows
from st_adapter.model.exported import ExportedModel, open_exported
from st_adapter.wording import COMMAND, setting, switch

_A = TypeVar("_A")
_B = TypeVar("_B")


class ExportedScorer:
    """Runs an exported classifier on the CPU. `Scorer` describes the methods.

    Args:
        model: The classifier.
        batch_size: Maximum number of clips that are scored together.
    """

    def __init__(self, model: ExportedModel, batch_size: int) -> None:
        self.model, self.spec, self.batch_size = model, model.spec, batch_size

    @property
    def device(self) -> str:
        """The CPU."""
        return "cpu"

    def score_videos(
        self, videos: Sequence[Video], clip: ClipConfig, workers: int, reader: Reader
    ) -> Iterator[tuple[int, Float[ndarray, "1 classes"] | Skipped]]:
        """Yield the index of each video with its scores, averaged over its views.

        Args:
            videos: The videos.
            clip: How clips are cut, and how many views there are.
            workers: Number of threads that decode ahead; 0 decodes in this one. PyAV decodes
                without holding Python's lock, so that processes are not needed.
            reader: Decodes the videos.
        """

        def read(video: Video) -> tuple[UInt8[ndarray, "d t h w 3"], list[int]] | Skipped:
            try:
                return read_views(video, clip, reader)
            except VideoError as error:
                return Skipped(path=str(video.path), reason=str(error))

        for index, views in enumerate(_map_ahead(read, videos, workers)):
            if isinstance(views, Skipped):
                yield index, views
            else:
                clips, clip_of = views
                starts = range(0, len(clips), self.batch_size)
                parts = [self.score_clips(clips[i : i + self.batch_size]) for i in starts]
                yield index, np.concatenate(parts)[clip_of].mean(0, keepdims=True)

    def score_clips(self, clips: UInt8[Any, "n t h w 3"]) -> Float[ndarray, "n classes"]:
        """Score clips together."""
        return self.model.scores(np.moveaxis(clips, -1, -3))

    def score_in_one_pass(
        self, info: VideoInfo, clip: ClipConfig, part: Part, reader: Reader, advance: Advance
    ) -> Windows:
        """Raise ArgumentError, because the file computes whole clips only."""
        raise ArgumentError(f"{self._whole_clips_only()}; leave out {switch('one-pass')}")

    def keep_summaries(self, clip: ClipConfig) -> RecentFrames:
        """Raise ArgumentError, because the file computes whole clips only."""
        flag = switch("whole-clips") if COMMAND.get() else switch("one-pass", on=False)
        raise ArgumentError(f"{self._whole_clips_only()}; use {flag}")

    def _whole_clips_only(self) -> str:
        return f"{self.model.path} is an exported file, which computes whole clips only"


def _map_ahead(function: Callable[[_A], _B], items: Iterable[_A], workers: int) -> Iterator[_B]:
    """Apply a function in order, by threads that are at most two results each ahead."""
    if not workers:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[_B]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def make_scorer(
    file: Path, changes: Mapping[str, Any], *, batch_size: int, **options: Any
) -> tuple[ExportedScorer, ClipConfig]:
    """Open an exported file.

    Args:
        file: The file.
        changes: Settings of clips that differ from those in training.
        batch_size: Maximum number of clips that are scored together.
        **options: Arguments of `Predictor` that do not apply to exported files, which may have only
            the values that change nothing.

    Returns:
        What runs the classifier, and how clips are cut.

    Raises:
        CheckpointError: If the file cannot be read.
        ArgumentError: If an argument does not apply, or the size is not that of the file.
    """
    neutral = {
        "weights": (None,),
        "device": ("auto", "cpu"),
        "precision": (None, "auto", "float32"),
        "compile": (False,),
    }
    for name, value in options.items():
        if value not in neutral[name]:
            flag = switch(name) if value is True else setting(name, value)
            raise ArgumentError(f"{flag} does not apply to {file}, an exported file; leave it out")
    model = open_exported(file)
    clip = replace(model.spec.clip, **changes)
    if model.fixed_size not in (None, clip.size):
        raise ArgumentError(
            f"{file} was exported for frames of {model.fixed_size} px; leave out {setting('size')}"
        )
    return ExportedScorer(model, batch_size), clip
