"""Build and run the image models of torchvision."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torchvision
from torch import Tensor, nn

from st_adapter.backbones.blockwise import (
    BlockwiseFamily,
    MlpBranch,
    branches_of,
    catch_input,
    find_blocks,
)
from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.tensor_checks import load_file_into
from st_adapter.errors import ArgumentError, did_you_mean

_WHERE_BLOCKS_ARE = (
    r"encoder\.layers\.encoder_layer_\d+",  # ViT
    r"layer\d+\.\d+",  # ResNet
    r"features\.\d+\.\d+",  # Swin, ConvNeXt, EfficientNet
    r"trunk_output\.block\d+\.block\d+-\d+",  # RegNet
    r"features\.(denseblock\d+|\d+)",  # DenseNet, MobileNet
)


class TorchvisionFamily(BlockwiseFamily):
    """Run an image classifier of torchvision; its features are what enters the last linear layer.

    Args:
        backbone: classifier of torchvision, with its own classes.

    Raises:
        ArgumentError: adapters do not fit the backbone.
    """

    _POOLING = "create it with torchvision's own classifier"

    @classmethod
    def supports(cls, backbone: nn.Module) -> bool:
        """Whether the model is an image classifier of torchvision."""
        home = type(backbone).__module__
        return home.startswith("torchvision.models.") and home.count(".") == 2

    def native_size(self) -> tuple[int, int]:
        """Return the size that the model states, or 224 x 224."""
        size = getattr(self.backbone, "image_size", 224)
        return size, size

    def pool(self, features: Tensor) -> Tensor:
        """Return the features that `run` returned, [n, c]."""
        return features

    def _forward(self, frames: Tensor) -> Any:
        self.backbone(frames)
        return self._caught()

    def _prepare(self, hooks: ExitStack) -> None:
        super()._prepare(hooks)
        linear = [m for m in self.backbone.modules() if isinstance(m, nn.Linear)]
        if not linear:
            raise ArgumentError(f"adapters do not fit {self._name()}: it has no linear classifier")
        hooks.enter_context(linear[-1].register_forward_pre_hook(catch_input))

    def _find_blocks(self) -> dict[str, nn.Module]:
        blocks = find_blocks(self.backbone, _WHERE_BLOCKS_ARE)
        if not blocks:
            raise ArgumentError(
                f"adapters do not fit {self._name()}: the names of its blocks are not known; call "
                "attach(model, blocks=..., features=...)"
            )
        return blocks

    def _branches(self, blocks: Sequence[nn.Module]) -> list[MlpBranch | None]:
        return branches_of(blocks)

    def _num_prefix(self) -> int:
        return int(self._late_norm() is not None)

    def _late_norm(self) -> nn.Module | None:
        is_vit = isinstance(self.backbone, torchvision.models.VisionTransformer)
        return self.backbone.encoder.ln if is_vit else None


def check_name(name: str) -> None:
    """Raise ArgumentError, with similar names, if torchvision does not have a model."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ArgumentError(
            f"unknown backbone 'torchvision:{name}': torchvision does not have this model"
            + did_you_mean(name, names)
        )


def build(name: str, source: str) -> nn.Module:
    """Build a classifier of torchvision.

    Args:
        name: name of the model in torchvision.
        source: "hub" (torchvision's own download), "random", or a file with its tensor names.

    Raises:
        ArgumentError: the weights cannot be downloaded.
        CheckpointError: the file does not fit.
    """
    if source == "hub":
        try:
            model: nn.Module = torchvision.models.get_model(name, weights="DEFAULT")
        except (OSError, RuntimeError) as error:
            raise ArgumentError(
                f"the weights of torchvision:{name} cannot be downloaded ({error}); use --weights "
                "FILE or --weights random"
            ) from error
        return model.eval()
    with OwnRandom(0):
        model = torchvision.models.get_model(name, weights=None).eval()
    if source != "random":
        load_file_into(model, source)
    return model
