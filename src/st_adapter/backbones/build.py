"""Build image models by name, with weights from any source."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch.nn.functional as F
from timm.layers import QuickGELU
from torch import Tensor, nn

from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.digests import classifier_tensors
from st_adapter.backbones.libraries import image_part, library_of
from st_adapter.backbones.names import fitting_name
from st_adapter.backbones.sources import hub_error, packaged_file
from st_adapter.backbones.tensor_checks import check_fit
from st_adapter.backbones.weight_files import openai_clip
from st_adapter.backbones.weight_files.tensors import read_tensors, split_key
from st_adapter.errors import ArgumentError, CheckpointError

_FLEXIBLE_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
"""Options that make a model accept any input size; the first that its constructor knows is used."""

_REFUSALS = (TypeError, ValueError, AssertionError, RuntimeError)
"""What timm's constructors raise for sizes that conflict, such as 5 heads in 64 channels."""


def build_backbone(name: str, source: str, options: Mapping[str, int] | None = None) -> nn.Module:
    """Build an image model for any input size that its architecture allows.

    From other libraries than timm, it may be a larger model that contains it (`image_part`).

    Args:
        name: timm name, with or without the tag of its weights, or that of another library with a
            prefix.
        source: source of the weights, as `resolve_source` returns it: "hub" (timm's own download),
            "package", "random", or a file with timm's names or OpenAI's names of CLIP.
        options: sizes that differ from the timm model of that name, such as {"num_heads": 8}.

    Raises:
        ArgumentError: the model cannot be built with these sizes, or the hub cannot be reached.
        CheckpointError: the file cannot be read or does not fit.
    """
    options = options or {}
    if found := library_of(name):
        library, own_name = found
        return library.build(own_name, source)
    if source == "random":
        with OwnRandom(0):
            return create_backbone(name, **options)
    if source == "hub":
        try:
            return _create(name, options, pretrained=True)
        except OSError as error:
            raise hub_error(name, str(error).splitlines()[0]) from error
    file, key = (packaged_file(name), "") if source == "package" else split_key(source)
    backbone = create_backbone(name, **options)
    tensors = read_tensors(file, key, None if source == "package" else partial(_fits, backbone))
    if source == "package":
        tensors = _rename_in_order(tensors, backbone, file)
    if openai_clip.is_clip(tensors):
        _load_clip(backbone, name, tensors, file)
    else:
        _load_all(backbone, tensors, file)
    return backbone


def fitting_backbone(source: str) -> str | None:
    """Find the timm model that a weights file fits, to advise someone who named another one.

    Args:
        source: path of the file. Other sources, and files that cannot be read, fit none.
    """
    file, key = split_key(source)
    try:
        return fitting_name(read_tensors(file, key))
    except (ArgumentError, CheckpointError):
        return None


def create_backbone(name: str, **sizes: Any) -> nn.Module:
    """Build an image model with random weights, for any input size that its architecture allows.

    Args:
        name: timm name, or that of another library with a prefix.
        **sizes: sizes that differ from the timm model of that name.

    Raises:
        ArgumentError: the model cannot be built with these sizes.
    """
    if library_of(name):
        return image_part(build_backbone(name, "random"))
    return _create(name, sizes)


def _create(name: str, sizes: Mapping[str, Any], pretrained: bool = False) -> nn.Module:
    for flexible in _FLEXIBLE_SIZE:
        try:
            model: nn.Module = timm.create_model(
                name, pretrained=pretrained, num_classes=0, **flexible, **sizes
            )
            return _with_small_gelus(model)
        except _REFUSALS as error:
            if isinstance(error, TypeError) and flexible:
                continue  # the constructor may not know this option; try the next one
            if not sizes:  # not the user's fault
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArgumentError(f"{name} cannot be built with {sizes}: {reason}") from error
    raise AssertionError("the last entry of _FLEXIBLE_SIZE returns or raises")


class _SmallQuickGELU(nn.Module):
    """Compute x * sigmoid(1.702 x) with SiLU, which keeps one tensor for the backward pass.

    timm's version keeps two, in every block of a CLIP ViT.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x).div_(1.702)


def _with_small_gelus(model: nn.Module) -> nn.Module:
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if type(child) is QuickGELU:
                setattr(module, name, _SmallQuickGELU())
    return model


def _rename_in_order(
    tensors: Mapping[str, Tensor], model: nn.Module, file: Path
) -> dict[str, Tensor]:
    """Name tensors by their position, for packaged weights that have other names than timm's."""
    wanted = model.state_dict()
    kept = list(tensors.values())[: len(wanted)]
    if [t.shape for t in kept] != [t.shape for t in wanted.values()]:
        raise CheckpointError(f"{file}: the order of its tensors does not fit this model")
    return dict(zip(wanted, kept, strict=True))


def _load_clip(model: nn.Module, name: str, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Load a CLIP file with OpenAI's names. If it does not fit, the error says what it fits."""
    openai_clip.remark_on_activation(name.partition(".")[0], "openai")
    try:
        _load_all(model, openai_clip.to_timm(tensors), file)
    except CheckpointError as error:
        shape = openai_clip.read_shape(tensors, file)
        raise CheckpointError(f"{error}. The file is a CLIP image model {shape}") from error


def _fits(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors fit the model, by timm's names or OpenAI's."""
    if openai_clip.is_clip(tensors):
        tensors = openai_clip.to_timm(tensors)
    wanted, classifier = model.state_dict(), classifier_tensors(model)
    return (
        tensors.keys() >= wanted.keys()
        and tensors.keys() - wanted.keys() <= classifier
        and all(tensors[name].shape == tensor.shape for name, tensor in wanted.items())
    )


def _load_all(model: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Load all tensors into the model, or raise and load none.

    A file may contain the image classifier as well, which the model does not have.
    """
    wanted = model.state_dict()
    classifier = classifier_tensors(model)
    given = {k: v for k, v in tensors.items() if k in wanted or k not in classifier}
    check_fit(str(file), given, wanted)
    model.load_state_dict(given)
