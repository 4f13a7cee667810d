"""Families of image models: which file answers for a given backbone."""

from typing import cast

from torch import nn

from st_adapter.backbones import cnn, vit
from st_adapter.backbones.site import Family
from st_adapter.errors import ArgumentError

FAMILIES = cast(tuple[Family, ...], (vit, cnn))


def family_of(backbone: nn.Module) -> Family:
    """Return the family that runs the backbone.

    Raises:
        ArgumentError: no family does; the message lists those there are.
    """
    for family in FAMILIES:
        if family.supports(backbone):
            return family
    names = ", ".join(family.NAME for family in FAMILIES)
    raise ArgumentError(
        f"adapters do not fit {type(backbone).__name__} yet; supported families: {names} "
        "(plain ViT blocks; EfficientNet, MobileNet and ResNet)"
    )
