"""Measures of how well scores agree with labels, for every type of task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from st_adapter.common.task import Task
from st_adapter.errors import DataError
from st_adapter.evaluation.calibration import one_hot
from st_adapter.evaluation.decisions import has_threshold, predicted_classes
from st_adapter.evaluation.intervals import (
    Interval,
    class_mean_interval,
    mean_interval,
    share_interval,
    wilson,
)

METRICS = {"top1": "top-1", "mean_average_precision": "mAP"}
"""The main measures a classifier can have, each with its name in tables and reports."""

_TOP = 5
_CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How well the scores of videos agree with their labels.

    Accuracies and precisions are in 0..1. Of 100 intervals, about 95
    contain the true value.

    Attributes:
        metric: Name of the main measure, a key of `METRICS`.
        top1: Fraction of videos whose predicted class is right. With several heads, the classes of
            all heads must be right (an action is a verb and a noun), and the score of such a
            combination is the product of theirs. With any number of labels, the best class must be
            one of the video's.
        top5: Fraction of videos with a right class, or combination, among the best five. None if
            there are no more than five.
        mean_class_accuracy: Mean of the top-1 accuracies of the classes, or combinations, that
            occur, also called balanced accuracy; None with any number of labels.
        mean_average_precision: Mean of the average precisions of the classes that occur; None
            unless a video can have any number of labels.
        intervals: Lower and upper end of the interval of each of these, by its name.
        num_groups: Number of groups that the intervals take into account; None if each video
            counts by itself.
        baselines: What a classifier has to surpass: "largest_class", the top-1 accuracy of always
            predicting the most frequent class, or combination, of these videos; "prevalence", the
            mAP of uninformative scores. Training adds "one_frame".
        loss: Mean cross-entropy, averaged over heads; binary cross-entropy with any number of
            labels.
        heads: With several heads, `top1`, `top5`, `mean_class_accuracy` and `intervals` of each by
            its name.
        per_class: By label: `num_videos`, `accuracy` (recall; None with any number of labels) with
            its `interval`, `precision`, `f1` and `average_precision`. None where a class has no
            videos, or is never predicted.
        confusion: Number of videos by true class (row) and predicted class (column), in the order
            of the labels. With several heads, each head has its own square block on the diagonal.
            Empty with any number of labels.
        threshold: Score from which the second of two classes, or each of any number of labels, is
            predicted; None for other classifiers.
        binary: For two classes, how they can be told apart at other thresholds: the `positive`
            label (the second), `roc_auc`, `average_precision`, and the curves `roc` (false and true
            positive rate) and `precision_recall` (recall and precision). None for other tasks, or
            if one of the classes does not occur.
    """

    metric: str = "top1"
    top1: float
    top5: float | None
    mean_class_accuracy: float | None
    mean_average_precision: float | None = None
    intervals: dict[str, Interval]
    num_groups: int | None = None
    baselines: dict[str, float]
    loss: float
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_class: dict[str, dict[str, Any]]
    confusion: list[list[int]]
    threshold: float | None = None
    binary: dict[str, Any] | None = None

    @property
    def score(self) -> float:
        """Value of the main measure."""
        value: float = getattr(self, self.metric)
        return value


def measure(
    scores: Float[ndarray, "n classes"],
    targets: Sequence[Sequence[int]],
    labels: Sequence[str],
    task: Task,
    *,
    groups: Sequence[str] | None = None,
    threshold: float = 0.5,
) -> Measures:
    """Measure how well scores agree with the labels of the videos.

    Args:
        scores: Scores of n videos, in 0..1.
        targets: For each video, the indices of its classes: one, one per head, or any number.
        labels: Names of the classes.
        task: How the classes belong together.
        groups: Name of the group of each video, such as the film it was cut from.
        threshold: Score from which the second of two classes, or each of any number of labels, is
            predicted.

    Returns:
        The measures that apply to the task.

    Raises:
        DataError: If videos can have any number of labels and none of them has any.
    """
    shown = torch.from_numpy(one_hot(targets, len(labels))).bool()
    chosen = predicted_classes(scores, task, threshold)
    predicted = torch.from_numpy(one_hot(chosen, len(labels))).bool()
    if task.multi_label:
        if not shown.any():
            raise DataError(f"cannot compute mAP: no video has a label (0 of {len(targets)})")
        found = _measure_multi_label(torch.from_numpy(scores), shown, predicted, labels, groups)
    else:
        wanted = torch.tensor([list(own) for own in targets])
        found = _measure_heads(
            torch.from_numpy(scores), wanted, shown, predicted, labels, task, groups
        )
    return Measures(
        **found,
        num_groups=None if groups is None else len(set(groups)),
        threshold=threshold if has_threshold(task, len(labels)) else None,
    )


