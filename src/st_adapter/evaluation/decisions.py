"""Decisions: which classes are predicted, given the scores of a video."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from st_adapter.common.task import Task
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.calibration import calibrate, fit_temperatures
from st_adapter.model.spec import ModelSpec
from st_adapter.wording import setting

_FEWEST = 10
"""Videos of each class from which a threshold between two is chosen."""


def has_threshold(task: Task, num_classes: int) -> bool:
    """Return whether a classifier predicts by a threshold.

    Those with two classes do, and those with any number of labels per video. All others predict the
    class with the highest score.
    """
    return task.multi_label or (not task.heads and num_classes == 2)


def predicted_classes(
    scores: Float[ndarray, "n classes"], task: Task, threshold: float
) -> list[list[int]]:
    """Return the indices of the predicted classes of each video: one, one per head, or any number.

    Args:
        scores: Scores of n videos, in 0..1.
        task: How the classes belong together.
        threshold: Score from which the second of two classes, or each of any number of labels, is
            predicted.
    """
    if task.multi_label:
        return [np.flatnonzero(row).tolist() for row in scores >= threshold]
    if has_threshold(task, scores.shape[1]):
        return [[int(second >= threshold)] for second in scores[:, 1].tolist()]
    slices = [own for _, own in task.slices(scores.shape[1])]
    best = [(scores[:, own].argmax(1) + own.start).tolist() for own in slices]
    return [list(row) for row in zip(*best, strict=True)]


def decide_by(spec: ModelSpec, threshold: float | None, calibrated: bool) -> ModelSpec:
    """Return the record of a classifier with another threshold, or without calibration.

    Args:
        spec: The record.
        threshold: The threshold; None keeps the recorded one. Without calibration, a recorded
            threshold is changed to the score at which the decision stays the same.
        calibrated: Whether to apply the recorded temperatures.

    Raises:
        ArgumentError: If the threshold is not between 0 and 1, or the classifier has none.
    """
    if threshold is not None:
        check_threshold(threshold)
        if not has_threshold(spec.task, len(spec.labels)):
            raise ArgumentError(
                "a threshold is for classifiers with two classes, or with any number of labels per "
                f"video; this one has {len(spec.labels)} classes and predicts the best of them"
            )
    elif not calibrated and spec.temperatures:
        odds = spec.threshold / (1 - spec.threshold)
        raw_odds = odds ** spec.temperatures[0]
        threshold = raw_odds / (1 + raw_odds)
    return replace(
        spec,
        threshold=spec.threshold if threshold is None else threshold,
        temperatures=spec.temperatures if calibrated else (),
    )


def check_threshold(threshold: float) -> None:
    """Raise ArgumentError if a threshold is not between 0 and 1."""
    if not 0 < threshold < 1:
        name = setting("threshold")
        raise ArgumentError(f"{name} must be above 0 and below 1, not {threshold}")


def fit_decisions(
    spec: ModelSpec, scores: Float[ndarray, "n classes"], targets: Sequence[Sequence[int]]
) -> ModelSpec:
    """Return the record of a classifier with temperatures and threshold from held-out videos.

    Args:
        spec: The record.
        scores: Scores of the videos before calibration.
        targets: For each video, the indices of its classes.
    """
    temperatures = fit_temperatures(scores, targets, spec.task)
    threshold = spec.threshold
    if spec.task == Task() and len(spec.labels) == 2:
        second = calibrate(scores, spec.task, temperatures)[:, 1]
        threshold = choose_threshold(second, np.array([own[0] == 1 for own in targets]))
    return replace(spec, temperatures=temperatures, threshold=threshold)


def choose_threshold(second: ndarray, is_second: ndarray) -> float:
    """Choose the threshold between two classes by held-out videos.

    It is the one with the highest top-1 accuracy, if that is surely better than at 0.5: the videos
    that it gets right in addition must outnumber those that it loses by three standard errors.
    Three, because the best of many thresholds is looked for. Otherwise, or with fewer than ten
    videos of a class, it is 0.5.

    Args:
        second: Scores of the second class, in 0..1.
        is_second: Whether a video belongs to it.
    """
    if min(is_second.sum(), (~is_second).sum()) < _FEWEST:
        return 0.5
    known = np.unique(np.append(second, [0.0, 1.0]))
    candidates = (known[1:] + known[:-1]) / 2
    right = (second[:, None] >= candidates) == is_second[:, None]
    right_at_half = (second >= 0.5) == is_second
    best = candidates[right.mean(0) == right.mean(0).max()]
    threshold = float(best[np.abs(best - 0.5).argmin()])
    gains = ((second >= threshold) == is_second).astype(float) - right_at_half
    return threshold if gains.mean() > 3 * gains.std() / len(gains) ** 0.5 else 0.5
