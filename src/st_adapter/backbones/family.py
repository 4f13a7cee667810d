"""The seam between a backbone family and the rest: where adapters sit, what runs there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

Adapters = Mapping[str, Callable[[Tensor], Tensor]]
"""Site name to what is added to that site's patch features, [frames, h, w, c] to the same shape."""


class Cut(NamedTuple):
    """Where a call goes on that was begun by `frame_prefix`.

    Attributes:
        block: the first that is still to run.
        frame_size: height and width of the frames, pixels.
    """

    block: int
    frame_size: tuple[int, int]


class Inserted(NamedTuple):
    """What a call brings into the backbone.

    Attributes:
        adapters: functions of patch features to what is added to them, by site.
        prompts: tokens [p, c] to join before the blocks, the first before the first; each takes
            the place of the one before.
        recompute: run each block again in the backward pass instead of keeping what is in it,
            where a family CAN_RECOMPUTE.
        cut: instead of frames, the call is given what `frame_prefix` made of them.
        whole: call every module of every block, for who watches them, also where less would do.
    """

    adapters: Adapters = MappingProxyType({})
    prompts: Sequence[Tensor] = ()
    recompute: bool = False
    cut: Cut | None = None
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place for an adapter in the residual stream of a backbone.

    Attributes:
        name: unique within the backbone, usable as a module name.
        position: its place within the block, such as "attention" or "mlp".
        block: index of its block, counted from the input.
        channels: width of the features there.
        ordered: whether neighbours in the grid are neighbours in the picture.
    """

    name: str
    position: str
    block: int
    channels: int
    ordered: bool = True


@runtime_checkable
class Family(Protocol):
    """What a file of this folder answers about its kind of image model."""

    NAME: str
    CAN_RECOMPUTE: bool
    CAN_CUT: bool

    def supports(self, backbone: nn.Module) -> bool:
        """Whether this family runs the backbone."""

    def sites(self, backbone: nn.Module) -> list[Site]:
        """All places where an adapter can sit, from the input on."""

    def blocks(self, backbone: nn.Module) -> list[nn.Module]:
        """The blocks, from the input on."""

    def units(self, backbone: nn.Module) -> list[nn.Module]:
        """Large modules inside the blocks that are always called, as FSDP gathers what it calls."""

    def prompt_widths(self, backbone: nn.Module) -> list[int]:
        """Channels before each block that takes prompts; empty where none does."""

    def num_features(self, backbone: nn.Module) -> int:
        """Width of the pooled features; ArgumentError where none are pooled."""

    def num_token_features(self, backbone: nn.Module) -> int:
        """Width of the last tokens; ArgumentError where there is no one set of them."""

    def frame_features(self, backbone: nn.Module, frames: Tensor, inserted: Inserted) -> Tensor:
        """Run frames [n, 3, h, w] through the backbone to pooled features [n, c]."""

    def frame_tokens(self, backbone: nn.Module, frames: Tensor, inserted: Inserted) -> Tensor:
        """Run frames [n, 3, h, w] to the last tokens [n, tokens, c], before they are pooled."""

    def frame_prefix(self, backbone: nn.Module, frames: Tensor, num_blocks: int) -> Tensor:
        """Run frames [n, 3, h, w] through the first blocks alone, where the family CAN_CUT."""

    def clip_features(self, backbone: nn.Module, pooled: Tensor) -> Tensor:
        """Finish what the backbone does after pooling, on the mean over frames [b, c]."""
