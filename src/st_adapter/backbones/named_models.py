"""Run image models whose features are taken from inside their forward pass."""

from collections.abc import Callable
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn

from st_adapter.backbones.blockwise import BlockwiseFamily, Key, catch
from st_adapter.errors import ArgumentError

Features = str | Callable[[Tensor], Tensor] | None
"""Where the features of a model are: the name of the module that gives them, a function from
frames [n, 3, h, w] to features [n, c], or None for what the model returns."""


class NamedFamily(BlockwiseFamily):
    """Run any image model whose blocks and features are named.

    Args:
        backbone: any image model that takes normalised frames [n, 3, h, w].
        blocks: names of its blocks with `*` for a part without dots, such as "encoder.layer.*".
        features: where its features are.
        size: height and width in pixels of the frames that the model takes.

    Raises:
        ArgumentError: no module has such a name, or adapters do not fit the model.
    """

    _POOLING = "name a module that gives features [n, c], or give a function that does"

    def __init__(
        self, backbone: nn.Module, blocks: str, features: Features = None, size: int = 224
    ) -> None:
        self._pattern, self._features, self._size = blocks, features, size
        super().__init__(backbone)

    @classmethod
    def supports(cls, backbone: nn.Module) -> bool:
        """Return False: a model is of this family only if its blocks were named."""
        return False

    def native_size(self) -> tuple[int, int]:
        """Return the size that was given."""
        return self._size, self._size

    def pool(self, features: Any) -> Tensor:
        """Return the features [n, c]; a map of 1 x 1 is flattened."""
        if not isinstance(features, Tensor):
            raise ArgumentError(
                f"adapters do not fit {self._name()}: it returns a {type(features).__name__}, not "
                f"a tensor; {self._POOLING}"
            )
        return features.flatten(1) if features.shape[2:].numel() == 1 else features

    def _key(self) -> Key:
        name = self._features if isinstance(self._features, str) else ""
        return (*super()._key(), self._pattern, name, str(self._size))

    def _forward(self, frames: Tensor) -> Any:
        if callable(self._features):
            return self._features(frames)
        if self._features is None:
            return self.backbone(frames)
        self.backbone(frames)
        return self._caught()

    def _prepare(self, hooks: ExitStack) -> None:
        super()._prepare(hooks)
        if isinstance(self._features, str):
            module = self._submodule(self._features)
            hooks.enter_context(module.register_forward_hook(partial(catch, self._key())))

    def _find_blocks(self) -> dict[str, nn.Module]:
        depth = self._pattern.count(".")
        found = {
            name: module
            for name, module in self.backbone.named_modules()
            if name.count(".") == depth and fnmatchcase(name, self._pattern)
        }
        if not found:
            raise ArgumentError(
                f"no module of this {self._name()} is called {self._pattern!r}; its modules: "
                + ", ".join(name for name, _ in self.backbone.named_children())
            )
        return found

    def _submodule(self, name: str) -> nn.Module:
        try:
            module: nn.Module = self.backbone.get_submodule(name)
        except AttributeError as error:
            raise ArgumentError(f"this {self._name()} has no module called {name!r}") from error
        return module
