"""Whether tensors are those of a model: their names and shapes, and a digest of their values."""

import hashlib
from collections.abc import Mapping
from functools import cache

import timm
import torch
from torch import Tensor, nn

from st_adapter.errors import CheckpointError

_SHOWN = 5


def check_fit(source: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that `given` has the names, shapes and kinds of `wanted`, and finite values.

    Raises:
        CheckpointError: it has not; the message lists what differs.
    """
    differences = [f"{name}: missing in the file" for name in wanted if name not in given]
    differences += [f"{name}: not in the model" for name in given if name not in wanted]
    for name in (name for name in wanted if name in given):
        found, needed = given[name], wanted[name]
        if found.shape != needed.shape:
            differences.append(
                f"{name}: file has {list(found.shape)}, model needs {list(needed.shape)}"
            )
        if _kind(found) != _kind(needed):
            differences.append(f"{name}: file has {found.dtype}, model needs {needed.dtype}")
    if differences:
        shown = "; ".join(differences[:_SHOWN])
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise CheckpointError(
            f"{source} does not fit (tensors that differ: {len(differences)}): {shown}{more}"
        )
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {name} holds values that are NaN or infinite")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Precision may differ between file and model; whole, real and complex numbers may not."""
    return tensor.is_floating_point(), tensor.is_complex()


def digest(backbone: nn.Module) -> str:
    """SHA-256 over the names, shapes and float32 values of all tensors but the classifier's."""
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
    """Names of the image classifier's tensors, which adapters do not use."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    return _dropped_without_classes(name) if name and timm.is_model(name) else frozenset()


@cache
def _dropped_without_classes(name: str) -> frozenset[str]:
    """What a model of timm has with classes, and not without."""
    with torch.device("meta"):
        full, bare = (timm.create_model(name, num_classes=n).state_dict() for n in (10, 0))
    return frozenset(full) - frozenset(bare)
