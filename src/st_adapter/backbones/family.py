"""What the rest of the package asks of an image model, and the base of all families that answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from timm.models import get_model_input_config
from torch import Tensor, nn

Adapters = Mapping[str, Callable[[Tensor], Tensor]]
"""Site name to what is added to the patch features there, [frames, h, w, c] to the same shape."""


class Inserted(NamedTuple):
    """What a call brings into the backbone.

    Attributes:
        adapters: what is added to the patch features of each site, by the site's name.
        prompts: tokens [p, c] to join before the blocks, the first before the first block; each
            replaces the one before.
    """

    adapters: Adapters = MappingProxyType({})
    prompts: Sequence[Tensor] = ()


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


class Family(ABC):
    """One kind of image model, bound to one backbone of that kind.

    A clip takes this way: `run` sends its frames through the blocks, one by one but for the
    adapters; `pool` makes one vector of each frame; the classifier averages them over the frames;
    `finish` is what the backbone does after pooling.

    Attributes:
        can_cut: whether `run_prefix` and `run_rest` are offered.
        can_checkpoint: whether `checkpoints` may be switched on.
        checkpoints: keep only what enters each block for the backward pass, and run it again
            there: less memory, about a third more time, the same gradients.
    """

    can_cut: ClassVar[bool] = False
    can_checkpoint: ClassVar[bool] = False
    checkpoints = False

    def __init__(self, backbone: nn.Module) -> None:
        # Typed loosely: what a family knows of its kind of model, mypy cannot know.
        self.backbone: Any = backbone

    @classmethod
    @abstractmethod
    def supports(cls, backbone: nn.Module) -> bool:
        """Whether this family runs the backbone."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Width of the pooled features; ArgumentError where the backbone pools nothing."""

    @property
    @abstractmethod
    def num_token_features(self) -> int:
        """Width of the last tokens; ArgumentError where they are not one set."""

    @abstractmethod
    def sites(self) -> list[Site]:
        """All places where an adapter can sit, from the input on."""

    def unread_sites(self) -> set[str]:
        """Names of sites behind which nothing reads the patches: an adapter there changes nothing.

        Such is the last of a backbone that pools its class token, before the MLP. The published
        models have adapters there all the same.
        """
        return set()

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The blocks, from the input on."""

    def prompt_widths(self) -> list[int]:
        """Channels before each block that takes prompts; empty where none does."""
        return []

    @abstractmethod
    def run(self, frames: Tensor, inserted: Inserted = Inserted()) -> Any:
        """Run normalised frames [n, 3, h, w] through all blocks.

        Returns features: a tensor, or several where the backbone has several branches.
        """

    @abstractmethod
    def pool(self, features: Any) -> Tensor:
        """One vector [n, c] for each frame that `run` returned the features of."""

    @abstractmethod
    def tokens(self, features: Any) -> Tensor:
        """The features that `run` returned, as tokens [n, tokens, c]."""

    @abstractmethod
    def finish(self, pooled: Tensor) -> Tensor:
        """Do what the backbone does after pooling, to the mean over frames [b, c]."""

    def run_prefix(self, frames: Tensor, num_blocks: int) -> Tensor:
        """Run frames through the first blocks alone, to the residual stream [n, tokens, c]."""
        raise NotImplementedError

    def run_rest(
        self,
        stream: Tensor,
        num_blocks: int,
        frame_size: tuple[int, int],
        inserted: Inserted = Inserted(),
    ) -> Tensor:
        """Go on from what `run_prefix` returned for frames of `frame_size` pixels."""
        raise NotImplementedError

    def native_size(self) -> tuple[int, int]:
        """Height and width that the backbone was made for, pixels."""
        height, width = get_model_input_config(self.backbone)["input_size"][1:]
        return height, width

    def black_frame(self) -> Tensor:
        """A frame [1, 3, h, w] of the native size, of the backbone's type and on its device."""
        frame: Tensor = next(self.backbone.parameters()).new_zeros(1, 3, *self.native_size())
        return frame