def _measure_heads(
    scores: Float[Tensor, "n classes"],
    targets: Int64[Tensor, "n heads"],
    shown: Bool[Tensor, "n classes"],
    predicted: Bool[Tensor, "n classes"],
    labels: Sequence[str],
    task: Task,
    groups: Sequence[str] | None,
) -> dict[str, Any]:
    """Measure with one label per head. A task without heads counts as one unnamed head."""
    slices = list(task.slices(len(labels)))
    parts = [scores[:, own] for _, own in slices]
    if has_threshold(task, len(labels)):  # of two classes, the predicted one counts as the best
        parts = [predicted.to(scores.dtype)]
    local = targets - torch.tensor([own.start for _, own in slices])
    confusion = torch.zeros(len(labels), len(labels), dtype=torch.long)
    losses = []
    for (_, own), target in zip(slices, local.T, strict=True):
        confusion[own, own] = (shown[:, own].double().T @ predicted[:, own].double()).long()
        losses.append(F.nll_loss(scores[:, own].clamp_min(1e-12).log(), target))
    heads = {
        name: _accuracies([part], local[:, i : i + 1], groups)
        for i, ((name, _), part) in enumerate(zip(slices, parts, strict=True))
    }
    joint = _accuracies(parts, local, groups) if task.heads else heads.pop("")
    _, counts = local.unique(dim=0, return_counts=True)
    return {
        **joint,
        "baselines": {"largest_class": float(counts.max() / len(targets))},
        "loss": float(torch.stack(losses).mean()),
        "heads": heads,
        "per_class": _per_class(scores, shown, predicted, labels, groups, accuracies=True),
        "confusion": confusion.tolist(),
        "binary": _two_classes(scores, shown, labels) if has_threshold(task, len(labels)) else None,
    }


