"""The clips that a run trains on, batch by batch."""

from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
from torch.utils.data import DataLoader

from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.augment import TrainTransform
from st_adapter.data.class_pairs import mirrored_classes, reversed_classes
from st_adapter.data.dataset import EpochSampler, TrainBatch, TrainDataset, collate_train
from st_adapter.errors import DataError
from st_adapter.interrupt import ignore_interrupt
from st_adapter.run import Run


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
    """The batches of any epoch, from any step on, in an order that the seed decides."""

    def __init__(self, run: Run) -> None:
        config, videos = run.config, run.data.train
        self._sampler = EpochSampler(
            num_videos=len(videos),
            step_videos=config.step_clips // config.repeats,
            batch_videos=config.batch_size // config.repeats,
            seed=config.seed,
            process=run.accelerator.process_index,
            num_processes=run.accelerator.num_processes,
        )
        self._loader: DataLoader[TrainBatch | DataError] = DataLoader(
            TrainDataset(  # type: ignore[arg-type]
                videos,
                config.clip,
                train_transform(config),
                config.seed,
                repeats=config.repeats,
                mirror=run.mirror,
                reversal=run.reversal,
                reader=run.reader,
            ),
            batch_sampler=self._sampler,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            collate_fn=partial(collate_train, len(run.data.labels)),
            pin_memory=run.model.device.type == "cuda" and run.reader.device == "cpu",
            worker_init_fn=ignore_interrupt,
            generator=torch.Generator(),  # the global one belongs to dropout, and to resuming
        )

    def steps(self, epoch: int, first_step: int) -> Iterator[list[TrainBatch | DataError]]:
        """What this process has of each step from `first_step` on: batches, or why it has none."""
        self._sampler.epoch, self._sampler.first_step = epoch, first_step
        loaded = iter(self._loader)
        for batches in self._sampler.steps():
            yield list(islice(loaded, len(batches)))
