"""Calibration: temperatures that make the scores of a classifier mean what they say."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from st_adapter.common.task import Task

_BINS = 15
_SPREAD = 0.5
"""Standard deviation of the prior of a temperature's logarithm."""
_RANGE = (math.log(0.1), math.log(10.0))
"""Where the logarithm is searched."""
_CALLED_FOR = 1.92
"""Least rise of the logarithm of the likelihood: half the 95% quantile of chi-squared with one
degree of freedom, as in a likelihood-ratio test.
"""
_SMALLEST = 1e-12


def calibrate(
    scores: Float[ndarray, "n classes"], task: Task, temperatures: Sequence[float]
) -> Float[ndarray, "n classes"]:
    """Make scores more or less extreme, without changing which class of a head is best.

    Args:
        scores: Scores in 0..1, averaged over views.
        task: How the classes belong together.
        temperatures: One for each head, above 0. Above 1 makes scores less extreme. Empty for
            scores that are not calibrated: they are returned unchanged.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    if not temperatures:
        return scores
    if task.multi_label:
        with np.errstate(over="ignore"):  # the score is then 0
            inverse = (1 / scores.clip(_SMALLEST) - 1) ** np.float32(1 / temperatures[0])
        scaled: ndarray = 1 / (1 + inverse)
        return scaled
    slices = [own for _, own in task.slices(scores.shape[1])]
    parts = zip(slices, temperatures, strict=True)
    return np.concatenate([_sharpen(scores[:, own], 1 / value) for own, value in parts], axis=1)


def _sharpen(scores: Float[ndarray, "n c"], power: float) -> Float[ndarray, "n c"]:
    """Return the softmax of `power` times the logarithms of scores."""
    relative = (scores / scores.max(1, keepdims=True)).clip(_SMALLEST) ** np.float32(power)
    raised: ndarray = relative / relative.sum(1, keepdims=True)
    return raised


def fit_temperatures(
    scores: Float[ndarray, "n classes"], targets: Sequence[Sequence[int]], task: Task
) -> tuple[float, ...]:
    """Find the temperature of each head under which the labels of held-out videos are likeliest.

    A temperature other than 1 must be called for: the likelihood must rise by more than chance
    explains in one of twenty cases. One far from 1 needs many videos, because its logarithm has a
    normal prior around 0.

    Args:
        scores: Scores of the videos before calibration.
        targets: For each video, the indices of its classes.
        task: How the classes belong together.
    """
    shown = one_hot(targets, scores.shape[1])
    if task.multi_label:
        return (_fit(scores, shown, task),)
    slices = [own for _, own in task.slices(scores.shape[1])]
    return tuple(_fit(scores[:, own], shown[:, own], Task()) for own in slices)


def _fit(scores: Float[ndarray, "n c"], shown: Float[ndarray, "n c"], task: Task) -> float:
    """Find the temperature of one head."""
    from scipy.optimize import minimize_scalar  # here, because the import takes a while

    def loss(logarithm: float) -> float:
        return _loss(calibrate(scores, task, (math.exp(logarithm),)), shown, task)

    def cost(logarithm: float) -> float:
        return loss(logarithm) + (logarithm / _SPREAD) ** 2 / 2

    best = float(minimize_scalar(cost, bounds=_RANGE, method="bounded").x)
    return round(math.exp(best), 4) if loss(0.0) - loss(best) > _CALLED_FOR else 1.0


def one_hot(targets: Sequence[Sequence[int]], classes: int) -> Float[ndarray, "n classes"]:
    """Return 1 for each class of each video, given by their indices, and 0 for all others."""
    shown = np.zeros((len(targets), classes), np.float32)
    for row, own in zip(shown, targets, strict=True):
        row[list(own)] = 1
    return shown


def _loss(scores: Float[ndarray, "n c"], shown: Float[ndarray, "n c"], task: Task) -> float:
    """Return the negative logarithm of the likelihood of all labels."""
    if task.multi_label:
        # The mean over classes: the labels of a video depend on each other, and count as one.
        likely = np.where(shown > 0, scores, 1 - scores)
        return -float(np.log(np.nan_to_num(likely).clip(_SMALLEST)).sum() / shown.shape[1])
    return -float((shown * np.log(scores.clip(_SMALLEST))).sum())


def reliability(
    scores: Float[ndarray, "n classes"], targets: Sequence[Sequence[int]], task: Task
) -> tuple[float, list[tuple[float, float, int]]]:
    """Compare how sure a classifier is with how often it is right.

    Answers are sorted into 15 bins by their scores: the best class of each head, or every class
    with any number of labels.

    Returns:
        The expected calibration error in 0..1, and for each bin with answers the mean score, the
        share of right answers and their number.
    """
    shown = one_hot(targets, scores.shape[1])
    if task.multi_label:
        sure, right = scores.flatten(), shown.flatten()
    else:
        slices = [own for _, own in task.slices(scores.shape[1])]
        sure = np.concatenate([scores[:, own].max(1) for own in slices])
        best = [scores[:, own].argmax(1)[:, None] for own in slices]
        hits = [
            np.take_along_axis(shown[:, own], b, 1) for own, b in zip(slices, best, strict=True)
        ]
        right = np.concatenate(hits)[:, 0]
    sure = np.nan_to_num(sure)  # of a model that diverged
    index = (sure * _BINS).astype(int).clip(max=_BINS - 1)
    bins = []
    for number in np.unique(index).tolist():
        own = index == number
        bins.append((float(sure[own].mean()), float(right[own].mean()), int(own.sum())))
    error = sum(abs(score - share) * count for score, share, count in bins) / len(sure)
    return error, bins


def calibration_record(
    raw: Float[ndarray, "n classes"],
    calibrated: Float[ndarray, "n classes"],
    targets: Sequence[Sequence[int]],
    task: Task,
    temperatures: Sequence[float],
) -> dict[str, Any]:
    """Return the entry `calibration` of an evaluation."""
    error, bins = reliability(calibrated, targets, task)
    return {
        "error": error,
        "error_uncalibrated": reliability(raw, targets, task)[0],
        "temperatures": list(temperatures),
        "fitted_here": False,
        "bins": bins,
    }
