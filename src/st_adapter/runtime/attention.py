"""The form of attention that a training step on a CPU is fastest with."""

import torch
from timm.layers import Attention, PatchEmbed, use_fused_attn

from st_adapter.model.classifier import VideoClassifier

_FEW_PATCHES = 256
"""Patches up to which weights of attention, which grow with their square, are kept."""


def speed_up_attention(model: VideoClassifier, size: int) -> None:
    """Let a ViT of few tokens keep its weights of attention, for steps in half precision on a CPU.

    torch's fused attention computes them again in the backward pass and is slow at it there. A
    step of ViT-B/16 with adapters of 384 takes 1.22 times as long with it, and 0.98 of the memory
    (2 clips of 8 frames, 2 cores of an Intel Xeon with amx_bf16, torch 2.15, 2026-11-29). Scoring
    is 1.06 times as fast with it, and has it, as everywhere else.

    Args:
        size: height and width of the frames, pixels.
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
    """Whether to fuse the call that follows: its gradient is not asked for, or is in float32."""
    in_half_step = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    attention.fused_attn = use_fused_attn() and not in_half_step
