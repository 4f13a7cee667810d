"""How the features of a block hold the grid of patches."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from st_adapter.backbones.vit import adapt_tokens


class Layout(NamedTuple):
    """How features hold a patch grid.

    Attributes:
        kind: "map" is [n, c, h, w], "channels_last" [n, h, w, c], "tokens" [n, prefix + h * w, c].
        channels: c.
        prefix: class and other tokens before the patches; adapters leave them alone.
    """

    kind: Literal["map", "channels_last", "tokens"]
    channels: int
    prefix: int = 0

    def adapt(
        self, x: Tensor, frame_size: tuple[int, int], adapter: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Add what an adapter makes of the patches of features of frames of `frame_size` pixels."""
        if self.kind == "map":
            return x + adapter(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.kind == "channels_last":
            return x + adapter(x)
        grid = token_grid(x.shape[1] - self.prefix, frame_size)
        return adapt_tokens(x, self.prefix, grid, adapter)

    def to_tokens(self, x: Tensor) -> Tensor:
        """Return the features as [n, tokens, c], those before the patches among them."""
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
    """Tell the layout from the shape that features have for frames of a known size.

    Args:
        shape: of the features.
        frame_size: height and width of the frames, pixels.
        num_prefix: the backbone's own count of prefix tokens; a block may run before they join.
        channels_last: what a shape means that could be both.

    >>> find_layout((1, 64, 56, 56), (224, 224))
    Layout(kind='map', channels=64, prefix=0)
    >>> find_layout((1, 56, 56, 96), (224, 224))
    Layout(kind='channels_last', channels=96, prefix=0)
    >>> find_layout((1, 201, 384), (224, 224), 5)
    Layout(kind='tokens', channels=384, prefix=5)
    """
    height, width = frame_size
    if len(shape) == 4:
        # The two axes whose sides are nearest to the frame's proportions are the grid's.
        as_map = abs(shape[2] * width - shape[3] * height) / shape[3]
        as_last = abs(shape[1] * width - shape[2] * height) / shape[2]
        if as_map < as_last or (as_map == as_last and not channels_last):
            return Layout(kind="map", channels=shape[1])
        return Layout(kind="channels_last", channels=shape[3])
    if len(shape) == 3:
        # The prefix is as long as leaves a grid of the frame's proportions. The backbone's own
        # count is tried first, as 5 tokens may be 1 + 2 x 2 or 4 + 1 x 1. It does not always hold:
        # some models count not all of their tokens, and blocks may run before these join.
        for prefix in (num_prefix, *range(min(9, shape[1]))):
            rows, columns = token_grid(shape[1] - prefix, frame_size)
            if rows * width == columns * height:
                return Layout(kind="tokens", channels=shape[2], prefix=prefix)
    return None


def token_grid(num_patches: int, frame_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a grid of so many patches, as near to the frame's shape as they divide.

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
