"""Digests that recognise the weights of image models."""

import hashlib
from functools import cache

import timm
from torch import nn

from st_adapter.backbones import transformers_models
from st_adapter.backbones.construction import shapes_only


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
    """Return the names of the tensors of a model that are not used, such as its classifier."""
    if transformers_models.is_transformers(model):
        return transformers_models.unused_tensors(model)
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    return _dropped_without_classes(name) if name and timm.is_model(name) else frozenset()


@cache
def _dropped_without_classes(name: str) -> frozenset[str]:
    """Return the tensors that a timm model has with a classifier, but not without one."""
    with shapes_only():
        full, bare = (timm.create_model(name, num_classes=n).state_dict() for n in (10, 0))
    return frozenset(full) - frozenset(bare)
