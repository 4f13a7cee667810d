"""Scores of videos: decoding in the background, views averaged."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from threading import Event

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from st_adapter.config import ClipConfig
from st_adapter.data.datasets import Skipped, TrainItem, ViewDataset, Views, view_loader
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.evaluation.frame_order import Order, reorder
from st_adapter.evaluation.scoring import probabilities
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.lanes import side_by_side
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.runtime.passes import clips_at_once, infer
from st_adapter.runtime.prefix_cache import VALIDATION, PrefixCache


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
    prefix_cache: PrefixCache | None = None,
    lanes: int = 1,
) -> Iterator[tuple[int, Tensor | Skipped]]:
    """Yield (index, scores [orders, classes]) of each video, or why it had to be skipped.

    Args:
        clip: sampling and views.
        batch_size: most clips in a forward pass.
        precision: "float32", "bfloat16" or "float16".
        orders: of the frames; each video is decoded once and scored in all of them.
        reader: of videos.
        share: indices of those to score; None is all.
        prefix_cache: of the run that is being validated, on one view.
        lanes: batches that are scored side by side, but one where there are few of them or a
            prefix cache, and of a compiled model as many as it was compiled for.
    """
    at_once = _clips_in_a_pass(model, clip, batch_size, precision)
    batch_videos = videos_at_once(model, clip, batch_size, precision)
    share = range(len(videos)) if share is None else share
    groups: Iterable[list[Views]]
    if prefix_cache is None:
        groups = view_loader(videos, clip, batch_videos, workers, reader, share)
    else:
        groups = _kept_views(prefix_cache, videos, clip, batch_videos, workers, reader, share)
    forward = model if prefix_cache is None else prefix_cache.logits
    model.eval()
    # The last of few batches may run alone, with a lane's threads.
    few = len(share) <= 2 * lanes * batch_videos
    if prefix_cache is not None or (few and not model.is_compiled):
        lanes = 1
    elif model.is_compiled:
        lanes = model.compiled_lanes

    def score(group: list[Views], dropped: Event) -> list[Tensor | None]:
        return _score_group(
            group,
            orders,
            lambda clips: score_clips(model, clips, at_once, precision, forward, dropped),
        )

    for group, scores in side_by_side(score, groups, lanes):
        for views, of_video in zip(group, scores, strict=True):
            if of_video is None:
                yield views.index, Skipped(path=str(videos[views.index].path), reason=views.reason)
            else:
                yield views.index, of_video


def _score_group(
    group: Sequence[Views], orders: Sequence[Order], score: Callable[[Tensor], Tensor]
) -> list[Float[Tensor, "orders classes"] | None]:
    """Scores of each video over its views; None of those that could not be read."""
    shown = [
        reorder(views.clips, order, seed=views.index)
        for views in group
        if views.clips is not None
        for order in orders
    ]
    if not shown:
        return [None] * len(group)
    scores = iter(score(torch.cat(shown)).split([len(clips) for clips in shown]))
    return [
        None
        if views.clips is None
        else torch.stack([next(scores)[views.clip_of].mean(0) for _ in orders])
        for views in group
    ]


def videos_at_once(
    model: VideoClassifier, clip: ClipConfig, batch_size: int, precision: str
) -> int:
    """Videos whose views fill a pass; more would leave lanes without work at the end."""
    temporal, spatial = clip.views
    return max(1, _clips_in_a_pass(model, clip, batch_size, precision) // (temporal * spatial))


def _clips_in_a_pass(
    model: VideoClassifier, clip: ClipConfig, batch_size: int, precision: str
) -> int:
    return min(batch_size, clips_at_once(model, clip.frames, clip.size, precision))


def _kept_views(
    cache: PrefixCache,
    videos: Sequence[Video],
    clip: ClipConfig,
    batch_videos: int,
    workers: int,
    reader: Reader,
    share: Sequence[int],
) -> Iterator[list[Views]]:
    """As `view_loader`, with what the frozen blocks made of each view, now or before."""
    known = {key for i in share if (key := (VALIDATION, i)) in cache}
    new = [i for i in share if (VALIDATION, i) not in known]
    dataset = ViewDataset(videos, clip, reader)
    loader = view_loader(videos, clip, batch_videos, workers, reader, new)
    loaded = (_as_item(views) for group in loader for views in group)
    for first in range(0, len(share), batch_videos):
        keys = [(VALIDATION, i) for i in share[first : first + batch_videos]]
        items = cache.items(keys, known, loaded, lambda key: _as_item(dataset[key[1]]))
        yield [_as_views(i, item) for (_, i), item in zip(keys, items, strict=True)]


def _as_item(views: Views) -> TrainItem:
    if views.clips is None:
        skipped = (Skipped(path="", reason=views.reason),)
        return TrainItem(path="", clips=(), targets=(), skipped=skipped)
    return TrainItem(
        path="", clips=tuple(views.clips), targets=((),) * len(views.clips), skipped=()
    )


def _as_views(index: int, item: TrainItem) -> Views:
    if item.skipped:
        return Views(index=index, clips=None, reason=item.skipped[0].reason)
    return Views(index=index, clips=torch.stack(item.clips), clip_of=list(range(len(item.clips))))


@torch.inference_mode()
def score_clips(
    model: VideoClassifier,
    clips: Shaped[Tensor, "n t ..."],
    at_once: int,
    precision: str,
    forward: Callable[[Tensor], Tensor],
    dropped: Event | None = None,
) -> Float[Tensor, "n classes"]:
    """Scores of clips in 0..1, at most `at_once` in a pass, on the processor.

    Args:
        forward: gives a batch's logits, the model itself or the rest of it.
        dropped: ends it between two passes.
    """
    device = model.device

    def pass_on(part: Tensor) -> Tensor:
        if dropped is not None and dropped.is_set():
            raise CancelledError
        return forward(part)

    with clear_out_of_memory(device):
        logits = infer(pass_on, clips, device=device, precision=precision, at_once=at_once)
    return probabilities(logits, model.spec.task).cpu()
