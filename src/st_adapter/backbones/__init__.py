"""Families of image models: what runs a given backbone, where adapters sit in it."""

from torch import nn

from st_adapter.backbones.blockwise import BlockwiseFamily
from st_adapter.backbones.family import Family
from st_adapter.backbones.vit import VisionTransformerFamily
from st_adapter.errors import ArgumentError

FAMILIES: tuple[type[Family], ...] = (VisionTransformerFamily, BlockwiseFamily)


def family_of(backbone: nn.Module) -> Family:
    """Return the family that runs the backbone, bound to it.

    Raises:
        ArgumentError: no family does.
    """
    for family in FAMILIES:
        if family.supports(backbone):
            try:
                return family(backbone)
            except RuntimeError as error:
                if "channels" not in str(error):
                    raise
                raise ArgumentError(
                    f"this {type(backbone).__name__} does not take the three channels of RGB; make "
                    "it with timm's default in_chans"
                ) from error
    raise ArgumentError(
        f"adapters do not fit {type(backbone).__name__}: it is not an image model of timm, "
        "or keeps its blocks under names that are not known here"
    )
