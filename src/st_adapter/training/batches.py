"""Load the batches that a run trains on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from itertools import islice
from typing import Any

from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.augment.transform import TrainTransform
from st_adapter.data.batches import EpochSampler, TrainBatch, collate_train
from st_adapter.data.class_pairs import mirrored_classes, reversed_classes
from st_adapter.data.datasets import TrainDataset, draw_of
from st_adapter.data.loading import BatchLoader
from st_adapter.data.video.reader import Reader
from st_adapter.errors import DataError
from st_adapter.training.kept.loader import KeptLoader
from st_adapter.training.kept.places import Key
from st_adapter.training.run import Run


def class_maps(config: TrainConfig, data: Annotations) -> tuple[dict[int, int], dict[int, int]]:
    """Map classes to those that their clips show when played backwards, and when mirrored.

    Returns:
        The map for reversed clips, then the map for mirrored ones. Both map indices of classes
        and leave out classes that stay the same.

    Raises:
        ArgumentError: A pair contains a name that is not a class of the data; or class names
            contain left or right, and `config.mirror` does not say what a mirror makes of them.
    """
    mirror = mirrored_classes(config.mirror, data) if config.flip else {}
    return reversed_classes(config.reversal, data), mirror


def train_transform(config: TrainConfig) -> TrainTransform:
    """Make the random transform of training clips that a configuration describes."""
    return TrainTransform(
        **{item.name: getattr(config, item.name) for item in fields(TrainTransform)}
    )


def train_dataset(
    config: TrainConfig,
    data: Annotations,
    reader: Reader,
    mirror: Mapping[int, int],
    reversal: Mapping[int, int],
) -> TrainDataset:
    """Make the data set of random training clips that a configuration describes."""
    return TrainDataset(
        data.train,
        config.clip,
        train_transform(config),
        config.seed,
        repeats=config.repeats,
        draws=config.draws,
        mirror=mirror,
        reversal=reversal,
        reader=reader,
    )


class Batches:
    """Load the batches of a run, from any step of any epoch on, in an order set by the seed."""

    def __init__(self, run: Run) -> None:
        config, videos = run.config, run.data.train
        self._run = run
        self._sampler = EpochSampler(
            num_videos=len(videos),
            step_videos=config.step_clips // config.repeats,
            batch_videos=config.batch_size // config.repeats,
            seed=config.seed,
            process=run.accelerator.process_index,
            num_processes=run.accelerator.num_processes,
        )
        dataset = train_dataset(config, run.data, run.reader, run.mirror, run.reversal)
        make_loader: Callable[..., Any] = BatchLoader
        if run.kept:
            make_loader = partial(KeptLoader, run.kept, self._kept_key)
        self._loader = make_loader(
            dataset,
            partial(collate_train, len(run.data.labels)),
            config.workers,
            persistent=True,
        )

    def _kept_key(self, key: tuple[int, int]) -> Key:
        epoch, index = key
        return Key("train", draw_of(epoch, self._run.config.draws), index)

    def steps(self, epoch: int, first_step: int) -> Iterator[list[TrainBatch | DataError]]:
        """Yield the batches of this process for each step, on its device.

        A batch is a DataError if none of its videos can be read; `take_step` raises it in all
        processes.

        Args:
            epoch: Number of the epoch, from 0.
            first_step: Number of the first step to load within the epoch, from 0.
        """
        self._sampler.epoch, self._sampler.first_step = epoch, first_step
        first = epoch * self._run.steps_per_epoch + first_step
        loaded = self._loader.batches(self._sampler)
        for step, keys in enumerate(self._sampler.steps(), start=first):
            batches = list(islice(loaded, len(keys)))
            yield [self._on_device(batch, step, i) for i, batch in enumerate(batches)]

    def _on_device(
        self, batch: TrainBatch | DataError, step: int, number: int
    ) -> TrainBatch | DataError:
        """Move a batch to the device, and mix its clips if mixup or CutMix is on."""
        if isinstance(batch, DataError):
            return batch
        run = self._run
        clips, targets = batch.clips.to(run.model.device), batch.targets.to(run.model.device)
        if run.mixer is not None:
            # A number for each batch of the run, as the mixer's draw depends on it alone.
            share = step * run.accelerator.num_processes + run.accelerator.process_index
            clips, targets = run.mixer(clips, targets, share * run.config.accumulate + number)
        return replace(batch, clips=clips, targets=targets)
