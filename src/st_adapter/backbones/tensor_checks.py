"""Check that tensors fit a model, and compute a digest of a model's weights."""

import hashlib
from collections.abc import Mapping
from functools import cache

import timm
from torch import Tensor, nn

from st_adapter.backbones.construction import shapes_only
from st_adapter.errors import CheckpointError

_SHOWN = 5
"""Number of differences listed in an error message."""


def check_fit(source: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that tensors have the expected names and shapes, and finite values.

    Their precision may differ from the expected one.

    Args:
        source: where the given tensors come from, for the error message.
        given: tensors by name.
        wanted: tensors of the model by name.

    Raises:
        CheckpointError: the tensors do not fit. The message lists the first differences.
    """
    differences = [f"{name}: missing in the file" for name in wanted if name not in given]
    differences += [f"{name}: not in the model" for name in given if name not in wanted]
    for name in (name for name in wanted if name in given):
        found, needed = given[name], wanted[name]
        if found.shape != needed.shape:
            differences.append(
                f"{name}: file has {list(found.shape)}, model needs {list(needed.shape)}"
            )
        if _number_type(found) != _number_type(needed):
            differences.append(f"{name}: file has {found.dtype}, model needs {needed.dtype}")
    if differences:
        shown = "; ".join(differences[:_SHOWN])
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise CheckpointError(
            f"{source} does not fit (tensors that differ: {len(differences)}): {shown}{more}"
        )
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {name} contains values that are NaN or infinite")


def _number_type(tensor: Tensor) -> tuple[bool, bool]:
    """Tell integers, real and complex numbers apart, whatever their precision."""
    return tensor.is_floating_point(), tensor.is_complex()


def digest(backbone: nn.Module) -> str:
    """Compute a SHA-256 of the names, shapes and float32 values of a backbone's tensors.

    The tensors of the image classifier are left out, so that a model has the same digest with and
    without it.

    Args:
        backbone: image model of timm.

    Returns:
        "sha256:" and 64 hexadecimal digits.
    """
    sha = hashlib.sha256()
    classifier = classifier_tensors(backbone)
    for name, tensor in backbone.state_dict().items():
        if name in classifier:
            continue
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        sha.update(f"{name}{tuple(values.shape)}".encode())
        sha.update(values.contiguous().numpy().tobytes())
    return f"sha256:{sha.hexdigest()}"


def classifier_tensors(model: nn.Module) -> frozenset[str]:
    """Return the names of the tensors of a model's own image classifier, which is not used."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    return _dropped_without_classes(name) if name and timm.is_model(name) else frozenset()


@cache
def _dropped_without_classes(name: str) -> frozenset[str]:
    """Return the tensors that a timm model has with a classifier, but not without one."""
    with shapes_only():
        full, bare = (timm.create_model(name, num_classes=n).state_dict() for n in (10, 0))
    return frozenset(full) - frozenset(bare)
