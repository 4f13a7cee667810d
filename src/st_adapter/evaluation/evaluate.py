"""Evaluation of a classifier on labelled videos."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from numpy import ndarray

from st_adapter.common.paths import full_path
from st_adapter.common.progress import bar
from st_adapter.common.task import Task
from st_adapter.config import ClipConfig
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video
from st_adapter.errors import DataError
from st_adapter.evaluation.calibration import calibrate, calibration_record
from st_adapter.evaluation.decisions import predicted_classes
from st_adapter.evaluation.metrics import Measures, measure
from st_adapter.evaluation.score import ORDERS, Order, Scored, score_videos, videos_per_batch
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measures):
    """The result of an evaluation, as stored in `eval.json`.

    Measures cover the videos that could be read. Accuracies, precisions and scores are in 0..1.

    Examples:
        >>> evaluation = evaluate("run", "my_videos/")  # doctest: +SKIP
        >>> evaluation.top1, evaluation.per_class["Surfing"]  # doctest: +SKIP
        (0.931, {'num_videos': 25, 'accuracy': 0.96, 'interval': (0.805, 0.993), ...})

    Attributes:
        metric: Name of the main measure: "top1", or "mean_average_precision" if a video can have
            any number of labels. `score` returns its value.
        top1: Top-1 accuracy. With several heads, all heads must be right; with any number of
            labels, the best class must be one of the video's.
        top5: Top-5 accuracy, likewise; None with five classes or fewer.
        mean_class_accuracy: Mean of the top-1 accuracies of the classes that occur, also called
            balanced accuracy; None with any number of labels.
        mean_average_precision: Mean of the average precisions of the classes that occur; None
            unless a video can have any number of labels.
        intervals: Lower and upper end of the 95 % interval of each of these, by its name.
        num_groups: Number of groups that the intervals take into account; None if each video
            counts by itself.
        baselines: What a classifier has to surpass: "largest_class", the top-1 accuracy of always
            predicting the most frequent class; "one_frame", that of a linear probe on one frame on
            the frozen image model, which training measures; "prevalence", the mAP of
            uninformative scores.
        loss: Mean loss of the scores: cross-entropy, or binary cross-entropy with any number of
            labels.
        heads: With several heads, top1, top5, mean_class_accuracy and intervals of each, by its
            name.
        per_class: By label: `num_videos`, `accuracy` (recall) with its `interval`, `precision`,
            `f1` and `average_precision`. With any number of labels, the interval is that of the
            average precision. None where a class has no videos, or is never predicted.
        confusion: Number of videos by true class (row) and predicted class (column), in the order
            of `labels`. Empty with any number of labels.
        threshold: Score from which the second of two classes, or each of any number of labels, is
            predicted; None for other classifiers.
        binary: For two classes, the area under the ROC curve and both curves; else None.
        calibration: How far scores are from the share of right answers: the expected calibration
            `error` in 0..1, `error_uncalibrated`, the `temperatures`, whether these were
            `fitted_here` on the same videos, and `bins` of mean score, accuracy and number.
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
            number of labels, they are lists too: labels that reach the threshold are predicted, and
            `score` is the highest score. `group` is the group of the video, if it has one.
        skipped: The videos that could not be read, each with `path` and `reason`.
        temporal: The main measure with the frames "in_order", "reversed", "shuffled" and "frozen"
            (all equal to the middle frame); None unless requested.
    """

    calibration: dict[str, Any] = field(default_factory=dict)
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


@dataclass(frozen=True, kw_only=True)
class ScoredVideos:
    """Scores of labelled videos, before calibration.

    Attributes:
        videos: The videos that could be read.
        scores: Their scores in 0..1, averaged over views, for each order of frames.
        orders: The orders of frames; the first is "in_order".
        skipped: The videos that could not be read.
    """

    videos: Sequence[Video]
    scores: Float[ndarray, "orders n classes"]
    orders: Sequence[Order]
    skipped: list[Skipped]


def evaluate_videos(
    model: VideoClassifier, videos: Sequence[Video], clip: ClipConfig, **options: Any
) -> Evaluation:
    """Score every video and measure how well the scores agree with the labels.

    Args:
        model: The classifier.
        videos: Labelled videos.
        clip: How clips are sampled, and how many views of a video are averaged.
        **options: Any other argument of `score_labelled`.

    Returns:
        The measures and the prediction for each video.

    Raises:
        DataError: If no video can be read.
        MemoryShortError: If a batch does not fit in memory.
    """
    return evaluation_of(score_labelled(model, videos, clip, **options), model.spec, clip)


def score_labelled(
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
) -> ScoredVideos:
    """Score every video, with a progress bar.

    Args:
        model: The classifier.
        videos: Labelled videos.
        clip: How clips are sampled, and how many views of a video are averaged.
        batch_size: Maximum number of clips in a forward pass.
        workers: Number of processes that decode videos; 0 decodes in this one.
        temporal: Also score with the frames reversed, shuffled and frozen.
        reader: Decodes the videos.
        accelerator: Set if several processes evaluate together. All of them must call this
            function; each scores a part of the videos, and all get the same result.
        score: Replaces `score_videos`, with the same arguments.

    Raises:
        DataError: If no video can be read.
        MemoryShortError: If a batch does not fit in memory.
    """
    orders = ORDERS if temporal else ORDERS[:1]
    scored: list[tuple[int, Float[ndarray, "orders classes"]]] = []
    skipped: list[Skipped] = []
    share = _share(len(videos), videos_per_batch(clip, batch_size), accelerator)
    options = {"batch_size": batch_size, "workers": workers, "orders": orders, "reader": reader}
    with bar("evaluating", len(share)) as progress:
        for index, result in score(model, videos, clip, share=share, **options):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                scored.append((index, result.numpy()))
            progress.advance()
    if accelerator is not None:
        scored = sorted(gather_object(scored), key=itemgetter(0))
        skipped = gather_object(skipped)
    if not scored:
        first = f"; first error: {skipped[0].reason}" if skipped else ""
        raise DataError(f"no video could be read (0 of {len(videos)}){first}")
    return ScoredVideos(
        videos=[videos[i] for i, _ in scored],
        scores=np.stack([scores for _, scores in scored], axis=1),
        orders=orders,
        skipped=skipped,
    )


def evaluation_of(scored: ScoredVideos, spec: ModelSpec, clip: ClipConfig) -> Evaluation:
    """Measure how well scores agree with the labels of the videos.

    Args:
        scored: The scores.
        spec: Describes the classifier, with the temperatures and the threshold to apply.
        clip: How clips were sampled, and how many views of a video were averaged.
    """
    task, labels = spec.task, spec.labels
    targets = [video.targets for video in scored.videos]
    calibrated = [calibrate(scores, task, spec.temperatures) for scores in scored.scores]
    groups = _groups(scored.videos)
    measures = [
        measure(scores, targets, labels, task, groups=groups, threshold=spec.threshold)
        for scores in calibrated
    ]
    raw = scored.scores[0]
    return Evaluation(
        **vars(measures[0]),
        calibration=calibration_record(raw, calibrated[0], targets, task, spec.temperatures),
        num_videos=len(scored.videos),
        num_skipped=len(scored.skipped),
        views=clip.views,
        frames=clip.frames,
        stride=clip.stride,
        size=clip.size,
        labels=labels,
        predictions=[
            _prediction(video, scores, spec)
            for video, scores in zip(scored.videos, calibrated[0], strict=True)
        ],
        skipped=scored.skipped,
        temporal={order: m.score for order, m in zip(scored.orders, measures, strict=True)}
        if len(scored.orders) > 1
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


def _groups(videos: Sequence[Video]) -> list[str] | None:
    """Return the group of each video, or its file without one; None if all are different."""
    units = [video.group or full_path(video.path) for video in videos]
    return units if len(set(units)) < len(units) else None


def _prediction(
    video: Video, scores: Float[ndarray, " classes"], spec: ModelSpec
) -> dict[str, Any]:
    """Return the entry of `Evaluation.predictions` for one video."""
    task, labels = spec.task, spec.labels
    record: dict[str, Any] = {"path": full_path(video.path)}
    if video.start_seconds is not None or video.end_seconds is not None:
        record |= {"start_seconds": video.start_seconds, "end_seconds": video.end_seconds}
    (predicted,) = predicted_classes(scores[None], task, spec.threshold)
    if task.multi_label:
        truth, score = sorted(video.targets), float(scores.max())
    else:
        truth, score = list(video.targets), math.prod(float(scores[i]) for i in predicted)
    if video.group is not None:
        record["group"] = video.group
    record["label"] = [labels[i] for i in truth]
    record["predicted"] = [labels[i] for i in predicted]
    if task == Task():
        record |= {"label": record["label"][0], "predicted": record["predicted"][0]}
    return record | {"score": score}
