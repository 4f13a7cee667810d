"""A dataset of clips and classes for training loops other than ours."""

import random
from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from st_adapter.config import ClipConfig
from st_adapter.data.augment.transform import TrainTransform
from st_adapter.data.clips import as_clips, draw_clips
from st_adapter.data.reading import read_views
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import ArgumentError


class ClipDataset(Dataset[tuple[UInt8[Tensor, "t 3 h w"], int]]):
    """Clips of video files with the index of their class, for any PyTorch training loop.

    With a transform, each access draws a new random clip of the video, as `train` does. Without
    one, it returns the clip that `Predictor` would classify, so that accuracy can be measured.
    Random clips are drawn from torch's generator, which a `DataLoader` seeds in each worker.

    Examples:
        >>> data = st_adapter.read_parts("my_videos/", config)  # doctest: +SKIP
        >>> transform = st_adapter.TrainTransform(size=224)  # doctest: +SKIP
        >>> training = ClipDataset(data.train, ClipConfig(frames=8), transform)  # doctest: +SKIP
        >>> clip, target = training[0]  # doctest: +SKIP
        >>> clip.shape  # doctest: +SKIP
        torch.Size([8, 3, 224, 224])

    Args:
        videos: videos with one class each. `read_parts` reads them from a folder or list; for file
            names of your own, write `Video(path=..., targets=(index,))`.
        clip: how clips are cut. Views other than the first are not used.
        transform: random crop and augmentation; None for evaluation. Its `flip` mirrors half of
            the clips, so leave it off if a class depends on left and right.

    Raises:
        ArgumentError: a video does not have exactly one class, or the sizes of `clip` and
            `transform` differ.
        VideoError: a video cannot be read. Raised when the item is accessed.
    """

    def __init__(
        self, videos: Iterable[Video], clip: ClipConfig, transform: TrainTransform | None = None
    ) -> None:
        self._videos = VideoList.of(videos)
        self._clip, self._transform = replace(clip, views=(1, 1)), transform
        if transform is not None and transform.size != clip.size:
            raise ArgumentError(
                f"clips of {clip.size} pixels and a transform to {transform.size}; give one size"
            )
        for video in self._videos:
            if len(video.targets) != 1:
                raise ArgumentError(f"{video.path} has {len(video.targets)} classes instead of one")

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "t 3 h w"], int]:
        video = self._videos[index]
        if self._transform is None:
            views, _ = read_views(video, self._clip)
            return as_clips(views[0]), video.targets[0]
        rng = random.Random(int(torch.randint(2**62, ())))
        (clip,) = draw_clips(video, self._clip, self._transform, rng)
        if self._transform.flip and rng.random() < 0.5:
            clip = clip.flip(-1)
        return clip, video.targets[0]
