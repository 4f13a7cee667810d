"""Scores of videos: decoding in the background, views averaged."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.data.dataset import Skipped, view_loader
from st_adapter.data.reader import Reader
from st_adapter.data.video_list import Video
from st_adapter.frame_order import Order, reorder
from st_adapter.kernels import chosen_kernels
from st_adapter.machine import autocast, clear_out_of_memory
from st_adapter.model import VideoClassifier
from st_adapter.scoring import probabilities


def score_videos(
    model: VideoClassifier,
    videos: Sequence[Video],
    clip: ClipConfig,
    *,
    batch_size: int,
    workers: int,
    precision: str,
    orders: Sequence[Order] = ("in_order",),
    reader: Reader = Reader(),
    share: Sequence[int] | None = None,
) -> Iterator[tuple[int, Tensor | Skipped]]:
    """Yield (index, scores [orders, classes]) of each video, or why it had to be skipped.

    Args:
        clip: sampling and views.
        batch_size: clips in a forward pass.
        precision: "float32" or "bfloat16".
        orders: of the frames; each video is decoded once and scored in all of them.
        reader: of videos.
        share: indices of those to score; None is all.
    """
    temporal, spatial = clip.views
    at_once = videos_at_once(clip, batch_size)
    for group in view_loader(videos, clip, at_once, workers, reader, share):
        readable = [
            reorder(views.clips, order, seed=views.index)
            for views in group
            if views.clips is not None
            for order in orders
        ]
        per_video: Iterator[Tensor] = iter(())
        if readable:
            scores = score_clips(model, torch.cat(readable), batch_size, precision)
            by_order = scores.unflatten(0, (-1, len(orders), temporal * spatial)).mean(2)
            per_video = iter(by_order)
        for views in group:
            if views.clips is None:
                yield views.index, Skipped(path=str(videos[views.index].path), reason=views.reason)
            else:
                yield views.index, next(per_video)


def videos_at_once(clip: ClipConfig, batch_size: int) -> int:
    """Videos whose views fill a batch."""
    temporal, spatial = clip.views
    return max(1, batch_size // (temporal * spatial))


@torch.inference_mode()
def score_clips(
    model: VideoClassifier, clips: UInt8[Tensor, "n t 3 h w"], batch_size: int, precision: str
) -> Float[Tensor, "n classes"]:
    """Scores of clips in 0..1, `batch_size` at a time, on the processor."""
    device = model.device
    model.eval()
    parts = []
    for part in clips.split(batch_size):
        kernels = chosen_kernels(device)
        with clear_out_of_memory(device), autocast(device, precision), kernels:
            logits = model(part.to(device))
        parts.append(probabilities(logits.float(), model.spec.task).cpu())
    return torch.cat(parts)
