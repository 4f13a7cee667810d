"""Accuracy, average precision and loss of scores, for every type of task."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from st_adapter.common.task import Task
from st_adapter.errors import DataError

METRICS = {"top1": "top-1", "mean_average_precision": "mAP"}
"""The main measures a classifier can have, each with its name in tables and reports."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How well the scores of videos agree with their labels.

    Accuracies and precisions are in 0..1.

    Attributes:
        metric: Name of the main measure, a key of `METRICS`.
        top1: Fraction of videos whose best class is right. With several heads, the classes of all
            heads must be right (an action is a verb and a noun), and the score of such a
            combination is the product of theirs. With any number of labels, the best class must be
            one of the video's.
        top5: Fraction of videos with a right class, or combination, among the best five.
        mean_class_accuracy: Mean of the top-1 accuracies of the classes, or combinations, that
            occur; None with any number of labels.
        mean_average_precision: Mean of the average precisions of the classes that occur; None
            unless a video can have any number of labels.
        loss: Mean cross-entropy, averaged over heads; binary cross-entropy with any number of
            labels.
        heads: With several heads, `top1`, `top5` and `mean_class_accuracy` of each by its name.
        per_class: By label, `num_videos` and `accuracy`, or `average_precision` with any number of
            labels. The measure is None for a class without videos.
        confusion: Number of videos by true class (row) and predicted class (column), in the order
            of the labels. With several heads, each head has its own square block on the diagonal.
            Empty with any number of labels.
    """

    metric: str = "top1"
    top1: float
    top5: float
    mean_class_accuracy: float | None
    mean_average_precision: float | None = None
    loss: float
    heads: dict[str, dict[str, float]] = field(default_factory=dict)
    per_class: dict[str, dict[str, float | int | None]]
    confusion: list[list[int]]

    @property
    def score(self) -> float:
        """Value of the main measure."""
        value: float = getattr(self, self.metric)
        return value


def measure(
    scores: Float[Tensor, "n classes"],
    targets: Sequence[Sequence[int]],
    labels: Sequence[str],
    task: Task,
) -> Measures:
    """Measure how well scores agree with the labels of the videos.

    Args:
        scores: Scores of n videos, in 0..1.
        targets: For each video, the indices of its classes: one, one per head, or any number.
        labels: Names of the classes.
        task: How the classes belong together.

    Returns:
        The measures that apply to the task.

    Raises:
        DataError: If videos can have any number of labels and none of them has any.
    """
    if task.multi_label:
        return _measure_multi_label(scores, targets, labels)
    return _measure_heads(scores, torch.tensor(targets), labels, task)


def _measure_heads(
    scores: Float[Tensor, "n classes"],
    targets: Int64[Tensor, "n heads"],
    labels: Sequence[str],
    task: Task,
) -> Measures:
    """Measure with one label per head. A task without heads counts as one unnamed head."""
    slices = list(task.slices(len(labels)))
    parts = [scores[:, own] for _, own in slices]
    local = targets - torch.tensor([own.start for _, own in slices])
    confusion = torch.zeros(len(labels), len(labels), dtype=torch.long)
    losses = []
    for (_, own), part, target in zip(slices, parts, local.T, strict=True):
        count = part.shape[1]
        cells = (target * count + part.argmax(1)).bincount(minlength=count * count)
        confusion[own, own] = cells.view(count, count)
        losses.append(F.nll_loss(part.clamp_min(1e-12).log(), target))
    heads = {
        name: _accuracies([part], local[:, i : i + 1])
        for i, ((name, _), part) in enumerate(zip(slices, parts, strict=True))
    }
    joint = _accuracies(parts, local) if task.heads else heads.pop("")
    members, right = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    return Measures(
        top1=joint["top1"],
        top5=joint["top5"],
        mean_class_accuracy=joint["mean_class_accuracy"],
        loss=float(torch.stack(losses).mean()),
        heads=heads,
        per_class={
            label: {"accuracy": r / n if n else None, "num_videos": n}
            for label, r, n in zip(labels, right, members, strict=True)
        },
        confusion=confusion.tolist(),
    )


def _accuracies(
    parts: Sequence[Float[Tensor, "n _"]], targets: Int64[Tensor, "n heads"]
) -> dict[str, float]:
    """Return the accuracies for combinations of one class per part.

    The mean class accuracy is over the combinations that occur.
    """
    hits = _hits(parts, targets)
    right = hits[:, 0].double()
    _, combination = targets.unique(dim=0, return_inverse=True)
    members = combination.bincount()
    return {
        "top1": float(right.mean()),
        "top5": float(hits.any(1).double().mean()),
        "mean_class_accuracy": float((combination.bincount(right) / members).mean()),
    }


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
        top, classes = part.topk(min(5, part.shape[1]))
        product = (product[:, :, None] * top[:, None]).flatten(1)
        right = (right[:, :, None] & (classes == target[:, None])[:, None]).flatten(1)
        product, kept = product.topk(min(5, product.shape[1]))
        right = right.gather(1, kept)
    return right


def _measure_multi_label(
    scores: Float[Tensor, "n classes"], targets: Sequence[Sequence[int]], labels: Sequence[str]
) -> Measures:
    # Imported here because it imports every metric of torchmetrics: seconds, and 100 MB.
    from torchmetrics.functional.classification import binary_average_precision

    shown = torch.zeros(scores.shape, dtype=torch.long)
    for row, own in zip(shown, targets, strict=True):
        row[list(own)] = 1
    counts = shown.sum(0).tolist()
    if not any(counts):
        raise DataError(f"cannot compute mAP: no video has a label (0 of {len(targets)})")
    precisions = {
        i: float(binary_average_precision(scores[:, i], shown[:, i]))
        for i, count in enumerate(counts)
        if count
    }
    hits = shown.gather(1, scores.topk(min(5, len(labels))).indices).bool()
    return Measures(
        metric="mean_average_precision",
        top1=float(hits[:, 0].double().mean()),
        top5=float(hits.any(1).double().mean()),
        mean_class_accuracy=None,
        mean_average_precision=sum(precisions.values()) / len(precisions),
        loss=float(F.binary_cross_entropy(scores, shown.float())),
        per_class={
            label: {"average_precision": precisions.get(i), "num_videos": counts[i]}
            for i, label in enumerate(labels)
        },
        confusion=[],
    )
