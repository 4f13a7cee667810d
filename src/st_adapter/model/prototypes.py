"""Heads that start as nearest-mean classifiers of the features of training videos.

The mean of the features of a class is called its prototype (Snell et al. 2017, arXiv 1703.05175). A
linear head starts as a linear discriminant analysis: classes are normal distributions around their
prototypes, with one covariance S for all, so that

    logit_k = beta (mu_k S^-1 f - mu_k S^-1 mu_k / 2) + what is equal for all k

A few videos are not enough to estimate the covariance, so most of it is replaced by that of
independent features of the same variance. The logits of such a head are far too large for its
accuracy, and a head that fits its own videos perfectly has little left to learn from. beta makes
them small enough that a training video has a probability of about one half.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from st_adapter.common.task import Task
from st_adapter.model.heads import ClassHead, CosineHead, set_cosine, set_linear

_SHRINKAGE = 0.9
"""Share of the covariance that is that of independent features.

With frozen features of EfficientNet-Lite0 and 5 or 20 clips a class, accuracy on the test clips was
81 and 90 % (ucf6) and 35 and 40 % (the demo's clips). Plain distances, which are a share of 1, gave
80, 84, 31 and 36 %; a share of 0.5 gave 81, 88, 34 and 42 %.
"""


def set_prototypes(
    head: ClassHead,
    features: Float[Tensor, "n c"],
    targets: Sequence[Sequence[int]],
    task: Task,
) -> None:
    """Start a head as a nearest-mean classifier.

    In a linear head, a class without videos has the lowest bias of its head and no weights. If a
    video can have any number of labels, each class compares the videos that show it with those that
    do not. A cosine head compares directions, seen from the mean of all prototypes; a class without
    videos keeps its random vector.

    Args:
        head: The head, changed in place.
        features: Features of n videos.
        targets: Indices of the classes of each video.
        task: How the classes belong together.
    """
    features = features.double()
    shows = torch.zeros(len(features), head.out_features, dtype=torch.bool)
    for row, classes in zip(shows, targets, strict=True):
        row[list(classes)] = True
    if isinstance(head, CosineHead):
        _set_cosine(head, features, shows)
    elif task.multi_label:
        set_linear(head, *_one_against_rest(features, shows))
    else:
        parts = [_one_of_several(features, shows[:, own]) for _, own in task.slices(shows.shape[1])]
        weight, bias = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        set_linear(head, weight, bias)


def _one_of_several(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Return weights and biases for classes of which each video has exactly one.

    Weights are relative to the mean of all prototypes. This adds the same number to all logits of
    a clip, and keeps weights small.
    """
    means, counts = _means(features, shows)
    center = means[counts > 0].mean(0)
    offsets = torch.where(counts[:, None] > 0, means - center, 0.0)
    weight = _divide_by_covariance(offsets, features - means[shows.long().argmax(1)])
    bias = -weight @ center - (weight * offsets).sum(1) / 2
    bias = torch.where(counts > 0, bias, bias[counts > 0].min())
    logits, k = features @ weight.T + bias, shows.shape[1]
    # With k classes, a margin of log k over the other logits is a probability of k / (2 k - 1).
    # The mean of all logits includes the right one, so the margin over it is smaller.
    margin = float((logits[shows] - logits.mean(1)).mean())
    beta = math.log(k) * (1 - 1 / k) / max(margin, 1e-12)
    return beta * weight, beta * bias


def _one_against_rest(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Return weights and biases that compare the videos with and without each class.

    A class that all or no videos show has no weights; its bias is the logarithm of its odds.
    """
    (ours, counts), (others, _) = _means(features, shows), _means(features, ~shows)
    has_both = (counts > 0) & (counts < len(features))
    offsets = torch.where(has_both[:, None], ours - others, 0.0)
    # For two classes, the covariance around the common mean gives the same direction as that
    # around the mean of each, and it is the same for all classes.
    weight = _divide_by_covariance(offsets, features - features.mean(0))
    # The logits of a class at its two means differ by 6: 5 and 95 % at even odds.
    weight *= 6 / (weight * offsets).sum(1, keepdim=True).clamp(min=1e-12)
    odds = torch.log((counts + 0.5) / (len(features) - counts + 0.5))
    return weight, odds - (weight * (ours + others) / 2).sum(1)


def _divide_by_covariance(
    vectors: Float[Tensor, "k c"], residuals: Float[Tensor, "n c"]
) -> Float[Tensor, "k c"]:
    """Multiply vectors by the inverse of the shrunk covariance, relative to its mean variance."""
    covariance = residuals.T @ residuals
    variance = covariance.trace() / len(covariance)
    if not variance > 0:
        return vectors  # there is one video per class
    shrunk = covariance * ((1 - _SHRINKAGE) / variance)
    shrunk.diagonal().add_(_SHRINKAGE)
    divided: Tensor = torch.cholesky_solve(vectors.T, torch.linalg.cholesky(shrunk)).T
    return divided


def _set_cosine(
    head: CosineHead, features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> None:
    means, counts = _means(features, shows)
    center = means[counts > 0].mean(0)
    vectors, _ = _means(F.normalize(features - center, dim=1), shows)
    kept = head.weight.detach().cpu().double()
    set_cosine(head, torch.where(counts[:, None] > 0, vectors, kept), center)


def _means(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Int64[Tensor, " k"]]:
    """Return the mean features of each class, zero if it has none, and its number of videos."""
    counts = shows.sum(0)
    return shows.double().T @ features / counts.clamp(min=1)[:, None], counts
