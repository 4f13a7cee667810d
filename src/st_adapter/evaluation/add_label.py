"""Add a class to a trained classifier."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from st_adapter.common.files import check_writable
from st_adapter.common.remarks import say
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError, DataError, did_you_mean
from st_adapter.evaluation.features import video_features
from st_adapter.evaluation.predict import Predictor, expand
from st_adapter.model.class_vectors import match_vectors, read_vectors
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.heads import CosineHead
from st_adapter.wording import setting


def add_label(
    run: Path,
    label: str,
    out: Path,
    *,
    vectors: Path | None = None,
    videos: Path | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> int:
    """Write a copy of a run with one class more. The logits of the other classes do not change.

    Args:
        run: Run folder, adapter folder or name on the hub of a classifier with a cosine head.
        label: Name of the new class.
        out: Folder to create. It gets `adapter/`, and `config.json` if the run has one.
        vectors: File with a vector of the class, in which other classes are ignored. For a head
            that did not start from class means.
        videos: Folder with videos of the class, or one video. For a head that started from class
            means.
        weights: Source of the backbone's weights, as for `Predictor`.
        device: Device, as for `Predictor`.

    Returns:
        The number of classes of the new classifier.

    Raises:
        ArgumentError: The head is not a cosine head, or an argument does not fit it.
        DataError: No video can be read.
    """
    if (vectors is None) == (videos is None):
        raise ArgumentError(
            f"give either {setting('vectors')} or {setting('videos')} for the new class"
        )
    if out.exists():
        raise ArgumentError(f"{out} already exists; choose another {setting('out')}")
    check_writable(out)
    predictor = Predictor(run, weights=weights, device=device)
    model = predictor.model
    head = _checked_head(run, model, label)
    _check_source(run, head, videos is not None)
    if videos is not None:
        vector = _mean_direction(predictor, head, videos)
    else:
        assert vectors is not None
        vector = _vector_in(vectors, label, model)
    with torch.no_grad():
        rows = torch.cat([head.weight, F.normalize(vector, dim=0)[None].to(head.weight)])
        head.weight, head.out_features = nn.Parameter(rows), len(rows)
    # A threshold between two classes says nothing about three.
    model.spec = replace(model.spec, labels=(*model.labels, label), threshold=0.5)
    model.save_adapter(out / "adapter")
    if (run / "config.json").is_file():
        shutil.copy(run / "config.json", out / "config.json")
    return len(rows)


def _checked_head(run: Path, model: VideoClassifier, label: str) -> CosineHead:
    if not isinstance(model.head, CosineHead):
        raise ArgumentError(
            f"{run} has a linear head, to which classes cannot be added; "
            f"train with {setting('head', 'cosine')}"
        )
    if model.spec.task.heads:
        raise ArgumentError(f"{run} predicts {model.spec.task}; classes can be added to one head")
    if not label or label in model.labels:
        raise ArgumentError(f"{label!r} is empty or already a class of {run}; choose another name")
    return model.head


def _check_source(run: Path, head: CosineHead, is_videos: bool) -> None:
    """Raise unless a mean of videos, or else a vector, is measured from the center of the head."""
    from_means = bool(head.center.any())
    if is_videos and not from_means:
        raise ArgumentError(
            f"the head of {run} did not start from class means, so that the mean of videos cannot "
            f"be compared with its vectors; train with {setting('head-init', 'prototype')}, or "
            f"give {setting('vectors')}"
        )
    if from_means and not is_videos:
        raise ArgumentError(
            f"the head of {run} started from class means and measures clips from their center, so "
            f"that a vector from elsewhere cannot be compared with them; give {setting('videos')}"
        )


def _vector_in(file: Path, label: str, model: VideoClassifier) -> Float[Tensor, " c"]:
    found = read_vectors(file)
    if label not in found:
        hint = did_you_mean(label, [*found])
        raise ArgumentError(f"{file} does not have a vector for {label!r}{hint}")
    return match_vectors(
        {label: found[label]}, [label], str(file), model.head.in_features, model.joint_width
    )[0]


def _mean_direction(predictor: Predictor, head: CosineHead, folder: Path) -> Float[Tensor, " c"]:
    """Return the mean direction of the features of videos, as in a head that starts from them."""
    videos = [Video(path=path) for path in expand([folder])]
    found, skipped = video_features(
        predictor.model,
        videos,
        predictor.clip,
        title="videos of the class",
        batch_size=predictor.batch_size,
    )
    for video in skipped:
        say(f"skipped {video.reason}")
    if not found:
        raise DataError(f"no video could be read; first error: {skipped[0].reason}")
    center = head.center.detach().cpu()
    return F.normalize(torch.stack([features for _, features in found]) - center, dim=1).mean(0)
