"""The heads that turn the features of a clip into one logit per class."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from st_adapter.config import Head

_START_SCALE = 1 / 0.07
"""Scale of the cosines before training, as in CLIP (Radford et al. 2021, arXiv 2103.00020)."""

_LARGEST_SCALE = 100.0
"""Largest scale of the cosines, at which CLIP's own training is stopped as well."""


class CosineHead(nn.Module):
    """Score each class by the cosine between the features of a clip and a vector of the class.

        logit = scale * cosine(features - center, class vector)

    The length of a class vector has no effect. A vector from elsewhere, such as the features of a
    text or of a few videos, can therefore be added to the trained ones.

    Args:
        num_features: width of the features, c.
        num_classes: number of classes.

    Attributes:
        weight: class vectors [classes, c], of any length except 0.
        log_scale: natural logarithm of the scale of the cosines. It is trained; the scale is at
            most 100.
        center: point [c] from which the direction of features is measured. It is zero unless the
            head starts from class means, and it is never trained.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features, self.out_features = num_features, num_classes
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        self.log_scale = nn.Parameter(torch.tensor(math.log(_START_SCALE)))
        # A parameter, not a buffer, because the trained tensors of a classifier are parameters.
        self.center = nn.Parameter(torch.zeros(num_features))
        nn.init.normal_(self.weight)

    def forward(self, features: Float[Tensor, "b c"]) -> Float[Tensor, "b classes"]:
        """Compute the logits of clips from their features, in float32 at any precision."""
        directions = F.normalize(features.float() - self.center.float(), dim=1)
        classes = F.normalize(self.weight.float(), dim=1)
        scale = self.log_scale.float().clamp(max=math.log(_LARGEST_SCALE)).exp()
        # At scale 100, cosines that autocast rounds to bfloat16 make logits wrong by up to 0.45.
        with _no_autocast(features.device.type):
            return scale * F.linear(directions, classes)


def _no_autocast(device: str) -> AbstractContextManager[object]:
    # torch.amp.is_autocast_available would tell, but torch 2.11 cannot compile a call of it.
    if device == "meta":
        return nullcontext()
    return torch.autocast(device, enabled=False)


ClassHead = nn.Linear | CosineHead


def build_head(kind: Head, num_features: int, num_classes: int) -> ClassHead:
    """Build a head; the bias of a linear one is zero.

    Args:
        kind: "linear" or "cosine".
        num_features: width of the features.
        num_classes: number of classes.
    """
    if kind == "cosine":
        return CosineHead(num_features, num_classes)
    head = nn.Linear(num_features, num_classes)
    nn.init.zeros_(head.bias)
    return head


def freeze_head(head: ClassHead, class_vectors: bool) -> None:
    """Freeze the center of a cosine head, and the class vectors of either head if asked to.

    The scale of a cosine head is always trained: frozen vectors would otherwise limit how sure
    the classifier can become.

    Args:
        head: the head, changed in place.
        class_vectors: whether to freeze the class vectors, and with them the biases.
    """
    if isinstance(head, CosineHead):
        head.center.requires_grad_(False)
        head.weight.requires_grad_(not class_vectors)
    elif class_vectors:
        head.requires_grad_(False)


def draw_weights(head: ClassHead, std: float) -> None:
    """Draw random class vectors: of this standard deviation, or of length 1 in a cosine head."""
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=std)
        return
    nn.init.normal_(head.weight)
    with torch.no_grad():  # only the direction counts, and short vectors turn far in each step
        head.weight.copy_(F.normalize(head.weight, dim=1))


@torch.no_grad()
def set_linear(
    head: nn.Linear, weight: Float[Tensor, "classes c"], bias: Float[Tensor, " classes"]
) -> None:
    """Copy weights and biases into a linear head."""
    head.weight.copy_(weight)
    head.bias.copy_(bias)


@torch.no_grad()
def set_cosine(
    head: CosineHead,
    vectors: Float[Tensor, "classes c"],
    center: Float[Tensor, " c"] | None = None,
) -> None:
    """Copy class vectors into a cosine head, with the center that belongs to them or zero."""
    head.weight.copy_(F.normalize(vectors, dim=1))
    head.center.copy_(torch.zeros_like(head.center) if center is None else center)
    head.log_scale.fill_(math.log(_START_SCALE))
