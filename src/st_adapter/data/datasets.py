"""Clips of labelled videos for training and for evaluation, with substitutes for broken files."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from st_adapter.common.interrupt import leave_signals_to_main
from st_adapter.config import ClipConfig
from st_adapter.data import frame_sampling
from st_adapter.data.augment.transform import TrainTransform, spatial_views
from st_adapter.data.video.decode import TruncatedError
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import DataError, VideoError

_SUBSTITUTES = 20
"""How many other videos of the class are tried, and then of other classes."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An input that could not be used."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrainItem:
    """Clips of one video, each with its classes, and the files that the video stands in for.

    No clip where all failed. What frozen blocks make of clips may stand in their place.
    """

    path: str
    clips: tuple[Shaped[Tensor, "t ..."], ...]
    targets: tuple[tuple[int, ...], ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """Clips with targets, 1 for each class shown, and the files that others stood in for.

    Attributes:
        paths: of the videos shown.
    """

    clips: Shaped[Tensor, "b t ..."]
    targets: Float[Tensor, "b classes"]
    paths: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    def pin_memory(self) -> "TrainBatch":
        """Called by the loader where the device profits from it."""
        clips, targets = self.clips.pin_memory(), self.targets.pin_memory()
        return replace(self, clips=clips, targets=targets)


@dataclass(frozen=True, kw_only=True)
class Views:
    """All test views of one video; `clips` is None where the video could not be read.

    What frozen blocks make of clips may stand in their place.

    Attributes:
        clips: the d different ones.
        clip_of: for each view, temporal-major, its row in `clips`.
    """

    index: int
    clips: Shaped[Tensor, "d t ..."] | None
    clip_of: list[int] = field(default_factory=list)
    reason: str = ""


class TrainDataset(Dataset[TrainItem]):
    """Random clips of each video.

    What a clip shows depends on (seed, epoch, index) alone, so that a run repeats with any
    number of workers and goes on in the middle of an epoch.

    Args:
        repeats: clips of a video, which is decoded once for all of them.
        draws: epochs after which the same clips come again; 0 is never.
        mirror: class to the class that its clips show in a mirror; negative where that is none.
        reversal: class to the class that its clips show backwards, which are added.
        reader: of videos.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        clip: ClipConfig,
        transform: TrainTransform,
        seed: int,
        *,
        repeats: int = 1,
        draws: int = 0,
        mirror: Mapping[int, int] | None = None,
        reversal: Mapping[int, int] | None = None,
        reader: Reader = Reader(),
    ) -> None:
        self.videos = VideoList.of(videos)
        self.clip = clip
        self.transform = transform
        self.seed = seed
        self.repeats = repeats
        self.draws = draws
        self.mirror = mirror or {}
        self.reversal = reversal or {}
        self.reader = reader

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> TrainItem:
        """Return clips of a video, or of another where that cannot be read.

        Args:
            key: (epoch, index of the video).
        """
        epoch, index = key
        rng = random.Random(f"{self.seed} {draw_of(epoch, self.draws)} {index}")
        skipped: list[Skipped] = []
        for video in self._candidates(index, rng):
            try:
                clips, targets = zip(*self._clips(video, rng), strict=True)
                return TrainItem(
                    path=str(video.path), clips=clips, targets=targets, skipped=tuple(skipped)
                )
            except VideoError as error:
                skipped.append(Skipped(path=str(video.path), reason=str(error)))
        return TrainItem(path="", clips=(), targets=(), skipped=tuple(skipped))

    def _candidates(self, index: int, rng: random.Random) -> Iterator[Video]:
        """The video, then others of its class, then any."""
        yield self.videos[index]
        classes = self.videos.first_targets()
        alike = classes == classes[index]
        alike[index] = False
        mates = np.flatnonzero(alike)
        others = np.flatnonzero(classes != classes[index])
        for choice in (mates, others):
            for i in rng.sample(range(len(choice)), min(_SUBSTITUTES, len(choice))):
                yield self.videos[int(choice[i])]

    def _clips(
        self, video: Video, rng: random.Random
    ) -> list[tuple[UInt8[Tensor, "t 3 h w"], tuple[int, ...]]]:
        """Draw clips with their classes: the repeats, then their reversals."""

        def choose(num_frames: int) -> list[int]:
            return frame_sampling.choose(num_frames, self.clip.frames, self.clip.stride, rng)

        choosers = [choose] * self.repeats
        drawn = []
        for frames in read_clips(video, choosers, self.transform.short_side(rng), self.reader):
            clip, targets = self.transform(frames, rng), video.targets
            mirrored = tuple(self.mirror.get(target, target) for target in targets)
            if self.transform.flip and rng.random() < 0.5 and min(mirrored, default=0) >= 0:
                clip, targets = clip.flip(-1), mirrored
            drawn.append((clip, targets))
        backwards = [
            (clip.flip(0), (self.reversal[targets[0]],))
            for clip, targets in drawn
            if targets and targets[0] in self.reversal
        ]
        return drawn + backwards


def draw_of(epoch: int, draws: int) -> int:
    """The number that clips of an epoch are drawn by, where they come again after so many."""
    return epoch % draws if draws else epoch


class ViewDataset(Dataset[Views]):
    """All test views of each video, in order."""

    def __init__(
        self, videos: Sequence[Video], clip: ClipConfig, reader: Reader = Reader()
    ) -> None:
        self.videos = VideoList.of(videos)
        self.clip = clip
        self.reader = reader

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Views:
        try:
            clips, clip_of = read_views(self.videos[index], self.clip, self.reader)
            return Views(index=index, clips=clips, clip_of=clip_of)
        except VideoError as error:
            return Views(index=index, clips=None, reason=str(error))


def read_views(
    video: Video, clip: ClipConfig, reader: Reader = Reader()
) -> tuple[UInt8[Tensor, "d t 3 h w"], list[int]]:
    """Decode a video once and cut its test views, each different one once.

    Where a video is shorter than a window, or square, views are the same.

    Returns:
        Clips, and the one that each view is, temporal-major.

    Raises:
        VideoError: it cannot be read.
    """
    temporal, spatial = clip.views

    def chooser(view: int) -> "Chooser":
        return lambda num_frames: frame_sampling.choose(
            num_frames, clip.frames, clip.stride, view=view, num_views=temporal
        )

    windows = read_clips(video, [chooser(view) for view in range(temporal)], clip.size, reader)
    views = [view for window in windows for view in spatial_views(window, clip.size, spatial)]
    different = {view.data_ptr(): view for view in views}  # crops lie within their window
    row = {address: i for i, address in enumerate(different)}
    return torch.stack(list(different.values())), [row[view.data_ptr()] for view in views]


Chooser = Callable[[int], list[int]]
"""From a number of frames to the numbers of those wanted."""


def read_clips(
    video: Video,
    choosers: Sequence[Chooser],
    short_side: int | None,
    reader: Reader = Reader(),
) -> list[UInt8[Tensor, "t 3 h w"]]:
    """Choose frames of a video and decode them in one pass; equal choices share a tensor.

    Where the file ends before its packets promise, the choice is made again among the frames
    that there are.

    Raises:
        VideoError: no frame can be read, or none lies in the segment.
    """
    info = reader.probe(video.path)
    shown = info.frame_range(video.start_seconds, video.end_seconds)
    for _ in range(2):
        chosen = [[shown[i] for i in choose(len(shown))] for choose in choosers]
        union = sorted({i for indices in chosen for i in indices})
        try:
            frames = reader.read_frames(video.path, union, short_side, info)
        except TruncatedError as error:
            shown = range(shown.start, min(shown.stop, error.num_decoded))
            if not shown:
                raise
            continue
        return _share_out(frames, union, chosen)
    raise VideoError(f"{video.path}: decodes to another number of frames each time")


def _share_out(
    frames: UInt8[Tensor, "n 3 h w"], numbers: list[int], chosen: Sequence[list[int]]
) -> list[UInt8[Tensor, "t 3 h w"]]:
    """The frames of each choice, from those with these numbers."""
    row = {number: i for i, number in enumerate(numbers)}
    pictures = frames.permute(0, 2, 3, 1)  # as they lie in memory, to be copied whole
    known = {tuple(numbers): frames}
    for choice in map(tuple, chosen):
        if choice not in known:
            copied = torch.stack([pictures[row[number]] for number in choice])
            known[choice] = copied.permute(0, 3, 1, 2)
    return [known[tuple(choice)] for choice in chosen]


def collate_train(num_classes: int, items: list[TrainItem]) -> TrainBatch | DataError:
    """Stack clips to one batch; an error where no video could be read.

    Clips of one video stand apart, so that mixing pairs different ones. The error is returned,
    for the main process to raise it without a worker's traceback.
    """
    columns = zip_longest(*(zip(item.clips, item.targets, strict=True) for item in items))
    clips = [shown for column in columns for shown in column if shown is not None]
    skipped = tuple(skip for item in items for skip in item.skipped)
    if not clips:
        return DataError(f"no training video could be read; the last: {skipped[-1].reason}")
    targets = torch.zeros(len(clips), num_classes)
    for row, (_, shown) in zip(targets, clips, strict=True):
        row[list(shown)] = 1
    return TrainBatch(
        clips=torch.stack([clip for clip, _ in clips]),
        targets=targets,
        paths=tuple(item.path for item in items if item.clips),
        skipped=skipped,
    )


@dataclass(kw_only=True)
class EpochSampler:
    """The batches of one of several processes, in an order that seed and epoch alone decide.

    An epoch is cut into steps, a step into shares of the processes, a share into batches, so that
    a step has the same videos with any number of processes.

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
        """The batches of each step; none where there are fewer videos than processes."""
        order = list(range(self.num_videos))
        random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for first in range(self.first_step * self.step_videos, len(order), self.step_videos):
            step = order[first : first + self.step_videos]
            bounds = [len(step) * (self.process + i) // self.num_processes for i in (0, 1)]
            keys = [(self.epoch, index) for index in step[slice(*bounds)]]
            yield [keys[i : i + self.batch_videos] for i in range(0, len(keys), self.batch_videos)]


def view_loader(
    videos: Sequence[Video],
    clip: ClipConfig,
    batch_size: int,
    workers: int,
    reader: Reader = Reader(),
    share: Sequence[int] | None = None,
) -> DataLoader[Views]:
    """Batches of whole videos, all or those with the indices in `share`, as lists of `Views`."""
    share = range(len(videos)) if share is None else share
    return DataLoader(
        ViewDataset(videos, clip, reader),
        batch_size=batch_size,
        sampler=share,
        num_workers=min(workers, len(share)),
        collate_fn=list,
        worker_init_fn=leave_signals_to_main,
    )
