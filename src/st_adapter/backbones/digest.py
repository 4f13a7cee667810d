"""What tells a backbone's weights from others: a digest of all but its classifier."""

import hashlib
from functools import cache

import timm
from torch import nn

from st_adapter.backbones.shapes import shapes_alone


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
    with shapes_alone():
        full, bare = (timm.create_model(name, num_classes=n).state_dict() for n in (10, 0))
    return frozenset(full) - frozenset(bare)
