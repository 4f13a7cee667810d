"""Features of videos: what the head of a classifier sees of each."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from st_adapter.common.progress import bar
from st_adapter.config import ClipConfig
from st_adapter.data.loading import BatchLoader
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video
from st_adapter.evaluation.score import average_over_views
from st_adapter.model.classifier import VideoClassifier


def video_features(
    model: VideoClassifier,
    videos: Sequence[Video],
    clip: ClipConfig,
    *,
    title: str,
    batch_size: int = 8,
    workers: int = 0,
    reader: Reader = Reader(),
    share: Sequence[int] | None = None,
    make_loader: Callable[..., Any] = BatchLoader,
    compute: Callable[[Tensor], Tensor] | None = None,
) -> tuple[list[tuple[int, Float[Tensor, " c"]]], list[Skipped]]:
    """Compute the features of each video, averaged over its views, with a progress bar.

    Args:
        model: The classifier. It is in evaluation mode meanwhile; its mode is restored at the end.
        videos: Videos, with or without labels.
        clip: How clips are sampled, and how many views of a video are averaged.
        title: What the bar shows.
        batch_size: Maximum number of clips in a forward pass.
        workers: Number of processes that decode videos; 0 decodes in this one.
        reader: Decodes the videos.
        share: Indices of the videos to use; by default all of them.
        make_loader: Replaces `BatchLoader`, with the same arguments.
        compute: Computes the features from what the loader yields, if that is not clips.

    Returns:
        The index of each video with its features in float32 on the CPU, and the videos that could
        not be read.

    Raises:
        MemoryShortError: If a batch does not fit in memory.
    """
    share = range(len(videos)) if share is None else share
    found: list[tuple[int, Tensor]] = []
    skipped: list[Skipped] = []
    with bar(title, len(share)) as progress:
        for index, result in average_over_views(
            model,
            videos,
            clip,
            lambda clips: (compute or model.features)(clips).float(),
            batch_size=batch_size,
            workers=workers,
            reader=reader,
            share=share,
            make_loader=make_loader,
        ):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                found.append((index, result[0]))
            progress.advance()
    return found, skipped
