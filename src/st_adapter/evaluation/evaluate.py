"""How good a classifier is on labelled videos, over several views of each."""

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
    """What `eval.json` holds. Measures are of the videos that could be read.

    Attributes:
        num_videos: videos scored; `num_skipped` more could not be read.
        views: temporal and spatial views whose scores were averaged.
        frames, stride, size: of the clips, as ClipConfig says.
        temporal: what the classifier is judged by with the frames in each of ORDERS, where that
            was measured.
        predictions: path, true label, predicted label and its score of each video, with start and
            end where it is a segment. Labels are lists with several heads, and with many labels,
            where those of score 0.5 and above are predicted.
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
        """The record as plain values."""
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
    """Score every video and measure how good the scores are.

    Args:
        clip: sampling and views.
        batch_size: most clips in a forward pass.
        workers: decoding processes.
        temporal: measure it with the frames reversed, shuffled and frozen to one, too.
        reader: of videos.
        accelerator: of processes that all call this; each scores a part of the videos.
        score: another way of scoring videos, with the arguments of `score_videos`.

    Raises:
        DataError: no video could be read.
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
        first = f"; the first because: {skipped[0].reason}" if skipped else ""
        raise DataError(f"none of {len(videos)} videos could be read{first}")
    return _evaluation(model, [videos[i] for i, _ in scored], scored, skipped, clip, orders)


def _evaluation(
    model: VideoClassifier,
    videos: Sequence[Video],
    scored: Sequence[tuple[int, Tensor]],
    skipped: list[Skipped],
    clip: ClipConfig,
    orders: Sequence[Order],
) -> Evaluation:
    """Measures of the scores, [orders, classes], of these videos."""
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
    """The videos that this process scores: whole batches in turn, the same as of one process."""
    if accelerator is None:
        return range(num_videos)
    count = accelerator.num_processes
    own = range(accelerator.process_index * batch_videos, num_videos, count * batch_videos)
    return [i for first in own for i in range(first, min(first + batch_videos, num_videos))]


def _prediction(
    video: Video, scores: Float[Tensor, " classes"], labels: Sequence[str], task: Task
) -> dict[str, Any]:
    """What a video shows, what the classifier says, and how sure it is."""
    record: dict[str, Any] = {"path": full_path(video.path)}
    if video.start_seconds is not None or video.end_seconds is not None:
        record |= {"start_seconds": video.start_seconds, "end_seconds": video.end_seconds}
    if task.multi_label:
        said, score = scores.ge(0.5).nonzero()[:, 0].tolist(), float(scores.max())
        truth = sorted(video.targets)
    else:
        best = [(scores[own].max(0), own.start) for _, own in task.slices(len(labels))]
        said = [start + int(top.indices) for top, start in best]
        score = math.prod(float(top.values) for top, _ in best)
        truth = list(video.targets)
    record["label"] = [labels[i] for i in truth]
    record["predicted"] = [labels[i] for i in said]
    if task == Task():
        record |= {"label": record["label"][0], "predicted": record["predicted"][0]}
    return record | {"score": score}
