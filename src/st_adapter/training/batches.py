"""The clips that a run trains on, batch by batch."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from st_adapter.common.interrupt import leave_signals_to_main
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.augment.class_pairs import mirrored_classes, reversed_classes
from st_adapter.data.augment.transform import TrainTransform
from st_adapter.data.batches import EpochSampler, TrainBatch, collate_train
from st_adapter.data.datasets import TrainDataset, TrainItem, draw_of
from st_adapter.errors import DataError
from st_adapter.runtime.prefix_cache import Key, PrefixCache
from st_adapter.training.run import Run


def class_maps(config: TrainConfig, data: Annotations) -> tuple[dict[int, int], dict[int, int]]:
    """Class to the class that its clips show backwards, and in a mirror.

    Raises:
        ArgumentError: a pair names no class; or some classes are others' mirror images, and
            nothing says which.
    """
    mirror = mirrored_classes(config.mirror, data) if config.flip else {}
    return reversed_classes(config.reversal, data), mirror


def train_transform(config: TrainConfig) -> TrainTransform:
    """The draws that a configuration trains with."""
    return TrainTransform(
        size=config.size,
        crop=config.crop,
        crop_range=config.crop_range,
        flip=config.flip,
        randaugment=config.randaugment,
        color_jitter=config.color_jitter,
        erasing=config.erasing,
    )


class Batches:
    """The batches of any epoch, from any step on, in an order that the seed decides.

    Clips that come again are taken from the run's prefix cache, where it has one: their videos are
    not even decoded.
    """

    def __init__(self, run: Run) -> None:
        config, videos = run.config, run.data.train
        self._cache = run.prefix_cache
        self._draws = config.draws
        self._known: set[tuple[int, int]] = set()
        self._collate = partial(collate_train, len(run.data.labels))
        self._sampler = EpochSampler(
            num_videos=len(videos),
            step_videos=config.step_clips // config.repeats,
            batch_videos=config.batch_size // config.repeats,
            seed=config.seed,
            process=run.accelerator.process_index,
            num_processes=run.accelerator.num_processes,
        )
        self._dataset = TrainDataset(
            videos,
            config.clip,
            train_transform(config),
            config.seed,
            repeats=config.repeats,
            draws=config.draws,
            mirror=run.mirror,
            reversal=run.reversal,
            reader=run.reader,
        )
        self._loader: DataLoader[Any] = DataLoader(
            self._dataset,
            batch_sampler=_ToLoad(self._sampler, self._known),
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            collate_fn=self._collate if self._cache is None else list,
            pin_memory=run.model.device.type == "cuda" and run.reader.device == "cpu",
            worker_init_fn=leave_signals_to_main,
            generator=torch.Generator(),  # the global one belongs to dropout, and to resuming
        )

    def steps(self, epoch: int, first_step: int) -> Iterator[list[TrainBatch | DataError]]:
        """What this process has of each step from `first_step` on: batches, or why it has none."""
        self._sampler.epoch, self._sampler.first_step = epoch, first_step
        self._known.clear()
        if self._cache is not None:
            keys = (key for step in self._sampler.steps() for batch in step for key in batch)
            self._known.update(key for key in keys if self._kept_as(key) in self._cache)
        loaded = iter(self._loader)
        for batches in self._sampler.steps():
            if self._cache is None:
                yield list(islice(loaded, len(batches)))
            else:
                yield [self._assemble(self._cache, keys, loaded) for keys in batches]

    def _kept_as(self, key: tuple[int, int]) -> Key:
        epoch, index = key
        return f"draw {draw_of(epoch, self._draws)}", index

    def _assemble(
        self, cache: PrefixCache, keys: list[tuple[int, int]], loaded: Iterator[list[TrainItem]]
    ) -> TrainBatch | DataError:
        """A batch of what the frozen blocks made of its clips, now or in an earlier epoch."""
        batch = {self._kept_as(key): key for key in keys}
        known = {kept_as for kept_as, key in batch.items() if key in self._known}
        new = iter(next(loaded) if len(known) < len(batch) else ())
        return self._collate(
            cache.items(list(batch), known, new, lambda kept_as: self._dataset[batch[kept_as]])
        )


class _ToLoad(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch without the keys that are known already."""

    def __init__(self, sampler: EpochSampler, known: set[tuple[int, int]]) -> None:
        self._sampler, self._known = sampler, known

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._sampler:
            if unknown := [key for key in batch if key not in self._known]:
                yield unknown
