"""Build and run the image models of Hugging Face transformers, such as DINOv2 and SigLIP."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from st_adapter.backbones.blockwise import BlockwiseFamily, find_blocks
from st_adapter.backbones.family import Normalisation
from st_adapter.backbones.hub import is_hub_offline, is_hub_reachable
from st_adapter.common.remarks import note, say
from st_adapter.errors import ArgumentError

_TOKEN_NORMS = {
    "vit": "layernorm",
    "deit": "layernorm",
    "dinov2": "layernorm",
    "dinov2_with_registers": "layernorm",
    "dinov3_vit": "norm",
    "clip_vision_model": "post_layernorm",
}
"""Types of models whose features are their class token, with the norm that it goes through."""

_POOLERS = (
    *("swin", "swinv2", "convnext", "convnextv2", "dinov3_convnext", "resnet", "regnet"),
    *("siglip_vision_model", "beit", "mobilenet_v2", "focalnet"),
)
"""Types of models whose features are `pooler_output`.

In other models it may be a layer that was never trained, as in ViT.
"""

_WHERE_BLOCKS_ARE = (
    r"(\w+\.)*layers\.\d+\.blocks\.\d+",  # Swin
    r"(\w+\.)*stages\.\d+\.layers\.\d+",  # ConvNeXt, ResNet
    r"(\w+\.)*layers?\.\d+",  # ViT, DINOv2, CLIP, SigLIP
)

_CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_USUAL = {"clip_vision_model": _CLIP} | dict.fromkeys(
    ("siglip_vision_model", "vit", "beit", "mobilenet_v2"), _HALF
)
"""Normalisation by type of model, for one whose own is not at hand; that of ImageNet otherwise."""


class TransformersFamily(BlockwiseFamily):
    """Run an image model of transformers by its own forward pass.

    Args:
        backbone: model of transformers without a head, as `AutoModel` returns it.

    Raises:
        ArgumentError: adapters do not fit the backbone.
    """

    @classmethod
    def supports(cls, backbone: Any) -> bool:
        """Return whether this is a model of transformers that takes pictures."""
        return is_transformers(backbone) and getattr(backbone, "main_input_name", "") == (
            "pixel_values"
        )

    def native_size(self) -> tuple[int, int]:
        """Return the size that the configuration states, or 224 x 224."""
        size = getattr(self.backbone.config, "image_size", None) or 224
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def pool(self, features: Any) -> Tensor:
        """Return the class token or the pooler's output, [n, c]."""
        if self._token_norm() is not None:
            token: Tensor = features.last_hidden_state[:, 0]
            return token
        pooled: Tensor = features.pooler_output
        return pooled.flatten(1)

    def _forward(self, frames: Tensor) -> Any:
        options = {}
        if (frames.shape[-2], frames.shape[-1]) != self.native_size():
            takes = inspect.signature(type(self.backbone).forward).parameters
            options = {name: True for name in ("interpolate_pos_encoding",) if name in takes}
        return self.backbone(pixel_values=frames, **options)

    def _grid_features(self, features: Any) -> Any:
        return features.last_hidden_state

    def _find_blocks(self) -> dict[str, nn.Module]:
        kind = self.backbone.config.model_type
        if kind not in _TOKEN_NORMS and kind not in _POOLERS:
            raise ArgumentError(
                f"adapters do not fit {type(self.backbone).__name__} by itself: how models of type "
                f"{kind!r} pool their features is not known. Known are "
                f"{', '.join(sorted({*_TOKEN_NORMS, *_POOLERS}))}. For others, call "
                "attach(model, blocks=..., features=...)"
            )
        return find_blocks(self.backbone, _WHERE_BLOCKS_ARE)

    def _num_prefix(self) -> int:
        config = self.backbone.config
        if config.model_type not in _TOKEN_NORMS:
            return 0
        registers: int = getattr(config, "num_register_tokens", 0)
        return 1 + registers + int(config.model_type == "deit")

    def _token_norm(self) -> nn.Module | None:
        name = _TOKEN_NORMS.get(self.backbone.config.model_type)
        return getattr(self.backbone, name) if name else None


def is_transformers(model: object) -> bool:
    """Whether an object is a model of transformers, without importing it."""
    return any(base.__module__.startswith("transformers.") for base in type(model).__mro__)


