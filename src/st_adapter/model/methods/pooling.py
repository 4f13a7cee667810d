"""Trained modules that turn frame features into clip features."""

import math

import torch
from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

_HEAD_WIDTH = 64
_CODES = 8
"""Learnt codes of the places of frames, as many as a clip has frames by default."""

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
        self.blocks = nn.Sequential(*(Block(width, num_heads(width)) for _ in range(layers)))
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

    By themselves, tokens carry no information about their frame, so that the order of frames has
    no effect. With `ordered`, a learnt code of the frame's place in the clip is added to them, as
    in STEP, Ponbagavathi and Roitberg 2025, arXiv 2503.24298. Of 8 codes, which start as sinusoids,
    any number of frames is interpolated.

    Args:
        channels: width of the tokens.
        ordered: whether tokens get a code of their frame.

    Attributes:
        width: width of the pooled features, at most 384.
        codes: the codes [8, d], or None.
    """

    def __init__(self, channels: int, *, ordered: bool = False) -> None:
        super().__init__()
        self.width = min(channels, _WIDEST)
        self.into = _narrow(channels, self.width)
        self.pool = AttentionPoolLatent(self.width, num_heads=num_heads(self.width))
        self.codes: nn.Parameter | None = None
        if ordered:
            device = self.pool.latent.device
            self.codes = nn.Parameter(sinusoids(_CODES, self.width, device))

    def forward(self, tokens: Float[Tensor, "b t n c"]) -> Float[Tensor, "b d"]:
        """Pool the n tokens of each of the t frames of each clip."""
        x = self.into(tokens)
        if self.codes is not None:
            x = x + interpolated(self.codes, x.shape[1])[:, None].to(x.dtype)
        pooled: Tensor = self.pool(x.flatten(1, 2))
        return pooled


def interpolated(codes: Float[Tensor, "k d"], length: int) -> Float[Tensor, "t d"]:
    """Spread codes evenly over a clip and interpolate one for each of its frames.

    As many frames as codes get the codes themselves. A product of matrices takes the place of
    `F.interpolate`, whose lengths are constants in an exported file.

    >>> interpolated(torch.tensor([[0.0], [1.0]]), 4).T
    tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    places = torch.arange(length, device=codes.device) + 0.5
    places = (places * (len(codes) / length) - 0.5).clamp(0, len(codes) - 1)
    distances = (places[:, None] - torch.arange(len(codes), device=codes.device)).abs()
    return (1 - distances).clamp(min=0).to(codes.dtype) @ codes


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


def num_heads(channels: int) -> int:
    """Return a number of heads that divides the width and makes heads of about 64 channels."""
    return next(n for n in range(max(1, channels // _HEAD_WIDTH), 0, -1) if channels % n == 0)
