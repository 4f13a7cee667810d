"""The memory layouts in which blocks hold the grid of patches."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from st_adapter.backbones.family import BlockOutput
from st_adapter.backbones.vit import adapt_tokens, split_tokens


class Layout(NamedTuple):
    """Describe how features hold a grid of patches.

    Attributes:
        kind: "map" is [n, c, h, w], "channels_last" is [n, h, w, c], and "tokens" is
            [n, prefix + h * w, c].
        channels: width of the features, c.
        prefix: number of class and other tokens before the patches, which adapters do not change.
    """

    kind: Literal["map", "channels_last", "tokens"]
    channels: int
    prefix: int = 0

    def adapt(
        self, x: Tensor, frame_size: tuple[int, int], adapter: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Add to features what an adapter computes from their patches.

        Args:
            x: features in this layout.
            frame_size: height and width of the frames in pixels.
            adapter: computes the update of a grid of patches [n, h, w, c].
        """
        if self.kind == "map":
            return x + adapter(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.kind == "channels_last":
            return x + adapter(x)
        grid = token_grid(x.shape[1] - self.prefix, frame_size)
        return adapt_tokens(x, self.prefix, grid, adapter)

    def split(self, x: Tensor, frame_size: tuple[int, int]) -> BlockOutput:
        """Separate the grid of patches from the first of the tokens before them.

        Args:
            x: features in this layout.
            frame_size: height and width of the frames in pixels.
        """
        if self.kind == "map":
            return BlockOutput(x.permute(0, 2, 3, 1), None)
        if self.kind == "channels_last":
            return BlockOutput(x, None)
        grid = token_grid(x.shape[1] - self.prefix, frame_size)
        return split_tokens(x, self.prefix, grid)

    def to_tokens(self, x: Tensor) -> Tensor:
        """Convert features to [n, tokens, c], including the tokens before the patches."""
        if self.kind == "map":
            return x.flatten(2).transpose(1, 2)
        return x.flatten(1, 2) if self.kind == "channels_last" else x


def find_layout(
    shape: tuple[int, ...],
    frame_size: tuple[int, int],
    num_prefix: int = 0,
    *,
    channels_last: bool = False,
) -> Layout | None:
    """Infer the layout from the shape of the features of frames of known size.

    Args:
        shape: shape of the features.
        frame_size: height and width of the frames in pixels.
        num_prefix: number of prefix tokens that the backbone states; it is tried first.
        channels_last: whether a shape that fits both "map" and "channels_last" is the latter.

    Returns:
        The layout, or None if the shape does not hold one grid of patches.

    >>> find_layout((1, 64, 56, 56), (224, 224))
    Layout(kind='map', channels=64, prefix=0)
    >>> find_layout((1, 56, 56, 96), (224, 224))
    Layout(kind='channels_last', channels=96, prefix=0)
    >>> find_layout((1, 201, 384), (224, 224), 5)
    Layout(kind='tokens', channels=384, prefix=5)
    """
    height, width = frame_size
    if len(shape) == 4:
        # The grid is the pair of axes whose proportions are nearest to those of the frame.
        as_map = abs(shape[2] * width - shape[3] * height) / shape[3]
        as_last = abs(shape[1] * width - shape[2] * height) / shape[2]
        if as_map < as_last or (as_map == as_last and not channels_last):
            return Layout(kind="map", channels=shape[1])
        return Layout(kind="channels_last", channels=shape[3])
    if len(shape) == 3:
        # Try prefix lengths until the remaining tokens make a grid of the frame's proportions.
        # Several may do so: 5 tokens are 1 + 2 x 2 or 4 + 1 x 1. So the backbone's own count comes
        # first. It can be wrong, because some models do not count all of their tokens, and some
        # blocks run before the tokens are added.
        for prefix in (num_prefix, *range(min(9, shape[1]))):
            rows, columns = token_grid(shape[1] - prefix, frame_size)
            if rows * width == columns * height:
                return Layout(kind="tokens", channels=shape[2], prefix=prefix)
    return None


def token_grid(num_patches: int, frame_size: tuple[int, int]) -> tuple[int, int]:
    """Find the height and width of a grid of patches whose proportions best match the frame.

    Args:
        num_patches: number of patches, which height times width must equal.
        frame_size: height and width of the frame in pixels.

    >>> token_grid(280, (224, 320))
    (14, 20)
    """
    height, width = frame_size
    wanted = round((num_patches * height / width) ** 0.5)
    for away in range(num_patches):
        for rows in (wanted - away, wanted + away):
            if rows > 0 and num_patches % rows == 0:
                return rows, num_patches // rows
    return 1, num_patches
