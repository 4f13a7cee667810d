"""The interface through which the rest of the package runs image models."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_model_input_config
from torch import Tensor, nn

Adapters = Mapping[str, Callable[[Tensor], Tensor]]
"""Adapters by the name of their site.

Each takes the patch features there, [frames, h, w, c], and returns the update to add, of the same
shape.
"""


class Normalisation(NamedTuple):
    """Hold the mean and standard deviation of RGB values in 0..1 that a backbone expects."""

    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD


class BlockOutput(NamedTuple):
    """Hold the features after one block.

    Attributes:
        grid: features of the patches, [n, h, w, c].
        token: first token before the patches, [n, c], which is the class token if there is one;
            None in a backbone without such tokens.
    """

    grid: Tensor
    token: Tensor | None


class Inserted(NamedTuple):
    """Hold what one call of `run` inserts into the backbone, and who reads along.

    Attributes:
        adapters: adapters by the name of their site.
        prompts: prompt tokens [p, c] for the first blocks, one entry per block. Those of a block
            replace those of the block before.
        watch: called with the output of each block, in their order; nothing by default. If the
            backbone changes its grid between two blocks, this is the input of the second one.
    """

    adapters: Adapters = MappingProxyType({})
    prompts: Sequence[Tensor] = ()
    watch: Callable[[BlockOutput], object] | None = None


@dataclass(frozen=True, kw_only=True)
class Site:
    """Describe one place for an adapter in the residual stream of a backbone.

    Attributes:
        name: name that is unique in the backbone and valid as the name of a module.
        position: place within the block, "attention", "mlp" or "block".
        block: index of the block, from 0 at the input.
        channels: width of the features.
        ordered: whether neighbours in the grid of features are neighbours in the picture.
    """

    name: str
    position: str
    block: int
    channels: int
    ordered: bool = True


class Family(ABC):
    """Run one backbone of a certain kind.

    A classifier calls four methods in turn. `run` sends all frames through the blocks, where
    only the adapters see more than one frame. `pool` reduces each frame to one vector. The
    classifier averages these over the frames of a clip. `finish` applies what the backbone has
    after its pooling.

    Args:
        backbone: image model that this family supports.

    Attributes:
        backbone: the image model.
        can_cut: whether `run_prefix` and `run_rest` are implemented.
        can_checkpoint: whether `checkpoints` may be switched on.
        checkpoints: whether to recompute the inside of each block in the backward pass. This
            takes less memory and about a third more time; the gradients are the same.
    """

    can_cut: ClassVar[bool] = False
    can_checkpoint: ClassVar[bool] = False
    checkpoints = False

    def __init__(self, backbone: nn.Module) -> None:
        # Any, because each family uses attributes of its kind of model that mypy does not know.
        self.backbone: Any = backbone

    @classmethod
    @abstractmethod
    def supports(cls, backbone: nn.Module) -> bool:
        """Whether this family can run a backbone.

        Args:
            backbone: any module.
        """

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Width of the pooled features.

        Raises:
            ArgumentError: the backbone does not pool its features.
        """

    @property
    @abstractmethod
    def num_token_features(self) -> int:
        """Width of the tokens that `tokens` returns.

        Raises:
            ArgumentError: the backbone does not have one set of tokens.
        """

    @abstractmethod
    def sites(self) -> list[Site]:
        """Return all places for adapters, from the input on."""

    def unread_sites(self) -> set[str]:
        """Return the names of sites at which an adapter has no effect.

        If a backbone pools its class token, this is the site before the last MLP: patches no longer
        reach the class token from there. The published models have an adapter there nevertheless.
        """
        return set()

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return the blocks, from the input on."""

    def prompt_widths(self) -> list[int]:
        """Return the width of the tokens before each block that accepts prompts."""
        return []

    @abstractmethod
    def run(self, frames: Tensor, inserted: Inserted = Inserted()) -> Any:
        """Run frames through all blocks.

        Args:
            frames: normalised frames [n, 3, h, w].
            inserted: adapters and prompts to apply.

        Returns:
            Features before pooling: a tensor, or several if the backbone has several branches.
        """

    @abstractmethod
    def pool(self, features: Any) -> Tensor:
        """Reduce the features that `run` returned to one vector per frame, [n, c]."""

    @abstractmethod
    def tokens(self, features: Any) -> Tensor:
        """Return the features that `run` returned as tokens, [n, tokens, c]."""

    @abstractmethod
    def finish(self, pooled: Tensor) -> Tensor:
        """Apply the steps after pooling, such as a norm, to the mean features [b, c]."""

    def run_prefix(self, frames: Tensor, num_blocks: int) -> Tensor:
        """Run frames [n, 3, h, w] through the first blocks only, without adapters.

        Returns:
            The residual stream [n, tokens, c].
        """
        raise NotImplementedError

    def run_rest(
        self,
        stream: Tensor,
        num_blocks: int,
        frame_size: tuple[int, int],
        inserted: Inserted = Inserted(),
    ) -> Tensor:
        """Run the remaining blocks.

        Args:
            stream: what `run_prefix` returned.
            num_blocks: number of blocks that `run_prefix` ran.
            frame_size: height and width of the frames in pixels.
            inserted: adapters and prompts to apply.

        Returns:
            Features before pooling.
        """
        raise NotImplementedError

    def native_size(self) -> tuple[int, int]:
        """Return the height and width in pixels that the backbone was made for."""
        height, width = get_model_input_config(self.backbone)["input_size"][1:]
        return height, width

    def black_frame(self) -> Tensor:
        """Return a black frame [1, 3, h, w] of the native size, for a trial run."""
        frame: Tensor = next(self.backbone.parameters()).new_zeros(1, 3, *self.native_size())
        return frame
