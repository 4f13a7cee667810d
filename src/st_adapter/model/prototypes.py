"""Heads that start as nearest-mean classifiers of the features of training videos.

The mean of the features of a class is called its prototype (Snell et al. 2017, arXiv 1703.05175).
A linear head that assigns each clip to the nearest prototype has the logits

    logit_k = -beta |f - mu_k|^2 / 2 = beta (mu_k . f - |mu_k|^2 / 2) + what is equal for all k

This is linear discriminant analysis with one variance, 1 / beta, for all classes and directions.
The real variance would give far too sure logits, because features are many and correlated. So beta
is fitted: it minimises the cross-entropy of the training videos, each of which is left out of the
mean of its own class.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from st_adapter.common.task import Task
from st_adapter.model.heads import START_SCALE, ClassHead, CosineHead, set_cosine, set_linear

_STEPS = 200
"""Betas that are tried, evenly spaced in their logarithm over six orders of magnitude."""

_UNTESTED_MARGIN = 2.0
"""Mean difference of two logits where beta cannot be fitted: each class has a single video."""


def set_prototypes(
    head: ClassHead,
    features: Float[Tensor, "n c"],
    targets: Sequence[Sequence[int]],
    task: Task,
) -> None:
    """Start a head as a nearest-mean classifier.

    A class without videos gets no direction, and the lowest bias of its head. If a video can have
    any number of labels, each class compares the mean of the videos that show it with the mean of
    those that do not.

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
        _set_cosine(head, features, shows, task)
    elif task.multi_label:
        weight, bias = _one_against_rest(features, shows)
        set_linear(head, weight, bias)
    else:
        parts = [_nearest(features, shows[:, own]) for _, own in task.slices(head.out_features)]
        weight, bias = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        set_linear(head, weight, bias)


def _nearest(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Return the weights and biases of the nearest mean, for classes of which each video has one.

    Weights are relative to the mean of all prototypes. This adds the same number to all logits of
    a clip, and keeps weights small.
    """
    means, counts = _means(features, shows)
    center = means[counts > 0].mean(0)
    offsets = torch.where(counts[:, None] > 0, means - center, 0.0)
    centered, truth = features - center, shows.long().argmax(1)
    distances = _left_out_distances(centered, offsets, shows, counts)

    def loss(beta: float) -> float:
        return float(F.cross_entropy(-beta * distances[tested] / 2, truth[tested]))

    tested = (shows & (counts > 1)).any(1)  # without its only video, a class has no mean
    gap = float(torch.cdist(offsets, offsets).square().mean()) or 1.0
    beta = _best(loss, distances) if tested.any() else 2 * _UNTESTED_MARGIN / gap
    weight = beta * offsets
    bias = -weight @ center - beta * offsets.square().sum(1) / 2
    return weight, torch.where(counts > 0, bias, bias[counts > 0].min())


def _left_out_distances(
    features: Float[Tensor, "n c"],
    means: Float[Tensor, "k c"],
    shows: Bool[Tensor, "n k"],
    counts: Int64[Tensor, " k"],
) -> Float[Tensor, "n k"]:
    """Return squared distances of videos to means, each video left out of the mean of its class.

    Without one of n videos, its mean moves away from it: the distance grows by n / (n - 1). A class
    without videos is infinitely far away.
    """
    distances = torch.cdist(features, means).square()
    grown = distances * (counts / (counts - 1).clamp(min=1)).square()
    return torch.where(shows, grown, distances).masked_fill(counts == 0, torch.inf)


def _one_against_rest(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Return weights and biases that compare the videos with and without each class."""
    (ours, counts), (others, _) = _means(features, shows), _means(features, ~shows)
    has_both = (counts > 0) & (counts < len(features))
    weight = torch.where(has_both[:, None], ours - others, 0.0)
    threshold = (weight * (ours + others) / 2).sum(1)
    prior = torch.log((counts + 0.5) / (len(features) - counts + 0.5))
    logits = (features @ weight.T - threshold)[:, has_both]
    if not has_both.any():
        return weight, prior

    def loss(beta: float) -> float:
        scores = beta * logits + prior[has_both]
        return float(F.binary_cross_entropy_with_logits(scores, shows[:, has_both].double()))

    beta = _best(loss, logits)
    return beta * weight, prior - beta * threshold


def _set_cosine(
    head: CosineHead, features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"], task: Task
) -> None:
    """Set class vectors to mean directions, seen from the mean of all prototypes.

    A class without videos keeps its random vector.
    """
    means, counts = _means(features, shows)
    center = means[counts > 0].mean(0)
    directions = F.normalize(features - center, dim=1)
    vectors, _ = _means(directions, shows)
    cosines = _left_out_cosines(directions, vectors, shows, counts)
    heads = [own for _, own in task.slices(head.out_features)]
    tested = (shows & (counts > 1)).any(1)

    def loss(scale: float) -> float:
        truths = (shows[tested, own].long().argmax(1) for own in heads)
        scores = (scale * cosines[tested, own] for own in heads)
        return float(sum(map(F.cross_entropy, scores, truths)))

    vectors = torch.where(counts[:, None] > 0, vectors, head.weight.detach().cpu())
    set_cosine(head, vectors, center, _best(loss, cosines) if tested.any() else START_SCALE)


def _left_out_cosines(
    directions: Float[Tensor, "n c"],
    vectors: Float[Tensor, "k c"],
    shows: Bool[Tensor, "n k"],
    counts: Int64[Tensor, " k"],
) -> Float[Tensor, "n k"]:
    """Return cosines of videos to mean directions, each video left out of the mean of its class."""
    cosines = directions @ F.normalize(vectors, dim=1).T
    # The sum s of the directions of a class, without a direction d of length 1, is s - d. Its inner
    # product with d is s.d - 1, and its squared length is s.s - 2 s.d + 1.
    sums = vectors * counts[:, None]
    inner = directions @ sums.T
    lengths = (sums.square().sum(1) - 2 * inner + 1).clamp(min=1e-12).sqrt()
    return torch.where(shows, (inner - 1) / lengths, cosines)


def _means(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Int64[Tensor, " k"]]:
    """Return the mean features of each class, zero if it has none, and its number of videos."""
    counts = shows.sum(0)
    return shows.double().T @ features / counts.clamp(min=1)[:, None], counts


def _best(loss: Callable[[float], float], values: Tensor) -> float:
    """Return the factor of `values` with the least loss."""
    spread = float(values[values.isfinite()].std()) or 1.0
    factors: list[float] = (torch.logspace(-3, 3, _STEPS).double() / spread).tolist()
    return min(factors, key=loss)
