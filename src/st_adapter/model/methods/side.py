"""A narrow spatio-temporal network beside a frozen image model, which reads its blocks' outputs."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Mlp
from torch import Tensor, nn

from st_adapter.backbones.family import BlockOutput
from st_adapter.model.methods.adapter import STAdapter
from st_adapter.model.methods.pooling import num_heads

_PATCH = 16
"""Pixels that a patch of the side network is nearest to, if the image model leaves a choice."""


class SideNetwork(nn.Module):
    """Classify what a frozen image model sees, without gradients that run back through it.

    A stem turns the pixels of neighbouring frames into one token per patch. Then follows a step
    for each block of the image model that is read: the tokens take up half of the block's output,
    and pass a temporal bottleneck, attention within their frame, and an MLP. Side4Video, Yao et
    al. 2023, arXiv 2311.15769; its widths are 128 (light) and 320 for ViT-B/16.

    The image model sees each frame by itself, so that what the network needs of a frame does not
    depend on the clip: `summarise` collects it, and `forward` does the rest.

    Three things differ from the publication. Batch norms are layer norms, because the score of a
    clip must not depend on the rest of its batch. There are no position embeddings, because the
    image model's tokens have theirs. The temporal bottleneck is an adapter that starts as a
    difference of frames.

    Args:
        outputs: outputs of the image model's blocks for one frame, from the input on.
        frame_size: height and width of that frame in pixels.
        width: width of the network, d.
        every: which blocks are read: each one, each second one, and so on, counted from the last.

    Attributes:
        width: width of the features that it returns.
        blocks_read: numbers of the blocks that are read, from 0 at the input.
    """

    def __init__(
        self, outputs: Sequence[BlockOutput], frame_size: tuple[int, int], width: int, every: int
    ) -> None:
        super().__init__()
        self.width = width
        self.blocks_read = range(len(outputs))[::-every][::-1]
        read = [outputs[i] for i in self.blocks_read]
        # Of models that lower their resolution in stages, one grid serves for all of them.
        patches = [frame_size[0] / output.grid.shape[1] for output in read]
        self._level = min(range(len(read)), key=lambda i: abs(math.log(patches[i] / _PATCH)))
        rows, columns = read[self._level].grid.shape[1:3]
        self._patch = (frame_size[0] // rows, frame_size[1] // columns)
        self._has_token = all(output.token is not None for output in read)
        self._widths = [3 * self._patch[0] * self._patch[1]]
        self._widths += [output.grid.shape[-1] for output in read]
        self.stem = nn.Linear(self._widths[0], 3 * width)
        self.steps = nn.ModuleList(_Step(channels, width) for channels in self._widths[1:])
        self.norm = nn.LayerNorm(width)

    def summarise(
        self,
        frames: Float[Tensor, "n 3 h w"],
        outputs: Sequence[BlockOutput],
    ) -> Float[Tensor, "n tokens k"]:
        """Collect all that the network needs of each frame, of which nothing is trained.

        Args:
            frames: normalised frames.
            outputs: outputs of the blocks that are read, each as `normalise` returns it.

        Returns:
            For each patch its pixels and the normalised output of each block that is read. The
            first token is the image model's class token, if it has one.
        """
        rows, columns = outputs[self._level].grid.shape[1:3]
        dtype = outputs[0].grid.dtype
        pixels = _patches(frames, rows, columns, self._patch).to(dtype)
        grids = [_resized(output.grid, rows, columns).flatten(1, 2) for output in outputs]
        patches = torch.cat([pixels, *grids], -1)
        if not self._has_token:
            return patches
        # Not len(frames): torch.export would fix that number as a constant of the model.
        tokens = [frames.new_zeros(frames.shape[0], 1, self._widths[0], dtype=dtype)]
        tokens += [output.token[:, None] for output in outputs if output.token is not None]
        return torch.cat([torch.cat(tokens, -1), patches], 1)

    def forward(self, summaries: Float[Tensor, "b t tokens k"]) -> Float[Tensor, "b d"]:
        """Compute features of clips from what `summarise` collected of their frames."""
        pixels, *outputs = summaries.split(self._widths, -1)
        first = int(self._has_token)
        before, here, after = self.stem(pixels[:, :, first:]).chunk(3, -1)
        x = here.float() + _shifted(before, 1) + _shifted(after, -1)
        for step, tokens in zip(self.steps, outputs, strict=True):
            x = step(x, tokens, first)
        features: Tensor = self.norm(x).mean((1, 2))
        return features


def normalise(output: BlockOutput, dtype: torch.dtype) -> BlockOutput:
    """Normalise what a block put out, as `SideNetwork.summarise` takes it, to a certain type.

    This is a layer norm without weight and bias, which the linear layer that follows has already.
    """

    def norm(x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:]).to(dtype)

    return BlockOutput(norm(output.grid), None if output.token is None else norm(output.token))


class _Step(nn.Module):
    """Take up the output of one block, then mix tokens over time and within their frame.

    Args:
        channels: width of the block's output.
        width: width of the side network.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(channels, width)
        self.norm_time, self.time = nn.LayerNorm(width), STAdapter(width, width, init="difference")
        self.norm_space, self.space = nn.LayerNorm(width), _Attention(width)
        self.norm_mlp, self.mlp = nn.LayerNorm(width), Mlp(width, 4 * width)

    def forward(
        self, x: Float[Tensor, "b t n d"], output: Float[Tensor, "b t m c"], first: int
    ) -> Float[Tensor, "b t n d"]:
        """Return the tokens of all patches, n; of the output's m tokens the `first` are others."""
        taken = self.into(output)
        x = 0.5 * x + 0.5 * taken[:, :, first:]
        x = x + self.time.update(self.norm_time(x)[:, :, None]).squeeze(2)
        tokens = torch.cat([_neighbours(taken[:, :, :first]).to(x.dtype), x], 2)
        x = x + self.space(self.norm_space(tokens).flatten(0, 1), first).view(x.shape)
        mixed: Tensor = x + self.mlp(self.norm_mlp(x))
        return mixed


