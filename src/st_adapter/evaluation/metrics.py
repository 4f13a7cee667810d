"""How good scores are against what videos show, for each kind of task."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from st_adapter.common.task import Task
from st_adapter.errors import DataError

METRICS = {"top1": "top-1", "mean_average_precision": "mAP"}
"""What a classifier may be judged by, to its name for people."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How good a classifier is. Everything is a fraction.

    Attributes:
        metric: which of METRICS it is judged by.
        top1, top5: of videos whose class is the likeliest, or among the five. With several heads
            the class is the combination (an action is its verb and its noun), whose probability
            is the product; with many labels any class that the video shows will do.
        mean_class_accuracy: mean top-1 of the classes, or combinations, that occur; None with many
            labels.
        mean_average_precision: mean over the classes that occur; None but with many labels.
        loss: mean loss of the scores.
        heads: name to `top1`, `top5` and `mean_class_accuracy` of each of several heads.
        per_class: `accuracy`, or `average_precision` with many labels, and `num_videos` by name.
        confusion: rows are true classes, columns predicted ones, in the order of the labels;
            classes of different heads do not meet. Empty with many labels.
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
        """What the classifier is judged by."""
        value: float = getattr(self, self.metric)
        return value


def measure(
    scores: Float[Tensor, "n classes"],
    targets: Sequence[Sequence[int]],
    labels: Sequence[str],
    task: Task,
) -> Measures:
    """Compare scores in 0..1 with the classes that each video shows.

    Raises:
        DataError: labels are many, and no video has one.
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
    """Measure with one label of every head; a task without heads is one head without a name."""
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
    """Top-1 and top-5 of combinations of a class of each part; mean top-1 of those that occur."""
    hits = _hits(parts, targets)
    right = hits[:, 0].double()
    _, kind = targets.unique(dim=0, return_inverse=True)
    members = kind.bincount()
    return {
        "top1": float(right.mean()),
        "top5": float(hits.any(1).double().mean()),
        "mean_class_accuracy": float((kind.bincount(right) / members).mean()),
    }


def _hits(
    parts: Sequence[Float[Tensor, "n _"]], targets: Int64[Tensor, "n heads"]
) -> Bool[Tensor, "n 5"]:
    """Whether each of the five likeliest combinations is the right one.

    The five likeliest products are among those of the five likeliest factors.
    """
    product, right = torch.ones(len(targets), 1), torch.ones(len(targets), 1, dtype=torch.bool)
    # `product` holds the probabilities of the likeliest combinations so far, [n, k]; `right` says
    # whether each is the true one. A part pairs each of them with its own five likeliest classes,
    # and the best five pairs stay: never more than 25 are compared, however many classes there are.
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
    # It takes seconds and 100 MB, as it imports all metrics that there are.
    from torchmetrics.functional.classification import binary_average_precision

    shown = torch.zeros(scores.shape, dtype=torch.long)
    for row, own in zip(shown, targets, strict=True):
        row[list(own)] = 1
    counts = shown.sum(0).tolist()
    if not any(counts):
        raise DataError(f"none of {len(targets)} videos has a label to measure by")
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
