"""Scores of videos, decoded in the background: views averaged, frames in any order."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from st_adapter.common.task import Task
from st_adapter.config import ClipConfig
from st_adapter.data.datasets import Skipped, Views, load_views
from st_adapter.data.loading import BatchLoader
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.runtime.micro_batches import clips_at_once

Order = Literal["in_order", "reversed", "shuffled", "frozen"]
ORDERS: tuple[Order, ...] = get_args(Order)

Scored = Iterator[tuple[int, Tensor | Skipped]]
"""Index of a video with its scores [orders, classes], or with why it had to be skipped."""


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
    """Yield (index, scores [orders, classes]) of each video, or why it had to be skipped.

    Args:
        clip: sampling and views.
        batch_size: most clips in a forward pass.
        workers: decoding processes.
        orders: of the frames; each video is decoded once and scored in all of them.
        reader: of videos.
        share: indices of those to score; by default all.
        make_loader: another way of loading batches, with the arguments of `BatchLoader`.
        forward: what makes logits of what is loaded, if it is not the model.
    """
    share = range(len(videos)) if share is None else share
    forward = model if forward is None else forward
    batch_videos = videos_per_batch(clip, batch_size)
    loader = load_views(videos, clip, batch_videos, workers, reader, share, make_loader)
    at_once = min(batch_size, clips_at_once(model.device, clip.frames, clip.size))

    @torch.inference_mode()
    def score(clips: Tensor) -> Float[Tensor, "n classes"]:
        logits = torch.cat([forward(part.to(model.device)) for part in clips.split(at_once)])
        return probabilities(logits, model.spec.task).cpu()

    with evaluation_mode(model):
        for batch in loader:
            with clear_out_of_memory(model.device):
                scores = _score_batch(batch, orders, score)
            for views, of_video in zip(batch, scores, strict=True):
                if of_video is None:
                    path = str(videos[views.index].path)
                    yield views.index, Skipped(path=path, reason=views.reason)
                else:
                    yield views.index, of_video


def videos_per_batch(clip: ClipConfig, batch_size: int) -> int:
    """Videos whose views fill a batch of clips, at least one."""
    temporal, spatial = clip.views
    return max(1, batch_size // (temporal * spatial))


def _score_batch(
    batch: Sequence[Views], orders: Sequence[Order], score: Callable[[Tensor], Tensor]
) -> list[Float[Tensor, "orders classes"] | None]:
    """Scores of each video, the mean over its views; None of those that could not be read."""
    shown = [
        reorder(views.clips, order, seed=views.index)
        for views in batch
        if views.clips is not None
        for order in orders
    ]
    if not shown:
        return [None] * len(batch)
    scores = iter(score(torch.cat(shown)).split([len(clips) for clips in shown]))
    return [
        None
        if views.clips is None
        else torch.stack([next(scores)[views.clip_of].mean(0) for _ in orders])
        for views in batch
    ]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off inside this block; leave each part in the mode it was in."""
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
    """Return clips of one video with their frames in another order.

    "shuffled" draws one order for all of them from `seed`, never the true one where there are two
    frames or more; "frozen" repeats the middle frame.

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
    """Softmax over the classes of each head; the sigmoid of each class where labels are many."""
    if task.multi_label:
        return logits.sigmoid()
    parts = task.slices(logits.shape[1])
    return torch.cat([logits[:, own].softmax(1) for _, own in parts], dim=1)
