"""Build and run the vision towers of open_clip."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from st_adapter.backbones.blockwise import BlockwiseFamily, catch_input, find_blocks
from st_adapter.backbones.family import Normalisation
from st_adapter.backbones.hub import is_hub_offline, is_hub_reachable
from st_adapter.errors import ArgumentError, did_you_mean
from st_adapter.wording import setting

_WHERE_BLOCKS_ARE = (
    r"transformer\.resblocks\.\d+",  # ViT
    r"layer\d+\.\d+",  # ResNet
)


class OpenClipFamily(BlockwiseFamily):
    """Run a vision tower of open_clip: a ViT, or a ResNet with attention pooling.

    The features of a ViT are its class token or the mean of its patches, before the projection to
    the space that it shares with text. A ResNet has no such stage; its features are projected.

    Args:
        backbone: `CLIP.visual` of open_clip.

    Raises:
        ArgumentError: adapters do not fit the backbone.
    """

    @classmethod
    def supports(cls, backbone: Any) -> bool:
        """Whether the model is a vision tower of open_clip."""
        return is_open_clip(backbone) and hasattr(backbone, "image_size")

    def native_size(self) -> tuple[int, int]:
        """Return the size that the tower was made for."""
        size = self.backbone.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def pool(self, features: Tensor) -> Tensor:
        """Pool the tokens of a ViT, unless it has pooled them before its last norm."""
        if features.ndim == 2:
            return features
        if self.backbone.pool_type == "tok":
            return features[:, 0]
        patches: Tensor = self.backbone.ln_post(features)[:, 1:]
        return patches.mean(1)

    def _forward(self, frames: Tensor) -> Any:
        output = self.backbone(frames)
        return self._caught() if self._is_vit() else output

    def _prepare(self, hooks: ExitStack) -> None:
        super()._prepare(hooks)
        if self._is_vit():
            if self.backbone.attn_pool is not None or self.backbone.pool_type == "none":
                raise ArgumentError(
                    "adapters do not fit this vision tower: it pools its tokens by attention"
                )
            keep = partial(catch_input, self._key())
            hooks.enter_context(self.backbone.ln_post.register_forward_pre_hook(keep))

    def _find_blocks(self) -> dict[str, nn.Module]:
        return find_blocks(self.backbone, _WHERE_BLOCKS_ARE)

    def _num_prefix(self) -> int:
        return int(self._is_vit())

    def _token_norm(self) -> nn.Module | None:
        late = self._is_vit() and (
            self.backbone.pool_type == "tok" or self.backbone.final_ln_after_pool
        )
        return self.backbone.ln_post if late else None

    def _is_vit(self) -> bool:
        return hasattr(self.backbone, "ln_post")


def is_open_clip(model: object) -> bool:
    """Whether an object is a model of open_clip, without importing it."""
    return any(base.__module__.startswith("open_clip.") for base in type(model).__mro__)


def image_part(model: Any) -> nn.Module:
    """Return the vision tower of a model; of a tower that is a model of timm, that model."""
    tower = getattr(model, "visual", model)
    part: nn.Module = getattr(tower, "trunk", tower)
    return part


def normalisation_of(model: Any) -> Normalisation:
    """Return the mean and standard deviation of RGB values that a vision tower expects."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    tower = getattr(model, "visual", model)
    mean = getattr(tower, "image_mean", None) or OPENAI_DATASET_MEAN
    std = getattr(tower, "image_std", None) or OPENAI_DATASET_STD
    return Normalisation(tuple(mean), tuple(std))


def check_name(name: str, pretrained: bool = True) -> None:
    """Raise ArgumentError, with similar names, if open_clip does not have a model or its tag.

    Args:
        name: name of the model, with or without "/" and the tag of its weights.
        pretrained: whether the tag is needed.
    """
    open_clip = _import()
    model, _, tag = name.partition("/")
    names = open_clip.list_models()
    if model not in names:
        raise ArgumentError(
            f"unknown backbone 'open_clip:{name}': open_clip does not have the model {model!r}"
            + did_you_mean(f"open_clip:{model}", [f"open_clip:{n}" for n in names])
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        raise ArgumentError(
            f"open_clip:{model} has no weights tagged {tag!r}; tags: {', '.join(tags) or 'none'}"
        )
    if pretrained and not tag:
        other = f"{setting('weights', 'FILE')} or {setting('weights', 'random')}"
        raise ArgumentError(
            f"open_clip:{model} needs the tag of its weights, as in open_clip:{model}/TAG; "
            f"tags: {', '.join(tags) or f'none; use {other}'}"
        )


def make(name: str, pretrained: bool) -> nn.Module:
    """Make the vision tower of a model of open_clip.

    Args:
        name: name of the model and the tag of its weights, such as "ViT-B-32/openai".
        pretrained: whether with the weights of the tag, or with random ones.

    Raises:
        ArgumentError: open_clip is not installed, or the weights cannot be found.
    """
    open_clip = _import()
    model, _, tag = name.partition("/")
    if not pretrained:
        device = torch.get_default_device()  # "meta" if only shapes are wanted
        tower: nn.Module = open_clip.create_model(model, load_weights=False, device=device).visual
        return tower
    other = f"{setting('weights', 'FILE')} or {setting('weights', 'random')}"
    if not is_hub_reachable() and not is_hub_offline():
        raise ArgumentError(
            f"the model hub with the weights of open_clip:{name} cannot be reached; use {other}, "
            "or set HF_HUB_OFFLINE=1 if they are in its cache"
        )
    try:
        tower = open_clip.create_model(model, pretrained=tag).visual
    except (OSError, RuntimeError) as error:
        raise ArgumentError(
            f"the weights of open_clip:{name} cannot be loaded ({error}); use {other}"
        ) from error
    return tower


def _import() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ArgumentError(
            "backbones open_clip:NAME need open_clip: pip install 'st-adapter[open-clip]'"
        ) from error
    return open_clip
