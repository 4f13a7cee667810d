"""Training batches: which videos each one contains, and how their clips are stacked."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from st_adapter.data.datasets import TrainItem
from st_adapter.data.videos import Skipped
from st_adapter.errors import DataError


@dataclass(kw_only=True)
class EpochSampler:
    """Divide an epoch among processes and into batches.

    The order depends on the seed and the epoch alone. An epoch is cut into steps, a step into one
    part per process, and a part into batches, so a step has the same videos with any number of
    processes.

    Attributes:
        num_videos: Videos in an epoch.
        step_videos: Videos in a step, over all processes; the last step may have fewer.
        batch_videos: Maximum number of videos in a batch.
        seed: Seed of the order.
        process: Number of this process, from 0.
        num_processes: Number of processes.
        epoch: The epoch to iterate.
        first_step: Number of the step to start with, when a run is resumed.
    """

    num_videos: int
    step_videos: int
    batch_videos: int
    seed: int
    process: int = 0
    num_processes: int = 1
    epoch: int = 0
    first_step: int = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (batch for step in self.steps() for batch in step)

    def steps(self) -> Iterator[list[list[tuple[int, int]]]]:
        """Yield the batches of each step, as lists of keys (epoch, index).

        A step with fewer videos than processes has no batches in some of them.
        """
        order = list(range(self.num_videos))
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for first in range(self.first_step * self.step_videos, len(order), self.step_videos):
            step = order[first : first + self.step_videos]
            bounds = [len(step) * (self.process + i) // self.num_processes for i in (0, 1)]
            keys = [(self.epoch, index) for index in step[slice(*bounds)]]
            yield [keys[i : i + self.batch_videos] for i in range(0, len(keys), self.batch_videos)]


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """Clips of a batch and their targets.

    Attributes:
        clips: Clips, or their features from frozen blocks.
        targets: 1 for each class of a clip, otherwise 0.
        videos: Indices of the videos that the clips show.
        skipped: Videos that could not be read and were replaced.
    """

    clips: Shaped[Tensor, "b t ..."]
    targets: Float[Tensor, "b classes"]
    videos: tuple[int, ...]
    skipped: tuple[Skipped, ...]


def collate_train(num_classes: int, items: list[TrainItem]) -> TrainBatch | DataError:
    """Stack the clips of several items into a batch.

    Clips are ordered so that those of one video are apart: mixup blends neighbours, and should
    blend different videos.

    Args:
        num_classes: Number of classes.
        items: Items of `TrainDataset`.

    Returns:
        The batch, or an error if no video could be read. The error is returned so that the main
        process raises it; raised in a worker, it would come with that worker's traceback.
    """
    columns = zip_longest(*(zip(item.clips, item.targets, strict=True) for item in items))
    shown = [clip for column in columns for clip in column if clip is not None]
    skipped = tuple(skip for item in items for skip in item.skipped)
    if not shown:
        return DataError(f"no training video could be read; last error: {skipped[-1].reason}")
    targets = torch.zeros(len(shown), num_classes)
    for row, (_, classes) in zip(targets, shown, strict=True):
        row[list(classes)] = 1
    return TrainBatch(
        clips=torch.stack([clip for clip, _ in shown]),
        targets=targets,
        videos=tuple(item.index for item in items if item.clips),
        skipped=skipped,
    )
