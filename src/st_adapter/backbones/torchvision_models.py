"""Build and run the image models of torchvision."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torchvision
from torch import Tensor, nn

from st_adapter.backbones.blockwise import BlockwiseFamily, catch_input, find_blocks
from st_adapter.backbones.family import Normalisation
from st_adapter.errors import ArgumentError, did_you_mean
from st_adapter.wording import setting

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
        hooks.enter_context(linear[-1].register_forward_pre_hook(partial(catch_input, self._key())))

    def _find_blocks(self) -> dict[str, nn.Module]:
        return find_blocks(self.backbone, _WHERE_BLOCKS_ARE)

    def _num_prefix(self) -> int:
        return int(self._token_norm() is not None)

    def _token_norm(self) -> nn.Module | None:
        is_vit = isinstance(self.backbone, torchvision.models.VisionTransformer)
        return self.backbone.encoder.ln if is_vit else None


def check_name(name: str, pretrained: bool = True) -> None:
    """Raise ArgumentError, with similar names, if torchvision does not have a model.

    Args:
        name: name of the model.
        pretrained: not used, as every model has default weights.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ArgumentError(
            f"unknown backbone 'torchvision:{name}': torchvision does not have this model"
            + did_you_mean(f"torchvision:{name}", [f"torchvision:{n}" for n in names])
        )


def make(name: str, pretrained: bool) -> nn.Module:
    """Make a classifier of torchvision.

    Args:
        name: name of the model in torchvision.
        pretrained: whether with torchvision's default weights, or with random ones.

    Raises:
        ArgumentError: the weights cannot be downloaded.
    """
    try:
        model: nn.Module = torchvision.models.get_model(
            name, weights="DEFAULT" if pretrained else None
        )
    except (OSError, RuntimeError) as error:
        raise ArgumentError(
            f"the weights of torchvision:{name} cannot be downloaded ({error}); use "
            f"{setting('weights', 'FILE')} or {setting('weights', 'random')}"
        ) from error
    return model


def preset(name: str) -> Normalisation:
    """Return the mean and standard deviation that the default weights of a model expect."""
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Normalisation(tuple(transforms.mean), tuple(transforms.std))
