"""Training batches: which videos are in each, stacked to tensors."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from st_adapter.data.datasets import Skipped, TrainItem
from st_adapter.errors import DataError


@dataclass(kw_only=True)
class EpochSampler:
    """The batches of one of several processes, in an order that seed and epoch alone decide.

    An epoch is cut into steps, a step into one share per process, a share into batches. A step
    therefore has the same videos with any number of processes.

    Attributes:
        step_videos: videos in a step of all processes; the last step may have fewer.
        batch_videos: most videos in a batch, a list of keys (epoch, index).
        process: number of this process, from 0, of `num_processes`.
        epoch, first_step: where to begin.
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
        """Yield the batches of each step; none if it has fewer videos than processes."""
        order = list(range(self.num_videos))
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for first in range(self.first_step * self.step_videos, len(order), self.step_videos):
            step = order[first : first + self.step_videos]
            bounds = [len(step) * (self.process + i) // self.num_processes for i in (0, 1)]
            keys = [(self.epoch, index) for index in step[slice(*bounds)]]
            yield [keys[i : i + self.batch_videos] for i in range(0, len(keys), self.batch_videos)]


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """Clips, or their features from frozen blocks, with targets that are 1 for each class shown.

    Attributes:
        videos: indices of those shown.
        skipped: files that other videos replaced.
    """

    clips: Shaped[Tensor, "b t ..."]
    targets: Float[Tensor, "b classes"]
    videos: tuple[int, ...]
    skipped: tuple[Skipped, ...]


def collate_train(num_classes: int, items: list[TrainItem]) -> TrainBatch | DataError:
    """Stack clips to one batch; an error where no video could be read.

    Clips of one video stand apart, so that mixup, which blends neighbours, pairs different videos.
    The error is returned, for the main process to raise it without a worker's traceback.
    """
    columns = zip_longest(*(zip(item.clips, item.targets, strict=True) for item in items))
    shown = [clip for column in columns for clip in column if clip is not None]
    skipped = tuple(skip for item in items for skip in item.skipped)
    if not shown:
        return DataError(f"no training video could be read; the last: {skipped[-1].reason}")
    targets = torch.zeros(len(shown), num_classes)
    for row, (_, classes) in zip(targets, shown, strict=True):
        row[list(classes)] = 1
    return TrainBatch(
        clips=torch.stack([clip for clip, _ in shown]),
        targets=targets,
        videos=tuple(item.index for item in items if item.clips),
        skipped=skipped,
    )
