"""Features of videos: what the head of a classifier sees of each."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.data.datasets import Skipped, load_views
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.evaluation.score import evaluation_mode, videos_per_batch
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.runtime.micro_batches import clips_at_once


def video_features(
    model: VideoClassifier,
    videos: Sequence[Video],
    clip: ClipConfig,
    *,
    batch_size: int = 8,
    workers: int = 0,
    reader: Reader = Reader(),
    share: Sequence[int] | None = None,
) -> Iterator[tuple[int, Tensor | Skipped]]:
    """Compute the features of each video, averaged over its views.

    Args:
        model: The classifier. It is in evaluation mode meanwhile; its mode is restored at the end.
        videos: Videos, with or without labels.
        clip: How clips are sampled, and how many views of a video are averaged.
        batch_size: Maximum number of clips in a forward pass.
        workers: Number of processes that decode videos; 0 decodes in this one.
        reader: Decodes the videos.
        share: Indices of the videos to use; by default all of them.

    Yields:
        The index of a video with its features [c] in float32, on the CPU, or with a `Skipped` if
        the video could not be read.

    Raises:
        MemoryShortError: If a batch does not fit in memory.
    """
    share = range(len(videos)) if share is None else share
    at_once = min(batch_size, clips_at_once(model.device, clip.frames, clip.size))

    @torch.inference_mode()
    def features(clips: Tensor) -> Tensor:
        parts = [model.features(part.to(model.device)) for part in clips.split(at_once)]
        return torch.cat(parts).float().cpu()

    batches = load_views(videos, clip, videos_per_batch(clip, batch_size), workers, reader, share)
    with evaluation_mode(model):
        for batch in batches:
            for views in batch:
                if views.clips is None:
                    path = str(videos[views.index].path)
                    yield views.index, Skipped(path=path, reason=views.reason)
                    continue
                with clear_out_of_memory(model.device):
                    found = features(views.clips)
                # Cloned, because tensors of inference mode cannot be used in training.
                yield views.index, found[views.clip_of].mean(0).clone()
