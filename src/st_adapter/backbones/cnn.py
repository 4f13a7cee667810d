"""Convolutional image models of timm that are a stem, stages of residual blocks, a tail."""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import CondConv2d, MixedConv2d
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import ResNet
from torch import Tensor, nn

from st_adapter.backbones.site import Adapters, Site

NAME = "CNN"
CREATE_OPTIONS: dict[str, Any] = {}


def supports(backbone: nn.Module) -> bool:
    """Whether the backbone is an EfficientNet, MobileNet or ResNet of ordinary convolutions."""
    return isinstance(backbone, (EfficientNet, MobileNetV3, ResNet)) and not any(
        isinstance(module, (CondConv2d, MixedConv2d)) for module in backbone.modules()
    )


def sites(backbone: Any) -> list[Site]:
    """Before every residual block."""
    return [
        Site(name=_name(i), position="block", block=i, channels=_input_channels(block))
        for i, block in enumerate(_blocks(backbone))
    ]


def frame_features(backbone: Any, frames: Tensor, adapters: Adapters) -> Tensor:
    """Run each frame alone, but for the adapters, to the features before the classifier."""
    x = frames.contiguous(memory_format=torch.channels_last)
    for module in _stem(backbone):
        x = module(x)
    for i, block in enumerate(_blocks(backbone)):
        x = block(_adapt_map(x, adapters.get(_name(i))))
    for module in _tail(backbone):
        x = module(x)
    pooled: Tensor = backbone.forward_head(x, pre_logits=True)
    return pooled


def clip_features(backbone: Any, pooled: Tensor) -> Tensor:
    """Nothing is left to do after pooling."""
    return pooled


def _name(block: int) -> str:
    return f"blocks_{block}"


def _stem(backbone: Any) -> list[nn.Module]:
    if isinstance(backbone, ResNet):
        return [backbone.conv1, backbone.bn1, backbone.act1, backbone.maxpool]
    return [backbone.conv_stem, backbone.bn1]


def _blocks(backbone: Any) -> list[nn.Module]:
    if isinstance(backbone, ResNet):
        stages = [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
    else:
        stages = list(backbone.blocks)
    return [block for stage in stages for block in stage]


def _tail(backbone: Any) -> list[nn.Module]:
    return [backbone.conv_head, backbone.bn2] if isinstance(backbone, EfficientNet) else []


def _input_channels(block: nn.Module) -> int:
    return next(m.in_channels for m in block.modules() if isinstance(m, nn.Conv2d))


def _adapt_map(x: Tensor, adapter: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Adapt a feature map [n, c, h, w], in channels-last views."""
    return x if adapter is None else adapter(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
