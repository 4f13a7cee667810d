"""Confidence intervals of accuracies and precisions, at 95 %."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

Interval = tuple[float, float]
"""Lower and upper end, both in 0..1."""

_LEVEL = 0.975
_Z = NormalDist().inv_cdf(_LEVEL)


def wilson(share: float, count: float) -> Interval:
    """Return the interval of a share of independent videos.

    Unlike the interval of the normal distribution, it holds for few videos and for shares near 0
    and 1: 14 right answers of 14 give 78 % to 100 %.

    Args:
        share: Share of the videos, in 0..1.
        count: Number of videos, above 0; an effective number need not be whole.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22, 1927.
    """
    centre = share + _Z**2 / (2 * count)
    reach = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def share_interval(hits: ndarray, groups: Sequence[str] | None = None) -> Interval:
    """Return the interval of the share of right answers, with videos in groups or without.

    Args:
        hits: For each video, 1 if the answer is right, else 0. At least one video.
        groups: Name of the group of each video. Without it, each video counts by itself.
    """
    return wilson(float(hits.mean()), effective_count(hits, groups))


def effective_count(hits: ndarray, groups: Sequence[str] | None = None) -> float:
    """Return how many independent videos tell as much about the accuracy as these.

    Videos of one group, such as the clips of one film, tend to be right or wrong together. The more
    the accuracy differs between groups, the less each further video of a group tells.

    Args:
        hits: For each video, 1 if the answer is right, else 0. At least one video.
        groups: Name of the group of each video. Without it, each video counts by itself.

    Returns:
        A number from 1 to the number of videos.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 24, 1998.
    """
    if groups is None:
        return len(hits)
    share = float(hits.mean())
    return _effective_count(share, (hits - share) / len(hits), groups)


def _effective_count(share: float, residuals: ndarray, groups: Sequence[str]) -> float:
    """Return with how many independent videos a share would vary as much as with these groups.

    Args:
        share: The share, in 0..1.
        residuals: How much each video contributes to the deviation of the share from its mean.
        groups: Name of the group of each video.
    """
    from scipy.special import stdtrit  # here, because few data have groups and it takes a while

    names, index = np.unique(groups, return_inverse=True)
    if len(names) in (1, len(groups)) or share in (0, 1):
        return len(names)  # where all are right or all wrong, nothing tells how much groups differ
    variance = len(names) / (len(names) - 1) * (np.bincount(index, residuals) ** 2).sum()
    effective = min(len(groups), share * (1 - share) / max(variance, 1e-12))
    # The variance is that of few groups, and therefore uncertain: hence the t distribution.
    return max(1.0, float(effective * (_Z / stdtrit(len(names) - 1, _LEVEL)) ** 2))


def class_mean_interval(
    hits: ndarray, classes: ndarray, groups: Sequence[str] | None = None
) -> Interval:
    """Return the interval of the mean of the accuracies of all classes.

    Args:
        hits: For each video, 1 if the answer is right, else 0. At least one video.
        classes: Number of the class of each video, from 0; each class has a video.
        groups: Name of the group of each video. Without it, each video counts by itself.
    """
    counts = np.bincount(classes)
    shares = np.bincount(classes, hits) / counts
    if groups is None:
        return mean_interval(shares, counts)
    residuals = (hits - shares[classes]) / (len(counts) * counts[classes])
    mean = float(shares.mean())
    return wilson(mean, _effective_count(mean, residuals, groups))


def mean_interval(shares: ArrayLike, counts: ArrayLike) -> Interval:
    """Return the interval of a mean of independent shares, such as the accuracies of all classes.

    It is that of the number of independent videos with which one share would vary as much as the
    mean does. Each class is counted with one right and one wrong answer more than it has, because
    the share of few videos may be 1, which seems not to vary at all.

    Args:
        shares: The shares, at least one.
        counts: For each of them, the number of videos, above 0.
    """
    values, numbers = np.array(shares), np.array(counts)
    smooth = (values * numbers + 1) / (numbers + 2)
    variance = (smooth * (1 - smooth) / numbers).sum() / len(values) ** 2
    return wilson(float(values.mean()), float(smooth.mean() * (1 - smooth.mean()) / variance))
