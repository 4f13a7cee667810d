"""Heads that start as nearest-mean classifiers of the features of training videos.

The mean of the features of a class is called its prototype (Snell et al. 2017, arXiv 1703.05175). A
linear head starts as a linear discriminant analysis: classes are normal distributions around their
prototypes, with one covariance S for all, so that

    logit_k = beta (mu_k S^-1 f - mu_k S^-1 mu_k / 2) + what is equal for all k

Few videos do not tell the covariance of many features, so most of it is replaced by that of
independent features of the same variance. Such logits are far too sure; beta corrects this. It
minimises the cross-entropy of videos that are held out in turns.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from st_adapter.common.task import Task
from st_adapter.model.heads import START_SCALE, ClassHead, CosineHead, set_cosine, set_linear

_SHRINKAGE = 0.9
"""Share of the covariance that is that of independent features.

With frozen features of EfficientNet-Lite0 and 5 or 20 clips a class, accuracy on the test clips was
81 and 90 % (ucf6) and 35 and 40 % (the demo's clips). Plain distances, which are a share of 1, gave
80, 84, 31 and 36 %; a share of 0.5 gave 81, 88, 34 and 42 %.
"""

_SOFTENED = 0.25
"""Factor of the fitted beta, for a head that still learns.

With the full beta, the head fits its own videos almost perfectly at once. Little is left to learn
from, and the accuracy after training was 2 points below that of a random start.
"""

_FOLDS = 5
"""Parts that are held out in turns to fit beta."""

_STEPS = 200
"""Betas that are tried, evenly spaced in their logarithm over six orders of magnitude."""

_UNTESTED_MARGIN = 2.0
"""Mean margin of the logits where beta cannot be fitted: each class has a single video."""

_Scores = Callable[
    [Float[Tensor, "n c"], Bool[Tensor, "n k"], Float[Tensor, "m c"]], Float[Tensor, "m k"]
]
"""Computes the logits of m videos from n others and their classes."""


def set_prototypes(
    head: ClassHead,
    features: Float[Tensor, "n c"],
    targets: Sequence[Sequence[int]],
    task: Task,
) -> None:
    """Start a head as a nearest-mean classifier.

    In a linear head, a class without videos has the lowest bias of its head and no weights. If a
    video can have any number of labels, each class compares the videos that show it with those that
    do not. A cosine head compares directions, seen from the mean of all prototypes.

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
        set_linear(head, *_fitted_one_against_rest(features, shows))
    else:
        parts = [_fitted_lda(features, shows[:, own]) for _, own in task.slices(head.out_features)]
        weight, bias = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        set_linear(head, weight, bias)


def _fitted_lda(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Return weights and biases for classes of which each video has exactly one."""
    weight, bias = _lda(features, shows)
    tested, truth = (shows & (shows.sum(0) > 1)).any(1), shows.long().argmax(1)
    if tested.any():  # without its only video, a class has no mean
        held_out = _held_out_logits(features, shows, _linear_scores(_lda))[tested]
        beta = _SOFTENED * _best(lambda b: F.cross_entropy(b * held_out, truth[tested]), held_out)
    else:
        own = (features @ weight.T + bias)[shows].mean()
        rest = (features @ weight.T + bias)[~shows].mean()
        beta = _UNTESTED_MARGIN / max(float(own - rest), 1e-12)
    return beta * weight, beta * bias


def _lda(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Return weights and biases of the linear discriminant analysis, with a beta of 1.

    Weights are relative to the mean of all prototypes. This adds the same number to all logits of
    a clip, and keeps weights small.
    """
    means, counts = _means(features, shows)
    center = means[counts > 0].mean(0)
    offsets = torch.where(counts[:, None] > 0, means - center, 0.0)
    weight = _divide_by_covariance(offsets, features - means[shows.long().argmax(1)])
    bias = -weight @ center - (weight * offsets).sum(1) / 2
    return weight, torch.where(counts > 0, bias, bias[counts > 0].min())


def _fitted_one_against_rest(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Return weights and biases that compare the videos with and without each class."""
    weight, bias = _one_against_rest(features, shows)
    counts = shows.sum(0)
    prior = torch.log((counts + 0.5) / (len(features) - counts + 0.5))
    held_out = _held_out_logits(features, shows, _linear_scores(_one_against_rest))

    def loss(beta: float) -> Tensor:
        return F.binary_cross_entropy_with_logits(beta * held_out + prior, shows.double())

    beta = _SOFTENED * _best(loss, held_out)
    return beta * weight, beta * bias + prior


def _one_against_rest(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
    """Return weights and biases with a beta of 1; zero for a class that all or no videos show."""
    (ours, counts), (others, _) = _means(features, shows), _means(features, ~shows)
    has_both = (counts > 0) & (counts < len(features))
    offsets = torch.where(has_both[:, None], ours - others, 0.0)
    # For two classes, the covariance around the common mean gives the same direction as that
    # around the mean of each, and it is the same for all classes.
    weight = _divide_by_covariance(offsets, features - features.mean(0))
    return weight, -(weight * (ours + others) / 2).sum(1)


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
    head: CosineHead, features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"], task: Task
) -> None:
    """Set class vectors to mean directions. A class without videos keeps its random vector."""
    center, vectors = _mean_directions(features, shows)
    counts = shows.sum(0)
    tested = (shows & (counts > 1)).any(1)
    scale = START_SCALE
    if tested.any():
        heads = [own for _, own in task.slices(head.out_features)]
        held_out = _held_out_logits(features, shows, _cosines)[tested]
        truths = [shows[tested, own].long().argmax(1) for own in heads]

        def loss(scale: float) -> Tensor:
            scores = [scale * held_out[:, own] for own in heads]
            return torch.stack([*map(F.cross_entropy, scores, truths)]).sum()

        scale = _best(loss, held_out)
    vectors = torch.where(counts[:, None] > 0, vectors, head.weight.detach().cpu().double())
    set_cosine(head, vectors, center, scale)


def _mean_directions(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, " c"], Float[Tensor, "k c"]]:
    """Return the mean of all prototypes, and the mean direction of each class from there."""
    means, counts = _means(features, shows)
    center = means[counts > 0].mean(0)
    vectors, _ = _means(F.normalize(features - center, dim=1), shows)
    return center, vectors


def _cosines(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"], others: Float[Tensor, "m c"]
) -> Float[Tensor, "m k"]:
    center, vectors = _mean_directions(features, shows)
    return F.normalize(others - center, dim=1) @ F.normalize(vectors, dim=1).T


def _linear_scores(
    fit: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> _Scores:
    """Return a function that computes logits with the weights and biases that `fit` returns."""

    def scores(features: Tensor, shows: Tensor, others: Tensor) -> Tensor:
        weight, bias = fit(features, shows)
        return others @ weight.T + bias

    return scores


def _held_out_logits(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"], scores: _Scores
) -> Float[Tensor, "n k"]:
    """Compute the logits of each video from videos of other folds.

    The videos of a class are dealt to the folds in turns. Those that cannot be held out, because
    no video would be left, have logits of zero.
    """
    logits = torch.zeros(shows.shape, dtype=features.dtype)
    first = shows.long().argmax(1)
    number = torch.zeros(len(features), dtype=torch.long)
    for label in first.unique():
        number[first == label] = torch.arange(int((first == label).sum()))
    for fold in range(_FOLDS):
        held_out = number % _FOLDS == fold
        if held_out.any() and not held_out.all():
            logits[held_out] = scores(features[~held_out], shows[~held_out], features[held_out])
    return logits


def _means(
    features: Float[Tensor, "n c"], shows: Bool[Tensor, "n k"]
) -> tuple[Float[Tensor, "k c"], Int64[Tensor, " k"]]:
    """Return the mean features of each class, zero if it has none, and its number of videos."""
    counts = shows.sum(0)
    return shows.double().T @ features / counts.clamp(min=1)[:, None], counts


def _best(loss: Callable[[float], Tensor], values: Tensor) -> float:
    """Return the factor of `values` with the least loss."""
    spread = float(values.square().mean().sqrt()) or 1.0
    factors: list[float] = (torch.logspace(-3, 3, _STEPS).double() / spread).tolist()
    return min(factors, key=lambda factor: float(loss(factor)))
