"""Frozen image models built by name."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch.nn.functional as F
from timm.layers import QuickGELU
from torch import Tensor, nn

from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.sources import hub_error, packaged_file
from st_adapter.backbones.tensor_checks import check_fit, classifier_tensors
from st_adapter.backbones.weight_files import openai_clip
from st_adapter.backbones.weight_files.tensors import read_tensors, split_key
from st_adapter.errors import ArgumentError, CheckpointError

_FLEXIBLE_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
"""Options that let one model take any input size; the first that its constructor knows is used."""

_REFUSALS = (TypeError, ValueError, AssertionError, RuntimeError)
"""What timm's constructors raise where sizes do not go together: five heads in 64 channels."""


def build_backbone(name: str, source: str, options: Mapping[str, int] | None = None) -> nn.Module:
    """Build a timm model without its classifier, able to take any size its kind allows.

    Args:
        name: any timm name, with or without a pretrained tag.
        source: of the weights, as `resolve_source` returns it: "hub" (timm's own download),
            "package", "random", or a file in timm's names or OpenAI's CLIP names.
        options: sizes that differ from the named model's, as `timm.create_model` takes them.

    Raises:
        ArgumentError: the model cannot be built with these sizes, or the hub cannot be reached.
        CheckpointError: the file is unreadable or does not fit.
    """
    options = options or {}
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


def create_backbone(name: str, **sizes: Any) -> nn.Module:
    """Create a model that takes any input size, where its family has an option for that.

    Raises:
        ArgumentError: the model cannot be built with these sizes.
    """
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
                continue  # the constructor does not know this option, or one of the sizes
            if not sizes:
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArgumentError(f"{name} cannot be built with {sizes}: {reason}") from error
    raise AssertionError("the last options are none")


class _SmallQuickGELU(nn.Module):
    """x * sigmoid(1.702 x), of which the backward pass keeps one tensor, where timm's keeps two."""

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
    """Give tensors that stand in the model's own order the model's names."""
    wanted = model.state_dict()
    kept = list(tensors.values())[: len(wanted)]
    if [t.shape for t in kept] != [t.shape for t in wanted.values()]:
        raise CheckpointError(f"{file}: its tensors do not stand in the order of this model's")
    return dict(zip(wanted, kept, strict=True))


def _load_clip(model: nn.Module, name: str, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Load a CLIP file in OpenAI's names, or say which backbone it is for."""
    openai_clip.remark_on_activation(name.partition(".")[0], "openai")
    try:
        _load_all(model, openai_clip.to_timm(tensors), file)
    except CheckpointError as error:
        shape = openai_clip.read_shape(tensors, file)
        raise CheckpointError(f"{error}. The file is a CLIP image model {shape}") from error


def _fits(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of the model, in timm's names or OpenAI's."""
    if openai_clip.is_clip(tensors):
        tensors = openai_clip.to_timm(tensors)
    wanted, classifier = model.state_dict(), classifier_tensors(model)
    return (
        tensors.keys() >= wanted.keys()
        and tensors.keys() - wanted.keys() <= classifier
        and all(tensors[name].shape == tensor.shape for name, tensor in wanted.items())
    )


def _load_all(model: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Copy every tensor, or none: the file may only have a classifier in excess."""
    wanted = model.state_dict()
    classifier = classifier_tensors(model)
    given = {k: v for k, v in tensors.items() if k in wanted or k not in classifier}
    check_fit(str(file), given, wanted)
    model.load_state_dict(given)