class _Attention(nn.Module):
    """Attend from the patches of a frame to themselves and to further tokens before them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._num_heads = num_heads(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "n m d"], first: int) -> Float[Tensor, "n p d"]:
        """Return an update for all tokens but the `first` ones."""
        q, k, v = (
            part.unflatten(-1, (self._num_heads, -1)).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q[:, :, first:], k, v)
        update: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return update


def _neighbours(tokens: Float[Tensor, "b t m d"]) -> Float[Tensor, "b t m d"]:
    """Replace tokens by half of the channels of the next frame and half of the previous one's."""
    after, before = tokens.chunk(2, -1)
    return torch.cat([_shifted(after, -1), _shifted(before, 1)], -1)


def _shifted(x: Float[Tensor, "b t n d"], frames: int) -> Float[Tensor, "b t n d"]:
    """Move frames to later (1) or earlier (-1) places; the frame without a neighbour gets zeros."""
    padded = F.pad(x, (0, 0, 0, 0, 1, 1))
    return padded[:, 1 - frames : 1 - frames + x.shape[1]]


def _patches(
    frames: Float[Tensor, "n 3 h w"], rows: int, columns: int, patch: tuple[int, int]
) -> Float[Tensor, "n tokens p"]:
    """Cut frames into patches, after resizing them where patches do not cover them."""
    size = (rows * patch[0], columns * patch[1])
    if tuple(frames.shape[-2:]) != size:
        frames = F.interpolate(frames, size, mode="bilinear", antialias=True)
    cut = frames.reshape(-1, 3, rows, patch[0], columns, patch[1])
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _resized(grid: Float[Tensor, "n h w c"], rows: int, columns: int) -> Tensor:
    """Bring the output of a block to another grid: finer ones by their mean."""
    if tuple(grid.shape[1:3]) == (rows, columns):
        return grid
    channels_first = grid.permute(0, 3, 1, 2)
    if grid.shape[1] > rows:
        resized = F.adaptive_avg_pool2d(channels_first, (rows, columns))
    else:
        resized = F.interpolate(channels_first, (rows, columns), mode="nearest")
    return resized.permute(0, 2, 3, 1)
