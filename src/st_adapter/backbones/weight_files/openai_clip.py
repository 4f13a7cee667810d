"""OpenAI's CLIP files: their names for the image model's tensors, and timm's for the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import timm
from torch import Tensor

from st_adapter.common.remarks import note
from st_adapter.errors import CheckpointError

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
    """Sizes of CLIP's image transformer; `patch` and `size` in pixels."""

    width: int
    blocks: int
    patch: int
    size: int

    @property
    def name(self) -> str | None:
        """The timm name of OpenAI's model of this shape, if there is one."""
        return PUBLISHED.get((self.width, self.blocks, self.patch, self.size))

    def __str__(self) -> str:
        sizes = f"{self.width} wide, {self.blocks} blocks, patch {self.patch}, {self.size} px"
        return f"{sizes}; give --backbone {self.name}" if self.name else sizes


PUBLISHED = {
    (768, 12, 16, 224): "vit_base_patch16_clip_quickgelu_224.openai",
    (768, 12, 32, 224): "vit_base_patch32_clip_quickgelu_224.openai",
    (1024, 24, 14, 224): "vit_large_patch14_clip_quickgelu_224.openai",
    (1024, 24, 14, 336): "vit_large_patch14_clip_quickgelu_336.openai",
}
"""The timm names of OpenAI's models, by width, blocks, patch and size."""


def published_name(width: int, blocks: int) -> str | None:
    """The timm name of OpenAI's model of this width and depth that the authors of ST-Adapter use.

    Of several, that of 224 px with the smallest patch.
    """
    near = [s for s in PUBLISHED if (s[0], s[1], s[3]) == (width, blocks, 224)]
    return PUBLISHED[min(near)] if near else None


def is_clip(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors carry OpenAI's names of a CLIP with an image transformer."""
    return "visual.class_embedding" in tensors or "class_embedding" in tensors


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the image model's tensors timm's names; leave out the text model's.

    The projection to the space shared with text is left out too: adapters classify what comes
    before it. A name that is not known stays as it is.
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
    """Tell the sizes of the image model.

    Raises:
        CheckpointError: the tensors that tell them are missing, or do not have the shape of a CLIP.
    """
    visual = _visual(tensors)
    blocks = {n.split(".")[2] for n in visual if n.startswith("transformer.resblocks.")}
    try:
        width, _, patch, _ = visual["conv1.weight"].shape
        positions, _ = visual["positional_embedding"].shape
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a CLIP image model: conv1.weight or positional_embedding is missing "
            "or of another shape"
        ) from error
    size = isqrt(max(positions - 1, 0)) * patch
    if min(width, patch, size) < 1:
        raise CheckpointError(f"{file} is not a CLIP image model: it is {width} wide, of {size} px")
    return ClipShape(width=width, blocks=len(blocks), patch=patch, size=size)


def quickgelu_twin(name: str, tag: str) -> str | None:
    """The timm name of the same model with QuickGELU and weights of this tag, if there is one."""
    plain = name.partition(".")[0]
    twin = plain.replace("_clip_", "_clip_quickgelu_")
    if twin == plain or not timm.is_model(twin):
        return None
    return f"{twin}.{tag}" if f"{twin}.{tag}" in timm.list_pretrained(f"{twin}.*") else None


def remark_on_activation(name: str, tag: str) -> None:
    """Say so where weights of this tag were trained with QuickGELU and the model has GELU."""
    if twin := quickgelu_twin(name, tag):
        note(f"weights {tag} want QuickGELU, where {name} computes GELU; {twin} has it")


def _visual(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image model's tensors by their bare names."""
    prefix = "visual." if "visual.class_embedding" in tensors else ""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
