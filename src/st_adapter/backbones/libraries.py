"""Image models of other libraries than timm, by names such as hf:OWNER/NAME."""

from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from st_adapter.backbones import open_clip_models, torchvision_models, transformers_models
from st_adapter.backbones.family import Normalisation

_LIBRARIES: dict[str, ModuleType] = {
    "hf": transformers_models,
    "torchvision": torchvision_models,
    "open_clip": open_clip_models,
}
"""The modules that build models, by the prefix of their names."""


def library_of(name: str) -> tuple[Any, str] | None:
    """Split the name of a backbone into its library and the library's own name of the model.

    Args:
        name: name of a backbone, such as "torchvision:vit_b_16".

    Returns:
        The module of this package that builds models of the library, with the functions `build`
        and `check_name`, and the name without its prefix; None for a name of timm.
    """
    prefix, _, rest = name.partition(":")
    return (_LIBRARIES[prefix], rest) if prefix in _LIBRARIES and rest else None


class Described(NamedTuple):
    """Describe an image model that the caller has built.

    Attributes:
        backbone: the part of it that turns pictures into features.
        name: name from which it can be built again; empty if there is none.
        normalisation: mean and standard deviation of RGB values that it expects.
    """

    backbone: nn.Module
    name: str
    normalisation: Normalisation


def describe(model: nn.Module) -> Described:
    """Describe an image model of any library.

    Args:
        model: an image model, or a model of pictures and text that contains one.
    """
    if transformers_models.is_transformers(model):
        backbone = transformers_models.image_part(model)
        name = transformers_models.name_of(backbone)
        return Described(backbone, name, transformers_models.normalisation(backbone))
    if open_clip_models.is_open_clip(model):
        backbone = open_clip_models.image_part(model)
        return Described(backbone, "", open_clip_models.normalisation(model))
    config = getattr(model, "pretrained_cfg", None) or {}
    name = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    usual = Normalisation()
    return Described(
        model,
        name,
        Normalisation(tuple(config.get("mean", usual.mean)), tuple(config.get("std", usual.std))),
    )
