"""Convert OpenAI's CLIP files, whose image model has other tensor names than timm's."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import timm
from torch import Tensor

from st_adapter.common.remarks import note
from st_adapter.errors import CheckpointError
from st_adapter.wording import setting

# Parts of OpenAI's tensor names, and the parts of timm's names that replace them.
_RENAMED = {
    "conv1.": "patch_embed.proj.",
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
    "transformer.resblocks.": "blocks.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".attn.in_proj_": ".attn.qkv.",
    ".attn.out_proj.": ".attn.proj.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """Hold the sizes of CLIP's image transformer.

    Attributes:
        width: width of the features.
        blocks: number of blocks.
        patch: height and width of a patch in pixels.
        size: height and width of the input in pixels.
    """

    width: int
    blocks: int
    patch: int
    size: int

    @property
    def name(self) -> str | None:
        """timm name of the model of this shape that OpenAI published, or None."""
        return PUBLISHED.get((self.width, self.blocks, self.patch, self.size))

    def __str__(self) -> str:
        sizes = f"{self.width} wide, {self.blocks} blocks, patch {self.patch}, {self.size} px"
        return f"{sizes}; use {setting('backbone', self.name)}" if self.name else sizes


PUBLISHED = {
    (768, 12, 16, 224): "vit_base_patch16_clip_quickgelu_224.openai",
    (768, 12, 32, 224): "vit_base_patch32_clip_quickgelu_224.openai",
    (1024, 24, 14, 224): "vit_large_patch14_clip_quickgelu_224.openai",
    (1024, 24, 14, 336): "vit_large_patch14_clip_quickgelu_336.openai",
}
"""timm names of the models that OpenAI published, by (width, blocks, patch, size)."""


def published_name(width: int, blocks: int) -> str | None:
    """Find the timm name of OpenAI's model of a width and depth.

    If there are several, it is the one for 224 pixels with the smallest patches, which the authors
    of ST-Adapter use.

    Args:
        width: width of the features.
        blocks: number of blocks.

    Returns:
        The name, or None if OpenAI did not publish such a model.
    """
    near = [s for s in PUBLISHED if (s[0], s[1], s[3]) == (width, blocks, 224)]
    return PUBLISHED[min(near)] if near else None


def is_clip(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors have OpenAI's names of a CLIP whose image model is a transformer.

    Args:
        tensors: tensors by name.
    """
    return "visual.class_embedding" in tensors or "class_embedding" in tensors


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the image model as in timm, and leave out the text model.

    The projection to the space shared with text is left out as well, because the head classifies
    the features before it. Unknown names are kept, so that a later check reports them.

    Args:
        tensors: tensors by OpenAI's names.
    """
    renamed = {}
    for name, tensor in _visual(tensors).items():
        if name == "class_embedding":
            tensor = tensor[None, None]
        elif name == "positional_embedding":
            tensor = tensor[None]
        for theirs, ours in _RENAMED.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    renamed.pop("proj", None)
    return renamed


def read_shape(tensors: Mapping[str, Tensor], file: Path) -> ClipShape:
    """Infer the sizes of the image model from the shapes of its tensors.

    Args:
        tensors: tensors by OpenAI's names.
        file: path of their file, for the error message.

    Raises:
        CheckpointError: a tensor is missing, or does not have the shape that it has in CLIP.
    """
    visual = _visual(tensors)
    blocks = {n.split(".")[2] for n in visual if n.startswith("transformer.resblocks.")}
    try:
        width, _, patch, _ = visual["conv1.weight"].shape
        positions, _ = visual["positional_embedding"].shape
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a CLIP image model: conv1.weight or positional_embedding is missing "
            "or has another shape"
        ) from error
    size = isqrt(max(positions - 1, 0)) * patch
    if min(width, patch, size) < 1:
        raise CheckpointError(
            f"{file} is not a CLIP image model: its width would be {width} and its size {size} px"
        )
    return ClipShape(width=width, blocks=len(blocks), patch=patch, size=size)


def quickgelu_twin(name: str, tag: str) -> str | None:
    """Find the timm model that differs from a CLIP model only in having QuickGELU.

    Args:
        name: timm name of a model with GELU, with or without a tag.
        tag: tag of the weights that the other model must have.

    Returns:
        Its name with the tag, or None if there is none.
    """
    plain = name.partition(".")[0]
    twin = plain.replace("_clip_", "_clip_quickgelu_")
    if twin == plain or not timm.is_model(twin):
        return None
    return f"{twin}.{tag}" if f"{twin}.{tag}" in timm.list_pretrained(f"{twin}.*") else None


def remark_on_activation(name: str, tag: str) -> None:
    """Print a note if weights were trained with QuickGELU but the model has GELU.

    Args:
        name: timm name of the model, without a tag.
        tag: tag of the weights.
    """
    if twin := quickgelu_twin(name, tag):
        note(f"weights {tag} were trained with QuickGELU, but {name} has GELU; use {twin} instead")


def _visual(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the image model, without the prefix of their names."""
    prefix = "visual." if "visual.class_embedding" in tensors else ""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
