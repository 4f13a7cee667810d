"""Parts of the image model that are trained themselves."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from st_adapter.errors import ArgumentError


def biases(backbone: nn.Module) -> list[nn.Parameter]:
    """The bias of each module that has one. BitFit, Ben Zaken et al. 2021, arXiv 2106.10199."""
    found = [getattr(module, "bias", None) for module in backbone.modules()]
    chosen = [bias for bias in found if isinstance(bias, nn.Parameter)]
    if not chosen:
        raise ArgumentError(f"method bitfit does not fit {type(backbone).__name__}: it has no bias")
    return chosen


def last_blocks(blocks: Sequence[nn.Module], count: int) -> list[nn.Parameter]:
    """The parameters of the last `count` blocks."""
    if count > len(blocks):
        raise ArgumentError(f"this backbone has {len(blocks)} blocks; trained blocks was {count}")
    return [parameter for block in blocks[-count:] for parameter in block.parameters()]


def forget_caches(backbone: nn.Module) -> None:
    """Let timm's attention modules compute position biases anew in every pass.

    In evaluation mode LeViT, TinyViT and their kin keep them, as long as weights do not change.
    """
    for module in backbone.modules():
        cache: Any = getattr(module, "attention_bias_cache", None)
        if cache is not None:
            cache.clear()
            module.training = True  # of this module alone: it has no dropout