def image_part(model: Any) -> nn.Module:
    """Return the part of a model of transformers that takes pictures and gives features.

    Args:
        model: any model: of pictures and text, such as `CLIPModel`, or with a head, such as
            `ViTForImageClassification`.
    """
    if hasattr(model, "vision_model"):
        model = model.vision_model
    # Not for any model: that of DINOv3 names a part of itself as its base.
    part: nn.Module = model.base_model if "For" in type(model).__name__ else model
    return part


def unused_tensors(model: Any) -> frozenset[str]:
    """Return the names of tensors that are not used: the pooler of a model that has a class token.

    Checkpoints often lack it, so that it has other random values whenever they are loaded.
    """
    if getattr(model.config, "model_type", "") not in _TOKEN_NORMS:
        return frozenset()
    return frozenset(name for name in model.state_dict() if name.startswith("pooler."))


def name_of(model: Any) -> str:
    """Return the name under which `make` finds a model; empty if it has none."""
    name = str(model.config.name_or_path or "")
    if Path(name).is_dir():  # a relative path means nothing in another folder
        name = str(Path(name).resolve())
    return f"hf:{name}" if name else ""


def normalisation_of(model: Any) -> Normalisation:
    """Return that of `preprocessor_config.json`, or the usual one of the type of model.

    Raises:
        ArgumentError: the values that the model expects are not a plain normalisation.
    """
    from transformers import ImageProcessingMixin

    name, backbone = str(model.config.name_or_path or ""), image_part(model)
    usual = _USUAL.get(getattr(backbone.config, "model_type", ""), Normalisation())
    if not name:
        return usual
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name, **_where(name))
    except OSError:
        note(f"hf:{name} has no preprocessor_config.json; using {usual}, which is usual for it")
        return usual
    scale = values.get("rescale_factor", 1 / 255)
    if abs(scale - 1 / 255) > 1e-4 or values.get("rescale_offset") or values.get("include_top"):
        raise ArgumentError(
            f"hf:{name} expects other values than RGB in 0..1 with a mean and standard deviation; "
            "state what comes closest with normalisation=(mean, std)"
        )
    if not values.get("do_normalize", True):
        return Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Normalisation(
        tuple(values.get("image_mean") or usual.mean), tuple(values.get("image_std") or usual.std)
    )


def make(name: str, pretrained: bool) -> nn.Module:
    """Make a model of transformers.

    Args:
        name: OWNER/NAME on the Hugging Face hub, or a folder that `save_pretrained` wrote.
        pretrained: whether with its own weights, or with random ones.

    Raises:
        ArgumentError: transformers is not installed, or the model cannot be found.
    """
    transformers = _import()
    # By default, transformers asks in the terminal whether to run code of the repository, whose
    # name may come from an adapter of someone else.
    no_code = {"trust_remote_code": False}
    # The default is the type of the file, which may be half precision.
    options = {"dtype": torch.float32, **no_code}
    where = _where(name)
    if where["local_files_only"] and not Path(name).is_dir() and not is_hub_offline():
        say("the model hub cannot be reached; looking in its cache on this machine")
    try:
        config = transformers.AutoConfig.from_pretrained(name, **where, **no_code)
        config = getattr(config, "vision_config", config)
        if pretrained:
            model = transformers.AutoModel.from_pretrained(name, config=config, **where, **options)
        else:
            model = transformers.AutoModel.from_config(config, **options)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        if where["local_files_only"] and not Path(name).is_dir():
            reason = "the hub cannot be reached, and it is not in the hub's cache on this machine"
        raise ArgumentError(
            f"hf:{name} cannot be loaded: {reason}; give OWNER/NAME as on the Hugging Face hub, "
            "or a folder with config.json and model.safetensors"
        ) from error
    model.config.name_or_path = name
    made: nn.Module = model
    return made


def _where(name: str) -> dict[str, bool]:
    """Return the option that keeps transformers from the hub if a model cannot come from there.

    Otherwise it would try again for a minute before it looks in its cache.
    """
    return {"local_files_only": Path(name).is_dir() or not is_hub_reachable()}


def _import() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ArgumentError(
            "backbones hf:NAME need Hugging Face transformers: pip install "
            "'st-adapter[transformers]'"
        ) from error
    return transformers
