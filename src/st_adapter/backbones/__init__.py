"""Families of image models: which file answers for a given backbone."""

from typing import cast

from torch import nn

from st_adapter.backbones import blockwise, vit
from st_adapter.backbones.family import Family
from st_adapter.errors import ArgumentError

FAMILIES = cast(tuple[Family, ...], (vit, blockwise))


def family_named(name: str) -> Family:
    """Return the family that calls itself so."""
    return next(family for family in FAMILIES if name == family.NAME)


def family_of(backbone: nn.Module) -> Family:
    """Return the family that runs the backbone.

    Raises:
        ArgumentError: no family does.
    """
    for family in FAMILIES:
        if family.supports(backbone):
            return family
    raise ArgumentError(
        f"adapters do not fit {type(backbone).__name__}: it is no image model of timm, "
        "or keeps its blocks under names that are not known here"
    )
