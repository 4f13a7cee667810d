"""From the features of frames to those of a clip, where that is learnt."""

import math

import torch
from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

_HEAD_WIDTH = 64
_WIDEST = 384
"""Both work in at most so many channels; features of more are mapped down first."""


class TemporalTransformer(nn.Module):
    """A transformer over the frames of a clip, added to their features.

    ActionCLIP's, Wang et al. 2021, arXiv 2109.08472, with sinusoidal places in place of learnt
    ones, so that it takes any number of frames. The last map starts at zero: the identity.

    Args:
        channels: width of the features.
        layers: blocks of attention over frames and an MLP.
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
        """Let each frame see the others and when they come."""
        hidden = self.into(self.norm(features))
        places = sinusoids(hidden.shape[1], hidden.shape[2], hidden.device)
        update: Tensor = self.out(self.blocks(hidden + places.to(hidden.dtype)))
        return features + update


class TokenPool(nn.Module):
    """Attention pooling over all tokens: a learnt query, then an MLP. timm's AttentionPoolLatent.

    Blind to order: a token does not say which frame it is from.
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
    """Places as sines and cosines of falling frequency. Vaswani et al. 2017, arXiv 1706.03762."""
    half = (channels + 1) // 2
    frequencies = torch.exp(torch.arange(half, device=device) * (-math.log(1e4) / half))
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :channels]


def _narrow(channels: int, width: int) -> nn.Module:
    return nn.Linear(channels, width) if width < channels else nn.Identity()


def _num_heads(channels: int) -> int:
    """Heads of about 64 channels, as many as divide the width."""
    return next(n for n in range(max(1, channels // _HEAD_WIDTH), 0, -1) if channels % n == 0)
