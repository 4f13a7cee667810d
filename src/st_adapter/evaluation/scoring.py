"""From logits to scores and to the loss, for each kind of task."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from st_adapter.common.task import Task


def probabilities(logits: Float[Tensor, "n classes"], task: Task) -> Float[Tensor, "n classes"]:
    """Softmax over the classes of each head; the sigmoid of each class where labels are many."""
    if task.multi_label:
        return logits.sigmoid()
    parts = task.slices(logits.shape[1])
    return torch.cat([logits[:, own].softmax(1) for _, own in parts], dim=1)


def task_loss(
    logits: Float[Tensor, "n classes"],
    targets: Float[Tensor, "n classes"],
    task: Task,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy, mean over heads; binary cross-entropy of classes where labels are many.

    Args:
        targets: 1 for what a clip shows; shares of it where clips are mixed.
        label_smoothing: share of the target spread over all classes of a head.
    """
    if task.multi_label:
        smooth = targets * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smooth)
    losses = [
        F.cross_entropy(logits[:, own], targets[:, own], label_smoothing=label_smoothing)
        for _, own in task.slices(logits.shape[1])
    ]
    return torch.stack(losses).mean()
