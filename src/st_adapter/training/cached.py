"""Training batches and validation of a run with a prefix cache: what is kept is not decoded."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from st_adapter.config import ClipConfig
from st_adapter.data.batches import EpochSampler, TrainBatch
from st_adapter.data.datasets import Skipped, TrainItem, ViewDataset, Views, draw_of, load_views
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import DataError
from st_adapter.evaluation.score import (
    Order,
    Scored,
    evaluation_mode,
    score_views,
    videos_per_batch,
)
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.micro_batches import clips_at_once
from st_adapter.training.batches import Batches
from st_adapter.training.prefix_cache import VALIDATION, Key, PrefixCache
from st_adapter.training.run import Run


class CachedBatches(Batches):
    """Batches of what the frozen blocks made of the clips, now or in an earlier epoch."""

    def __init__(self, run: Run, cache: PrefixCache) -> None:
        super().__init__(run)
        self._cache = cache
        self._known: set[tuple[int, int]] = set()

    def _collate_loaded(self) -> Callable[[list[TrainItem]], Any]:
        return list

    def _load(self) -> Iterator[list[TrainBatch | DataError]]:
        keys = (key for step in self._sampler.steps() for batch in step for key in batch)
        self._known.clear()
        self._known.update(key for key in keys if self._kept_as(key) in self._cache)
        loaded = self._loader.batches(_ToLoad(self._sampler, self._known))
        for batches in self._sampler.steps():
            yield [self._assemble(keys, loaded) for keys in batches]

    def _kept_as(self, key: tuple[int, int]) -> Key:
        epoch, index = key
        return f"draw {draw_of(epoch, self._run.config.draws)}", index

    def _assemble(
        self, keys: list[tuple[int, int]], loaded: Iterator[list[TrainItem]]
    ) -> TrainBatch | DataError:
        new = iter(() if self._known.issuperset(keys) else next(loaded))
        return self._collate([self._item(key, new) for key in keys])

    def _item(self, key: tuple[int, int], new: Iterator[TrainItem]) -> TrainItem:
        kept_as = self._kept_as(key)
        if key not in self._known:
            return self._cache.add(kept_as, next(new))
        # A file that can no longer be read is made anew.
        return self._cache.get(kept_as) or self._cache.add(kept_as, self._dataset[key])


class _ToLoad:
    """The batches of an epoch without the keys that are known already."""

    def __init__(self, sampler: EpochSampler, known: set[tuple[int, int]]) -> None:
        self._sampler, self._known = sampler, known

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._sampler:
            if unknown := [key for key in batch if key not in self._known]:
                yield unknown


class CachedScores:
    """`score_videos` of the validation part of a run, from its prefix cache."""

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache

    def __call__(
        self,
        model: VideoClassifier,
        videos: Sequence[Video],
        clip: ClipConfig,
        *,
        batch_size: int,
        workers: int,
        orders: Sequence[Order],
        reader: Reader,
        share: Sequence[int],
    ) -> Scored:
        """Score the videos with these indices, on the views that `clip` says."""
        at_once = min(batch_size, clips_at_once(model.device, clip.frames, clip.size))
        views = self._views(
            videos, clip, videos_per_batch(clip, batch_size), workers, reader, share
        )
        with evaluation_mode(self._cache.rest):
            yield from score_views(
                self._cache.rest, views, videos, orders, model.spec.task, at_once
            )

    def _views(
        self,
        videos: Sequence[Video],
        clip: ClipConfig,
        batch_videos: int,
        workers: int,
        reader: Reader,
        share: Sequence[int],
    ) -> Iterator[list[Views]]:
        """As `load_views`, with what the frozen blocks made of each view, now or before."""
        cache = self._cache
        new = [i for i in share if (VALIDATION, i) not in cache]
        known = {*share} - {*new}
        dataset = ViewDataset(videos, clip, reader)
        loaded = chain.from_iterable(load_views(videos, clip, batch_videos, workers, reader, new))

        def views_of(index: int) -> Views:
            key = VALIDATION, index
            item = cache.get(key) if index in known else None
            if item is None:
                views = dataset[index] if index in known else next(loaded)
                item = cache.add(key, _as_item(views))
            return _as_views(index, item)

        for first in range(0, len(share), batch_videos):
            yield [views_of(i) for i in share[first : first + batch_videos]]


def _as_item(views: Views) -> TrainItem:
    if views.clips is None:
        skipped = (Skipped(path="", reason=views.reason),)
        return TrainItem(index=views.index, clips=(), targets=(), skipped=skipped)
    clips = tuple(views.clips)
    return TrainItem(index=views.index, clips=clips, targets=((),) * len(clips), skipped=())


def _as_views(index: int, item: TrainItem) -> Views:
    if item.skipped:
        return Views(index=index, clips=None, reason=item.skipped[0].reason)
    return Views(index=index, clips=torch.stack(item.clips), clip_of=list(range(len(item.clips))))
