"""Differences between the scores of an exported file and those of the classifier itself."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video
from st_adapter.evaluation.decisions import predicted_classes
from st_adapter.evaluation.score import average_over_views
from st_adapter.exporting.program import ScoringModule
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.exported import ExportedModel
from st_adapter.model.spec import ModelSpec

RANDOM_CLIPS = ((1, 1), (3, 1), (1, 8), (3, 8), (1, 33))
"""Numbers of clips and of frames in each batch of noise."""

_MOST_VIDEOS, _TIMES = 32, 3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Compare the scores of two forms of a classifier.

    Attributes:
        num: number of clips or videos.
        difference: largest difference of a score; NaN if a score is NaN.
        same_labels: share of them whose predicted labels are the same, in 0..1.
    """

    num: int
    difference: float
    same_labels: float


def compare_on_noise(model: VideoClassifier, exported: ExportedModel) -> Comparison:
    """Compare scores of clips of noise, with several numbers of clips and frames.

    Args:
        model: the classifier, in evaluation mode.
        exported: the exported file.
    """
    rng = np.random.default_rng(0)
    pairs = []
    for num_clips, num_frames in RANDOM_CLIPS:
        clips = noise(rng, model.spec, num_clips, num_frames)
        pairs.append((_scores(model, clips), torch.from_numpy(exported.scores(clips))))
    ours, theirs = (torch.cat(side) for side in zip(*pairs, strict=True))
    return _compare(ours, theirs, model.spec)


def compare_on_videos(
    model: VideoClassifier, exported: ExportedModel, videos: Sequence[Video]
) -> Comparison | None:
    """Compare scores of videos, averaged over the views that the classifier records.

    Args:
        model: the classifier, in evaluation mode.
        exported: the exported file.
        videos: the videos; at most 32 are compared, evenly spaced in this list. Those that cannot
            be read are left out.

    Returns:
        None if none of the videos can be read.
    """

    def compute(clips: Tensor) -> Tensor:
        theirs = torch.from_numpy(exported.scores(clips.numpy()))
        return torch.cat([ScoringModule(model)(clips), theirs], dim=1)

    scored = average_over_views(
        model,
        videos,
        model.spec.clip,
        compute,
        batch_size=8,
        workers=0,
        reader=Reader(),
        share=range(0, len(videos), math.ceil(len(videos) / _MOST_VIDEOS)),
    )
    rows = [row[0] for _, row in scored if not isinstance(row, Skipped)]
    if not rows:
        return None
    ours, theirs = torch.stack(rows).chunk(2, dim=1)
    return _compare(ours, theirs, model.spec)


def times(model: VideoClassifier, exported: ExportedModel) -> tuple[float, float]:
    """Return the seconds that one clip takes: of the classifier, and of the exported file.

    Each is the shortest of three, taken in turn.
    """
    clips = noise(np.random.default_rng(1), model.spec, 1, model.spec.clip.frames)
    calls: list[Callable[[], object]] = [
        lambda: _scores(model, clips),
        lambda: exported.scores(clips),
    ]
    taken = [[_seconds(call) for call in calls] for _ in range(_TIMES)]
    ours, theirs = (min(column) for column in zip(*taken, strict=True))
    return ours, theirs


def noise(
    rng: np.random.Generator, spec: ModelSpec, num_clips: int, num_frames: int
) -> UInt8[np.ndarray, "n t 3 h w"]:
    """Draw clips of noise of the size that a classifier was trained on."""
    shape = (num_clips, num_frames, 3, spec.clip.size, spec.clip.size)
    return rng.integers(0, 256, shape, dtype=np.uint8)


@torch.inference_mode()
def _scores(model: VideoClassifier, clips: np.ndarray) -> Float[Tensor, "n classes"]:
    scores: Tensor = ScoringModule(model)(torch.from_numpy(clips))
    return scores


def _compare(ours: Tensor, theirs: Tensor, spec: ModelSpec) -> Comparison:
    labels = [predicted_classes(side.numpy(), spec.task, spec.threshold) for side in (ours, theirs)]
    same = [one == other for one, other in zip(*labels, strict=True)]
    return Comparison(
        num=len(same),
        difference=float((ours - theirs).abs().max()),
        same_labels=sum(same) / len(same),
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
