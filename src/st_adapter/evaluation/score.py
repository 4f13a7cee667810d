"""Scores of videos: clips are decoded in the background and scores averaged over views."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from st_adapter.common.task import Task
from st_adapter.config import ClipConfig
from st_adapter.data.datasets import Views, load_views
from st_adapter.data.loading import BatchLoader
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.runtime.micro_batches import clips_at_once

Order = Literal["in_order", "reversed", "shuffled", "frozen"]
"""Order of the frames in a clip, to test how much a classifier depends on it."""
ORDERS: tuple[Order, ...] = get_args(Order)

Scored = Iterator[tuple[int, Tensor | Skipped]]
"""For each video its index, and either its scores [orders, classes] or why it was skipped."""


def score_videos(
    model: VideoClassifier,
    videos: Sequence[Video],
    clip: ClipConfig,
    *,
    batch_size: int = 8,
    workers: int = 0,
    orders: Sequence[Order] = ("in_order",),
    reader: Reader = Reader(),
    share: Sequence[int] | None = None,
    make_loader: Callable[..., Any] = BatchLoader,
    forward: nn.Module | None = None,
) -> Scored:
    """Score videos and return an iterator over the results.

    Args:
        model: The classifier. It is in evaluation mode meanwhile; its mode is restored at the end.
        videos: Videos, with or without labels.
        clip: How clips are sampled, and how many views of a video are averaged.
        batch_size: Maximum number of clips in a forward pass.
        workers: Number of processes that decode videos; 0 decodes in this one.
        orders: Orders of the frames to score. A video is decoded once for all of them.
        reader: Decodes the videos.
        share: Indices of the videos to score; by default all of them.
        make_loader: Replaces `BatchLoader`, with the same arguments.
        forward: Computes logits from what the loader yields, if that is not clips for `model`.

    Yields:
        The index of a video with its scores [orders, classes] in 0..1, on the CPU, or with a
        `Skipped` if the video could not be read.

    Raises:
        MemoryShortError: If a batch does not fit in memory.
    """
    forward = model if forward is None else forward
    return average_over_views(
        model,
        videos,
        clip,
        lambda clips: probabilities(forward(clips), model.spec.task),
        batch_size=batch_size,
        workers=workers,
        orders=orders,
        reader=reader,
        share=share,
        make_loader=make_loader,
    )


def average_over_views(
    model: VideoClassifier,
    videos: Sequence[Video],
    clip: ClipConfig,
    compute: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    workers: int,
    reader: Reader,
    share: Sequence[int] | None = None,
    orders: Sequence[Order] = ("in_order",),
    make_loader: Callable[..., Any] = BatchLoader,
) -> Scored:
    """Compute something of the clips of each video and average it over the video's views.

    Args:
        model: The classifier, which is put in evaluation mode meanwhile.
        videos: Videos, with or without labels.
        clip: How clips are sampled, and how many views of a video are averaged.
        compute: Maps what the loader yields, on the model's device, to values [n, k].
        batch_size, workers, reader, share, orders, make_loader: As for `score_videos`.

    Yields:
        The index of a video with its values [orders, k] on the CPU, or with a `Skipped` if the
        video could not be read.
    """
    share = range(len(videos)) if share is None else share
    batch_videos = videos_per_batch(clip, batch_size)
    loader = load_views(videos, clip, batch_videos, workers, reader, share, make_loader)
    run = in_micro_batches(model, clip, compute, batch_size)
    with evaluation_mode(model):
        for batch in loader:
            averages = average_batch(model, batch, run, orders)
            for views, of_video in zip(batch, averages, strict=True):
                if of_video is None:
                    path = str(videos[views.index].path)
                    yield views.index, Skipped(path=path, reason=views.reason)
                else:
                    yield views.index, of_video


def videos_per_batch(clip: ClipConfig, batch_size: int) -> int:
    """Return how many videos make a batch of at most `batch_size` clips, at least one."""
    temporal, spatial = clip.views
    return max(1, batch_size // (temporal * spatial))


def in_micro_batches(
    model: VideoClassifier,
    clip: ClipConfig,
    compute: Callable[[Tensor], Tensor],
    batch_size: int,
) -> Callable[[Tensor], Tensor]:
    """Make a function that computes any number of clips in parts that suit the model's device.

    Args:
        model: The classifier.
        clip: Size of the clips.
        compute: Maps clips on the model's device to values [n, k].
        batch_size: Maximum number of clips in a part.

    Returns:
        A function from clips on any device to values [n, k] on the CPU.
    """
    at_once = min(batch_size, clips_at_once(model.device, clip.frames, clip.size))

    @torch.inference_mode()
    def run(clips: Tensor) -> Float[Tensor, "n k"]:
        return torch.cat([compute(part.to(model.device)) for part in clips.split(at_once)]).cpu()

    return run


def average_batch(
    model: VideoClassifier,
    batch: Sequence[Views],
    run: Callable[[Tensor], Tensor],
    orders: Sequence[Order] = ("in_order",),
) -> list[Float[Tensor, "orders k"] | None]:
    """Compute something of each video of a batch and average it over the video's views.

    Args:
        model: The classifier, whose device is named if memory runs out.
        batch: Views of each video.
        run: Maps clips to values [n, k] on the CPU, as `in_micro_batches` returns it.
        orders: Orders of the frames to compute it for.

    Returns:
        The values of each video; None for a video that could not be read.

    Raises:
        MemoryShortError: If the batch does not fit in memory.
    """
    with clear_out_of_memory(model.device):
        shown = [
            reorder(views.clips, order, seed=views.index)
            for views in batch
            if views.clips is not None
            for order in orders
        ]
        if not shown:
            return [None] * len(batch)
        values = iter(run(torch.cat(shown)).split([len(clips) for clips in shown]))
        return [
            None
            if views.clips is None
            else torch.stack([next(values)[views.clip_of].mean(0) for _ in orders])
            for views in batch
        ]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation mode inside this block, then restore the mode of each."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def reorder(
    clips: Shaped[Tensor, "v t *frame"], order: Order, seed: int
) -> Shaped[Tensor, "v t *frame"]:
    """Return the clips of one video with their frames in another order.

    Args:
        clips: Clips of one video.
        order: "in_order", "reversed", "shuffled" or "frozen". Shuffling uses the same order for all
            clips, and never the original one unless there is only one frame. Freezing repeats the
            middle frame.
        seed: Seed of the shuffling.

    >>> clip = torch.arange(4).view(1, 4, 1, 1, 1).expand(1, 4, 3, 1, 1)
    >>> [reorder(clip, order, 0)[0, :, 0, 0, 0].tolist() for order in ORDERS]
    [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 1, 3], [2, 2, 2, 2]]
    """
    if order == "in_order":
        return clips
    frames = list(range(clips.shape[1]))
    if order == "reversed":
        frames.reverse()
    elif order == "shuffled":
        rng = random.Random(seed)
        while len(frames) > 1 and frames == sorted(frames):
            rng.shuffle(frames)
    elif order == "frozen":
        frames = [len(frames) // 2] * len(frames)
    return clips[:, torch.tensor(frames)]


def probabilities(logits: Float[Tensor, "n classes"], task: Task) -> Float[Tensor, "n classes"]:
    """Turn logits into scores: softmax per head, or sigmoid per class with any number of labels."""
    if task.multi_label:
        return logits.sigmoid()
    parts = task.slices(logits.shape[1])
    return torch.cat([logits[:, own].softmax(1) for _, own in parts], dim=1)
