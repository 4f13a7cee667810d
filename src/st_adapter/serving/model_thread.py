"""A thread that scores what waits for one image model."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from st_adapter.common.interrupt import NATIVE_THREAD
from st_adapter.evaluation.predict import Predictor
from st_adapter.runtime.micro_batches import clips_at_once

Scores = Float[ndarray, "1 classes"]


class Views(NamedTuple):
    """The test views of a video.

    Attributes:
        clips: The distinct ones.
        clip_of: Index into `clips` of each view.
    """

    clips: UInt8[ndarray, "d t h w 3"]
    clip_of: list[int]


@dataclass(frozen=True, eq=False)
class _Item:
    predictor: Predictor
    views: Views
    scores: "Future[Scores]"


class ModelThread:
    """Scores clips of all classifiers on one image model, one batch after the other.

    A batch is what has come for one classifier while the batch before it was computed. So requests
    that come together share a batch, and one that comes alone never waits for others.

    Args:
        observe: Told the number of videos of each batch and the seconds that it took.
    """

    def __init__(self, observe: Callable[[int, float], None]) -> None:
        self._observe = observe
        self._waiting: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._running = self._closed = False

    def score(self, predictor: Predictor, views: Views) -> "Future[Scores]":
        """Score the views of a video.

        Args:
            predictor: The classifier.
            views: Its views of the video.

        Returns:
            A future of the scores [1, classes] on the CPU, before calibration.
        """
        item = _Item(predictor, views, Future())
        with self._changed:
            self._waiting.append(item)
            self._changed.notify()
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name=NATIVE_THREAD, daemon=True).start()
        return item.scores

    def close(self) -> None:
        """End the thread when nothing waits. Requests that still come start it again."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            batch = [item for item in batch if item.scores.set_running_or_notify_cancel()]
            if not batch:
                continue
            started = time.monotonic()
            try:
                results = _compute(batch[0].predictor, [item.views for item in batch])
            except Exception as error:  # the thread goes on: the error belongs to these requests
                for item in batch:
                    item.scores.set_exception(error)
                continue
            for item, scores in zip(batch, results, strict=True):
                item.scores.set_result(scores)
            self._observe(len(batch), time.monotonic() - started)

    def _next_batch(self) -> list[_Item]:
        """Wait for an item and take others of its classifier, up to the size of a batch."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                self._running = False
                return []
            batch = [self._waiting.popleft()]
            predictor, count = batch[0].predictor, len(batch[0].views.clips)
            for item in [*self._waiting]:
                total = count + len(item.views.clips)
                if item.predictor is predictor and total <= predictor.batch_size:
                    self._waiting.remove(item)
                    batch.append(item)
                    count = total
            return batch


def _compute(predictor: Predictor, batch: Sequence[Views]) -> list[Scores]:
    """Score the clips of a batch together, and average over the views of each video."""
    scorer, clip = predictor.scorer, predictor.clip
    clips = np.concatenate([views.clips for views in batch])
    at_once = clips_at_once(scorer.device, clip.frames, clip.size)
    parts = [scorer.score_clips(clips[i : i + at_once]) for i in range(0, len(clips), at_once)]
    ends = np.cumsum([len(views.clips) for views in batch])
    of_videos = np.split(np.concatenate(parts), ends[:-1])
    return [
        scores[views.clip_of].mean(0, keepdims=True)
        for scores, views in zip(of_videos, batch, strict=True)
    ]
