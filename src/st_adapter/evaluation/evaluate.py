"""Evaluation of a classifier on labelled videos."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from st_adapter.common.paths import full_path
from st_adapter.common.progress import bar
from st_adapter.common.task import Task
from st_adapter.config import ClipConfig
from st_adapter.data.datasets import Skipped
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import DataError
from st_adapter.evaluation.metrics import Measures, measure
from st_adapter.evaluation.score import ORDERS, Order, Scored, score_videos, videos_per_batch
from st_adapter.model.classifier import VideoClassifier


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measures):
    """The result of an evaluation, as stored in `eval.json`.

    Measures cover the videos that could be read. Accuracies, precisions and scores are in 0..1.

    Examples:
        >>> evaluation = evaluate("run", "my_videos/")  # doctest: +SKIP
        >>> evaluation.top1, evaluation.per_class["Surfing"]  # doctest: +SKIP
        (0.931, {'accuracy': 0.96, 'num_videos': 25})

    Attributes:
        metric: Name of the main measure: "top1", or "mean_average_precision" if a video can have
            any number of labels. `score` returns its value.
        top1: Top-1 accuracy. With several heads, all heads must be right; with any number of
            labels, the best class must be one of the video's.
        top5: Top-5 accuracy, likewise.
        mean_class_accuracy: Mean of the top-1 accuracies of the classes that occur; None with any
            number of labels.
        mean_average_precision: Mean of the average precisions of the classes that occur; None
            unless a video can have any number of labels.
        loss: Mean loss of the scores: cross-entropy, or binary cross-entropy with any number of
            labels.
        heads: With several heads, top1, top5 and mean_class_accuracy of each, by its name.
        per_class: By label, `num_videos` and `accuracy`, or `average_precision` with any number of
            labels. The measure is None for a class without videos.
        confusion: Number of videos by true class (row) and predicted class (column), in the order
            of `labels`. Empty with any number of labels.
        num_videos: Number of videos that were scored.
        num_skipped: Number of videos that could not be read.
        views: Number of temporal and spatial views whose scores were averaged.
        frames: Frames per clip.
        stride: Frames between two sampled frames; 0 means spread over the whole video.
        size: Height and width of a clip in pixels.
        labels: Names of the classes, in the order of the classifier's outputs.
        predictions: For each video a dictionary with `path`, `label` (the true one), `predicted`
            and `score` (of the prediction), and for segments `start_seconds` and `end_seconds`.
            With several heads, `label` and `predicted` are lists and `score` is a product. With any
            number of labels, they are lists too: labels that score 0.5 or more are predicted, and
            `score` is the highest score.
        skipped: The videos that could not be read, each with `path` and `reason`.
        temporal: The main measure with the frames "in_order", "reversed", "shuffled" and "frozen"
            (all equal to the middle frame); None unless requested.
    """

    num_videos: int
    num_skipped: int
    views: tuple[int, int]
    frames: int
    stride: int
    size: int
    labels: tuple[str, ...]
    predictions: list[dict[str, Any]]
    skipped: list[Skipped]
    temporal: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as a dictionary that `json` can write."""
        return asdict(self)


def evaluate_videos(
    model: VideoClassifier,
    videos: Sequence[Video],
    clip: ClipConfig,
    *,
    batch_size: int = 8,
    workers: int = 2,
    temporal: bool = False,
    reader: Reader = Reader(),
    accelerator: Accelerator | None = None,
    score: Callable[..., Scored] = score_videos,
) -> Evaluation:
    """Score every video and measure how well the scores agree with the labels.

    Args:
        model: The classifier.
        videos: Labelled videos.
        clip: How clips are sampled, and how many views of a video are averaged.
        batch_size: Maximum number of clips in a forward pass.
        workers: Number of processes that decode videos; 0 decodes in this one.
        temporal: Also measure with the frames reversed, shuffled and frozen.
        reader: Decodes the videos.
        accelerator: Set if several processes evaluate together. All of them must call this
            function; each scores a part of the videos, and all get the same result.
        score: Replaces `score_videos`, with the same arguments.

    Returns:
        The measures and the prediction for each video.

    Raises:
        DataError: If no video can be read.
        MemoryShortError: If a batch does not fit in memory.
    """
    orders = ORDERS if temporal else ORDERS[:1]
    scored: list[tuple[int, Tensor]] = []
    skipped: list[Skipped] = []
    share = _share(len(videos), videos_per_batch(clip, batch_size), accelerator)
    options = {"batch_size": batch_size, "workers": workers, "orders": orders, "reader": reader}
    with bar("evaluating", len(share)) as progress:
        for index, result in score(model, videos, clip, share=share, **options):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                scored.append((index, result))
            progress.advance()
    if accelerator is not None:
        scored = sorted(gather_object(scored), key=itemgetter(0))
        skipped = gather_object(skipped)
    if not scored:
        first = f"; first error: {skipped[0].reason}" if skipped else ""
        raise DataError(f"no video could be read (0 of {len(videos)}){first}")
    return _evaluation(model, [videos[i] for i, _ in scored], scored, skipped, clip, orders)


def _evaluation(
    model: VideoClassifier,
    videos: Sequence[Video],
    scored: Sequence[tuple[int, Tensor]],
    skipped: list[Skipped],
    clip: ClipConfig,
    orders: Sequence[Order],
) -> Evaluation:
    """Build the result from the scores, [orders, classes], of the videos that could be read."""
    by_order = torch.stack([scores for _, scores in scored], dim=1)
    task = model.spec.task
    targets = [video.targets for video in videos]
    measures = [measure(scores, targets, model.labels, task) for scores in by_order]
    return Evaluation(
        **vars(measures[0]),
        num_videos=len(scored),
        num_skipped=len(skipped),
        views=clip.views,
        frames=clip.frames,
        stride=clip.stride,
        size=clip.size,
        labels=model.labels,
        predictions=[
            _prediction(video, scores, model.labels, task)
            for video, scores in zip(videos, by_order[0], strict=True)
        ],
        skipped=skipped,
        temporal={order: m.score for order, m in zip(orders, measures, strict=True)}
        if len(orders) > 1
        else None,
    )


def _share(num_videos: int, batch_videos: int, accelerator: Accelerator | None) -> Sequence[int]:
    """Return the indices of the videos that this process scores.

    Processes take whole batches in turn, so that batches are the same with any number of processes.
    """
    if accelerator is None:
        return range(num_videos)
    count = accelerator.num_processes
    own = range(accelerator.process_index * batch_videos, num_videos, count * batch_videos)
    return [i for first in own for i in range(first, min(first + batch_videos, num_videos))]


def _prediction(
    video: Video, scores: Float[Tensor, " classes"], labels: Sequence[str], task: Task
) -> dict[str, Any]:
    """Return the entry of `Evaluation.predictions` for one video."""
    record: dict[str, Any] = {"path": full_path(video.path)}
    if video.start_seconds is not None or video.end_seconds is not None:
        record |= {"start_seconds": video.start_seconds, "end_seconds": video.end_seconds}
    if task.multi_label:
        predicted, score = scores.ge(0.5).nonzero()[:, 0].tolist(), float(scores.max())
        truth = sorted(video.targets)
    else:
        best = [(scores[own].max(0), own.start) for _, own in task.slices(len(labels))]
        predicted = [start + int(top.indices) for top, start in best]
        score = math.prod(float(top.values) for top, _ in best)
        truth = list(video.targets)
    record["label"] = [labels[i] for i in truth]
    record["predicted"] = [labels[i] for i in predicted]
    if task == Task():
        record |= {"label": record["label"][0], "predicted": record["predicted"][0]}
    return record | {"score": score}
