"""How good a classifier is on labelled videos, over several views of each."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
)

from st_adapter.config import ClipConfig
from st_adapter.data import decode
from st_adapter.data.dataset import Skipped
from st_adapter.data.decode import Probe
from st_adapter.data.video_list import Video
from st_adapter.errors import DataError
from st_adapter.frame_order import ORDERS
from st_adapter.inference import score_videos
from st_adapter.model import VideoClassifier
from st_adapter.progress import bar


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `eval.json` holds. Accuracies are fractions of the videos that could be read.

    Attributes:
        num_videos: videos scored; `num_skipped` more could not be read.
        views: temporal and spatial views whose softmax scores were averaged.
        frames, stride, size: of the clips, as ClipConfig says.
        per_class: accuracy and number of videos by class name.
        loss: mean cross-entropy of the scores.
        temporal: top-1 with the frames in each of ORDERS, where that was measured.
        confusion: rows are true classes, columns predicted ones, in the order of the labels.
        predictions: path, true label, predicted label and its score of each video, with start and
            end where it is a segment.
    """

    top1: float
    top5: float
    mean_class_accuracy: float
    loss: float
    num_videos: int
    num_skipped: int
    views: tuple[int, int]
    frames: int
    stride: int
    size: int
    labels: tuple[str, ...]
    per_class: dict[str, dict[str, float | int | None]]
    confusion: list[list[int]]
    predictions: list[dict[str, Any]]
    skipped: list[Skipped]
    temporal: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)


def evaluate(
    model: VideoClassifier,
    videos: Sequence[Video],
    clip: ClipConfig,
    *,
    batch_size: int = 8,
    workers: int = 2,
    precision: str = "float32",
    temporal: bool = False,
    probe: Probe = decode.probe,
) -> Evaluation:
    """Score every video and count how often the classifier is right.

    Args:
        temporal: count it with the frames reversed, shuffled and frozen to one, too.
        probe: `decode.probe`, or an index that remembers what it said.

    Raises:
        DataError: no video could be read.
    """
    orders = ORDERS if temporal else ORDERS[:1]
    scored: list[tuple[int, Tensor]] = []
    skipped: list[Skipped] = []
    with bar("evaluating", len(videos)) as progress:
        for index, result in score_videos(
            model,
            videos,
            clip,
            batch_size=batch_size,
            workers=workers,
            precision=precision,
            orders=orders,
            probe=probe,
        ):
            if isinstance(result, Skipped):
                skipped.append(result)
            else:
                scored.append((index, result))
            progress.advance()
    if not scored:
        first = f"; the first because: {skipped[0].reason}" if skipped else ""
        raise DataError(f"none of {len(videos)} videos could be read{first}")
    in_order = [(index, scores[0]) for index, scores in scored]
    record = summarise(model.labels, videos, in_order, skipped, clip)
    return replace(record, temporal=_by_order(videos, scored, orders)) if temporal else record


def _segment(video: Video) -> dict[str, float | None]:
    """Start and end of a video that is a segment of a file."""
    if video.start_seconds is None and video.end_seconds is None:
        return {}
    return {"start_seconds": video.start_seconds, "end_seconds": video.end_seconds}


def _by_order(
    videos: Sequence[Video], scored: Sequence[tuple[int, Tensor]], orders: Sequence[str]
) -> dict[str, float]:
    """Top-1 of scores [orders, classes] in each order."""
    right = [scores.argmax(1) == videos[index].label for index, scores in scored]
    accuracies = torch.stack(right).float().mean(0)
    return dict(zip(orders, accuracies.tolist(), strict=True))


def summarise(
    labels: Sequence[str],
    videos: Sequence[Video],
    scored: Sequence[tuple[int, Tensor]],
    skipped: Sequence[Skipped],
    clip: ClipConfig,
) -> Evaluation:
    """Turn scores of videos, [classes] each, into accuracies."""
    scores = torch.stack([score for _, score in scored])
    targets = torch.tensor([videos[index].label for index, _ in scored])
    count = len(labels)
    confusion = multiclass_confusion_matrix(scores, targets, num_classes=count)
    members = confusion.sum(1)
    right = confusion.diagonal()
    present = members > 0
    top5 = multiclass_accuracy(
        scores, targets, num_classes=count, top_k=min(5, count), average="micro"
    )
    return Evaluation(
        top1=float(right.sum() / members.sum()),
        top5=float(top5),
        mean_class_accuracy=float((right[present] / members[present]).mean()),
        loss=float(F.nll_loss(scores.clamp_min(1e-12).log(), targets)),
        num_videos=len(scored),
        num_skipped=len(skipped),
        views=clip.views,
        frames=clip.frames,
        stride=clip.stride,
        size=clip.size,
        labels=tuple(labels),
        per_class={
            label: {"accuracy": int(r) / int(n) if n else None, "num_videos": int(n)}
            for label, r, n in zip(labels, right, members, strict=True)
        },
        confusion=confusion.tolist(),
        predictions=[
            {
                "path": str(videos[index].path.resolve()),
                **_segment(videos[index]),
                "label": labels[videos[index].label],
                "predicted": labels[int(score.argmax())],
                "score": float(score.max()),
            }
            for index, score in scored
        ],
        skipped=list(skipped),
    )
