"""The faster implementation of attention for training on the CPU."""

import torch
from timm.layers import Attention, PatchEmbed, use_fused_attn

from st_adapter.model.classifier import VideoClassifier

_FEW_PATCHES = 256
"""Most patches per frame with which unfused attention is used. Its weights need memory that grows
with the square of this number.
"""


def speed_up_attention(model: VideoClassifier, size: int) -> None:
    """Use unfused attention for training steps in half precision on the CPU, if frames are small.

    PyTorch's fused attention recomputes the attention weights in the backward pass, which is slow
    on the CPU: a step of ViT-B/16 with adapters of width 384 takes 1.22 times as long with it, for
    0.98 times the memory (2 clips of 8 frames, 2 cores of an Intel Xeon with amx_bf16, torch 2.15,
    2026-11-29). Scoring is 1.06 times as fast with fused attention and keeps it. Models on a GPU
    and backbones other than timm's ViTs are left unchanged.

    Args:
        model: The classifier. Its attention modules get a hook.
        size: Height and width of the frames in pixels.
    """
    embed = getattr(model.backbone, "patch_embed", None)
    if model.device.type != "cpu" or not isinstance(embed, PatchEmbed):
        return
    rows, columns = embed.dynamic_feat_size((size, size))
    if rows * columns > _FEW_PATCHES:
        return
    for module in model.backbone.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(_choose_form)


def _choose_form(attention: Attention, _inputs: object) -> None:
    """Fuse the call that follows, unless it is part of a training step in half precision."""
    in_half_step = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    attention.fused_attn = use_fused_attn() and not in_half_step
