"""Families of image models, each of which knows how to run its backbones with adapters."""

from torch import nn

from st_adapter.backbones.family import Family
from st_adapter.backbones.open_clip_models import OpenClipFamily
from st_adapter.backbones.timm_models import TimmFamily
from st_adapter.backbones.torchvision_models import TorchvisionFamily
from st_adapter.backbones.transformers_models import TransformersFamily
from st_adapter.backbones.vit import VisionTransformerFamily
from st_adapter.errors import ArgumentError

# VisionTransformerFamily comes first, because TimmFamily would accept its models as well.
FAMILIES: tuple[type[Family], ...] = (
    VisionTransformerFamily,
    TimmFamily,
    TransformersFamily,
    TorchvisionFamily,
    OpenClipFamily,
)


def family_of(backbone: nn.Module) -> Family:
    """Return the family that runs a backbone, bound to that backbone.

    Args:
        backbone: image model of timm, transformers, torchvision or open_clip.

    Raises:
        ArgumentError: no family supports the backbone, or it does not take RGB frames.
    """
    for family in FAMILIES:
        if family.supports(backbone):
            try:
                return family(backbone)
            except RuntimeError as error:
                if "channels" not in str(error):
                    raise
                raise ArgumentError(
                    f"this {type(backbone).__name__} does not take the three channels of RGB; "
                    "create it with timm's default in_chans"
                ) from error
    raise ArgumentError(
        f"st-adapter cannot find the blocks of {type(backbone).__name__}: it is not an image model "
        "of timm, transformers, torchvision or open_clip, or the names of its blocks are not "
        "known; call attach(model, blocks=..., features=...)"
    )