def _accuracies(
    parts: Sequence[Float[Tensor, "n _"]],
    targets: Int64[Tensor, "n heads"],
    groups: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the accuracies, with intervals, for combinations of one class per part.

    The mean class accuracy is over the combinations that occur.
    """
    hits = _hits(parts, targets)
    right, among_five = hits[:, 0].numpy(), hits.any(1).numpy()
    _, combination = targets.unique(dim=0, return_inverse=True)
    members = combination.bincount()
    found: dict[str, Any] = {"top1": float(right.mean()), "top5": None}
    intervals = {"top1": share_interval(right, groups)}
    if np.prod([part.shape[1] for part in parts]) > _TOP:
        found["top5"] = float(among_five.mean())
        intervals["top5"] = share_interval(among_five, groups)
    found["mean_class_accuracy"] = float(
        (combination.bincount(hits[:, 0].double()) / members).mean()
    )
    intervals["mean_class_accuracy"] = class_mean_interval(right, combination.numpy(), groups)
    return found | {"intervals": intervals}


def _hits(
    parts: Sequence[Float[Tensor, "n _"]], targets: Int64[Tensor, "n heads"]
) -> Bool[Tensor, "n 5"]:
    """Return whether each of the five most probable combinations is the right one, best first.

    A combination among the best five consists of classes that are among the best five of their
    part, so the other classes need not be looked at.
    """
    product, right = torch.ones(len(targets), 1), torch.ones(len(targets), 1, dtype=torch.bool)
    # `product` is [n, k], the probabilities of the best combinations so far, and `right` whether
    # each of them is the true one. Each part combines them with its own best five classes, and the
    # best five results are kept. So no more than 25 are compared, whatever the number of classes.
    for part, target in zip(parts, targets.T, strict=True):
        top, classes = part.topk(min(_TOP, part.shape[1]))
        product = (product[:, :, None] * top[:, None]).flatten(1)
        right = (right[:, :, None] & (classes == target[:, None])[:, None]).flatten(1)
        product, kept = product.topk(min(_TOP, product.shape[1]))
        right = right.gather(1, kept)
    return right


def _measure_multi_label(
    scores: Float[Tensor, "n classes"],
    shown: Bool[Tensor, "n classes"],
    predicted: Bool[Tensor, "n classes"],
    labels: Sequence[str],
    groups: Sequence[str] | None,
) -> dict[str, Any]:
    """Measure with any number of labels per video."""
    per_class = _per_class(scores, shown, predicted, labels, groups, accuracies=False)
    known = [values for values in per_class.values() if values["num_videos"]]
    precisions = [values["average_precision"] for values in known]
    hits = shown.gather(1, scores.topk(min(_TOP, len(labels))).indices).numpy()
    right = hits[:, 0]
    counts = [values["num_videos"] for values in known]
    intervals = {
        "top1": share_interval(right, groups),
        "mean_average_precision": mean_interval(precisions, counts),
    }
    top5 = None
    if len(labels) > _TOP:
        among_five = hits.max(1)
        top5 = float(among_five.mean())
        intervals["top5"] = share_interval(among_five, groups)
    return {
        "metric": "mean_average_precision",
        "top1": float(right.mean()),
        "top5": top5,
        "mean_class_accuracy": None,
        "mean_average_precision": float(np.mean(precisions)),
        "intervals": intervals,
        "baselines": {"prevalence": float(np.mean(counts)) / len(scores)},
        "loss": float(F.binary_cross_entropy(scores.nan_to_num(), shown.float())),
        "per_class": per_class,
        "confusion": [],
    }


def _per_class(
    scores: Float[Tensor, "n classes"],
    shown: Bool[Tensor, "n classes"],
    predicted: Bool[Tensor, "n classes"],
    labels: Sequence[str],
    groups: Sequence[str] | None,
    *,
    accuracies: bool,
) -> dict[str, dict[str, Any]]:
    """Measure each class against all others.

    With `accuracies`, the interval is that of the recall, otherwise that of the average precision,
    which is treated as a share of the videos with the label. For a class with few of them, average
    precision itself tends to be too high.
    """
    from sklearn.metrics import average_precision_score  # here, because the import takes a second

    found = {}
    # Scores of a model that diverged are NaN, which scikit-learn refuses.
    known = scores.nan_to_num()
    columns = zip(labels, known.T.numpy(), shown.T.numpy(), predicted.T.numpy(), strict=True)
    for label, score, truth, guess in columns:
        members, guesses, right = int(truth.sum()), int(guess.sum()), int((truth & guess).sum())
        values: dict[str, Any] = {"num_videos": members, "accuracy": None, "interval": None}
        values["precision"] = right / guesses if guesses else None
        values["f1"] = 2 * right / (members + guesses) if members else None
        values["average_precision"] = None
        if members:
            values["average_precision"] = float(average_precision_score(truth, score))
            values["interval"] = wilson(values["average_precision"], members)
        if members and accuracies:
            own = np.flatnonzero(truth)
            values["accuracy"] = right / members
            values["interval"] = share_interval(guess[own], _of(groups, own))
        found[label] = values
    return found


def _two_classes(
    scores: Float[Tensor, "n 2"], shown: Bool[Tensor, "n 2"], labels: Sequence[str]
) -> dict[str, Any] | None:
    """Measure how well two classes are distinguished at all thresholds."""
    from sklearn.metrics import (
        average_precision_score,
        precision_recall_curve,
        roc_auc_score,
        roc_curve,
    )

    truth, score = shown[:, 1].numpy(), scores[:, 1].nan_to_num().numpy()
    if truth.all() or not truth.any():
        return None
    false_rates, true_rates, _ = roc_curve(truth, score)
    precision, recall, _ = precision_recall_curve(truth, score)
    return {
        "positive": labels[1],
        "roc_auc": float(roc_auc_score(truth, score)),
        "average_precision": float(average_precision_score(truth, score)),
        "roc": _points(false_rates, true_rates),
        "precision_recall": _points(recall, precision),
    }


def _points(x: ndarray, y: ndarray) -> list[tuple[float, float]]:
    """Return evenly chosen points of a curve, with its first and last."""
    chosen = np.unique(np.linspace(0, len(x) - 1, _CURVE_POINTS).round().astype(int))
    pairs = zip(x[chosen].tolist(), y[chosen].tolist(), strict=True)
    return [(round(a, 4), round(b, 4)) for a, b in pairs]


def _of(groups: Sequence[str] | None, rows: ndarray) -> list[str] | None:
    return None if groups is None else [groups[i] for i in rows]
