"""Datasets of videos: random clips for training, or all test views."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from st_adapter.config import ClipConfig
from st_adapter.data.augment.transform import TrainTransform
from st_adapter.data.clips import as_clips, draw_clips
from st_adapter.data.loading import BatchLoader
from st_adapter.data.reading import read_views
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video, VideoList
from st_adapter.errors import VideoError

_SUBSTITUTES = 20
"""Number of videos to try instead of a broken one: first of its class, then of other classes."""


@dataclass(frozen=True, kw_only=True)
class TrainItem:
    """Clips of one video, or their features from frozen blocks.

    Attributes:
        index: Index of the video in its data set.
        clips: The clips; empty if neither the video nor a substitute could be read.
        targets: Indices of the classes of each clip.
        skipped: Videos that could not be read and that this one replaces.
    """

    index: int
    clips: tuple[Shaped[Tensor, "t ..."], ...]
    targets: tuple[tuple[int, ...], ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, kw_only=True)
class Views:
    """All test views of one video.

    Attributes:
        index: Index of the video in its data set.
        clips: The d distinct views, or their features from frozen blocks; None if the video could
            not be read.
        clip_of: Index into `clips` of each view. Spatial views vary fastest.
        reason: Why the video could not be read, otherwise "".
    """

    index: int
    clips: Shaped[Tensor, "d t ..."] | None
    clip_of: list[int] = field(default_factory=list)
    reason: str = ""


@dataclass(eq=False)
class TrainDataset(Dataset[TrainItem]):
    """Random clips of each video, or of a substitute if the video cannot be read.

    A key is a pair (epoch, index). Clips depend on the seed, the epoch and the index alone, so a
    run gives the same results with any number of workers and can be resumed within an epoch. With
    `draws`, they depend on the draw and the video alone, so that runs with other seeds or other
    lists of the same videos see the same clips.

    Attributes:
        videos: Labelled videos.
        clip: How frames are sampled.
        transform: Augmentation, and the size of clips.
        seed: Seed of all random choices. Without effect with `draws`.
        repeats: Number of clips per video. The video is decoded once for all of them.
        draws: Number of epochs after which the same clips are drawn again; 0 means never.
        mirror: Class of a mirrored clip, by the class of the clip; negative if it must not be
            mirrored. Classes that are not listed stay the same.
        reversal: Class of a reversed clip, by the class of the clip. Such clips are added to the
            item.
        reader: Decodes the videos.
    """

    videos: Sequence[Video]
    clip: ClipConfig
    transform: TrainTransform
    seed: int
    _: KW_ONLY
    repeats: int = 1
    draws: int = 0
    mirror: Mapping[int, int] = field(default_factory=dict)
    reversal: Mapping[int, int] = field(default_factory=dict)
    reader: Reader = Reader()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> TrainItem:
        """Return clips of the video with the key (epoch, index), or of a substitute."""
        index = key[1]
        rng = random.Random(self._seed(key))
        skipped: list[Skipped] = []
        for shown in self._candidates(index, rng):
            video = self.videos[shown]
            try:
                clips, targets = zip(*self._clips(video, rng), strict=True)
                return TrainItem(index=shown, clips=clips, targets=targets, skipped=tuple(skipped))
            except VideoError as error:
                skipped.append(Skipped(path=str(video.path), reason=str(error)))
        return TrainItem(index=index, clips=(), targets=(), skipped=tuple(skipped))

    def _seed(self, key: tuple[int, int]) -> str:
        """Return what seeds the random choices for a key."""
        epoch, index = key
        if not self.draws:
            return f"{self.seed} {epoch} {index}"
        video = self.videos[index]
        # The end of the path, so that a data set can be moved. The name alone would not do: in many
        # data sets each video has a folder of its own, and all files have the same name.
        name = "/".join(video.path.parts[-3:])
        return f"{draw_of(epoch, self.draws)} {name} {video.start_seconds} {video.end_seconds}"

    def name(self, key: tuple[int, int]) -> str:
        """Return the name of the video with a key."""
        return str(self.videos[key[1]].path)

    def _candidates(self, index: int, rng: random.Random) -> Iterator[int]:
        """Yield the video, then substitutes: first of its class, then of other classes."""
        yield index
        classes = VideoList.of(self.videos).first_targets()
        alike = classes == classes[index]
        others = np.flatnonzero(~alike)
        alike[index] = False
        for choice in (np.flatnonzero(alike), others):
            for i in rng.sample(range(len(choice)), min(_SUBSTITUTES, len(choice))):
                yield int(choice[i])

    def _clips(
        self, video: Video, rng: random.Random
    ) -> list[tuple[UInt8[Tensor, "t 3 h w"], tuple[int, ...]]]:
        """Draw clips and their classes: the repeats, then the reversals of those."""
        drawn = []
        for clip in draw_clips(video, self.clip, self.transform, rng, self.repeats, self.reader):
            targets = video.targets
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
    """Return the number that seeds the clips of an epoch; with `draws` it repeats."""
    return epoch % draws if draws else epoch


@dataclass(eq=False)
class ViewDataset(Dataset[Views]):
    """All test views of each video, in order. Keys are indices.

    Attributes:
        videos: Videos, with or without labels.
        clip: How clips are sampled, and how many views there are.
        reader: Decodes the videos.
    """

    videos: Sequence[Video]
    clip: ClipConfig
    reader: Reader = Reader()

    def __len__(self) -> int:
        return len(self.videos)

    def name(self, index: int) -> str:
        """Return the name of the video with an index."""
        return str(self.videos[index].path)

    def __getitem__(self, index: int) -> Views:
        try:
            views, clip_of = read_views(self.videos[index], self.clip, self.reader)
            return Views(index=index, clips=as_clips(views), clip_of=clip_of)
        except VideoError as error:
            return Views(index=index, clips=None, reason=str(error))


def load_views(
    videos: Sequence[Video],
    clip: ClipConfig,
    batch_size: int,
    workers: int,
    reader: Reader,
    share: Sequence[int],
    make_loader: Callable[..., Any] = BatchLoader,
) -> Iterator[list[Views]]:
    """Load the test views of videos in batches.

    Args:
        videos: Videos, with or without labels.
        clip: How clips are sampled, and how many views there are.
        batch_size: Videos per batch; the last batch may be smaller.
        workers: Number of worker processes; 0 decodes in this one.
        reader: Decodes the videos.
        share: Indices of the videos to load.
        make_loader: Replaces `BatchLoader`, with the same arguments.
    """
    dataset, workers = ViewDataset(videos, clip, reader), min(workers, len(share))
    keys = [[*share[i : i + batch_size]] for i in range(0, len(share), batch_size)]
    loaded: Iterator[list[Views]] = make_loader(dataset, list, workers).batches(keys)
    return loaded
