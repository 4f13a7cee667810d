"""Trained modules that turn frame features into clip features."""

import math

import torch
from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

_HEAD_WIDTH = 64
_WIDEST = 384
"""Most channels that both modules work in, as in the adapters; wider features are projected."""


class TemporalTransformer(nn.Module):
    """Add to frame features what a small transformer computes from all frames of the clip.

    It follows ActionCLIP, Wang et al. 2021, arXiv 2109.08472, but has sinusoidal instead of learnt
    position embeddings, so that it accepts any number of frames. The last layer starts at zero, so
    that a new module returns its input unchanged.

    Args:
        channels: width of the features.
        layers: number of transformer blocks, 1 or more.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        width = min(channels, _WIDEST)
        self.norm = nn.LayerNorm(channels)
        self.into = _narrow(channels, width)
        self.blocks = nn.Sequential(*(Block(width, _num_heads(width)) for _ in range(layers)))
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Add to each frame what it learns from the others and from their order."""
        hidden = self.into(self.norm(features))
        positions = sinusoids(hidden.shape[1], hidden.shape[2], hidden.device)
        update: Tensor = self.out(self.blocks(hidden + positions.to(hidden.dtype)))
        return features + update


class TokenPool(nn.Module):
    """Pool the tokens of all frames with a learnt query and an MLP (timm's AttentionPoolLatent).

    Tokens carry no information about their frame, so that the order of frames has no effect.

    Args:
        channels: width of the tokens.

    Attributes:
        width: width of the pooled features, at most 384.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = min(channels, _WIDEST)
        self.into = _narrow(channels, self.width)
        self.pool = AttentionPoolLatent(self.width, num_heads=_num_heads(self.width))

    def forward(self, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b d"]:
        """Pool the tokens of all frames of each clip."""
        pooled: Tensor = self.pool(self.into(tokens))
        return pooled


def sinusoids(length: int, channels: int, device: torch.device) -> Float[Tensor, "t c"]:
    """Compute sinusoidal position embeddings. Vaswani et al. 2017, arXiv 1706.03762.

    Args:
        length: number of positions, t.
        channels: width of the embeddings, c.
        device: device of the result.
    """
    half = (channels + 1) // 2
    frequencies = torch.exp(torch.arange(half, device=device) * (-math.log(1e4) / half))
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :channels]


def _narrow(channels: int, width: int) -> nn.Module:
    return nn.Linear(channels, width) if width < channels else nn.Identity()


def _num_heads(channels: int) -> int:
    """Return a number of heads that divides the width and makes heads of about 64 channels."""
    return next(n for n in range(max(1, channels // _HEAD_WIDTH), 0, -1) if channels % n == 0)
