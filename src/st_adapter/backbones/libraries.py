"""Image models of other libraries than timm, by names such as hf:OWNER/NAME."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from st_adapter.backbones import open_clip_models, torchvision_models, transformers_models
from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.family import Normalisation
from st_adapter.backbones.tensor_checks import load_file_into


@dataclass(frozen=True)
class Library:
    """Build the image models of one library.

    Attributes:
        make: makes a model from its name, with its own weights (True) or random ones.
        check_name: raises ArgumentError if the library does not have a model or, if they are
            wanted (True), its weights.
        preset: returns the normalisation that the weights of a name expect, if models of the
            library do not record it.
    """

    make: Callable[[str, bool], nn.Module]
    check_name: Callable[[str, bool], None] = lambda name, pretrained: None
    preset: Callable[[str], Normalisation | None] = lambda name: None

    def build(self, name: str, source: str) -> nn.Module:
        """Build a model.

        Args:
            name: the library's own name of it.
            source: "hub" (the library's own download), "random", or a file with the tensor names of
                its image part.

        Raises:
            ArgumentError: the model or its weights cannot be found.
            CheckpointError: the file does not fit.
        """
        if source == "hub":
            return self.make(name, True).eval()
        with OwnRandom(0):
            model = self.make(name, False).eval()
        if source != "random":
            load_file_into(image_part(model), source)
        return model


_LIBRARIES = {
    "hf": Library(transformers_models.make),
    "torchvision": Library(
        torchvision_models.make, torchvision_models.check_name, torchvision_models.preset
    ),
    "open_clip": Library(open_clip_models.make, open_clip_models.check_name),
}
"""The libraries by the prefix of their names."""


def library_of(name: str) -> tuple[Library, str] | None:
    """Split the name of a backbone into its library and the library's own name of the model.

    Args:
        name: name of a backbone, such as "torchvision:vit_b_16".

    Returns:
        The library and the name without its prefix; None for a name of timm.
    """
    prefix, _, rest = name.partition(":")
    return (_LIBRARIES[prefix], rest) if prefix in _LIBRARIES and rest else None


def image_part(model: nn.Module) -> nn.Module:
    """Return the part of a model that turns pictures into features, or the model itself.

    Args:
        model: an image model, or a model of pictures and text that contains one.
    """
    if transformers_models.is_transformers(model):
        return transformers_models.image_part(model)
    if open_clip_models.is_open_clip(model):
        return open_clip_models.image_part(model)
    return model


def name_of(model: nn.Module) -> str:
    """Return the name from which a model can be built again; empty if it does not record one."""
    if transformers_models.is_transformers(model):
        return transformers_models.name_of(model)
    config = getattr(model, "pretrained_cfg", None) or {}
    return ".".join(filter(None, (config.get("architecture"), config.get("tag"))))


def normalisation_of(model: nn.Module) -> Normalisation:
    """Return the mean and standard deviation of RGB values in 0..1 that a model expects.

    They are those that its library states, or those of ImageNet.
    """
    if transformers_models.is_transformers(model):
        return transformers_models.normalisation_of(model)
    if open_clip_models.is_open_clip(model):
        return open_clip_models.normalisation_of(model)
    config, usual = getattr(model, "pretrained_cfg", None) or {}, Normalisation()
    mean, std = config.get("mean", usual.mean), config.get("std", usual.std)
    return Normalisation(tuple(mean), tuple(std))
