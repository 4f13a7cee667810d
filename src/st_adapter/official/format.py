"""The format of the authors' checkpoints, linziyi96/st-adapter at b914b38."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from st_adapter.backbones.build import create_backbone
from st_adapter.backbones.tensor_checks import check_fit
from st_adapter.backbones.vit import VisionTransformerFamily
from st_adapter.backbones.weight_files.tensors import find_table, read_record
from st_adapter.common.remarks import note
from st_adapter.config import AdapterConfig
from st_adapter.errors import ArgumentError, CheckpointError

_POSITIONS = {"attn": "attention", "mlp": "mlp"}
_NAMES = {
    "transformer.resblocks.": "adapters.blocks_",
    ".adapter_pre_attn.": "_attention.",
    ".adapter_pre_mlp.": "_mlp.",
    ".fc1.": ".down.",
    ".fc2.": ".up.",
    "fc.": "head.",
}
"""Parts of their tensors' names, and what stands in their place in ours."""
_THEIRS = re.compile(
    r"transformer\.resblocks\.(0|[1-9]\d{0,3})\.adapter_pre_(attn|mlp)\.(fc1|conv|fc2)\.(weight|bias)"
)


@dataclass(frozen=True, kw_only=True)
class OfficialShape:
    """What an authors' checkpoint is a checkpoint of, as its tensors tell.

    Attributes:
        width: of the backbone's features.
        num_blocks: of the backbone; the adapters sit in the last of them.
    """

    width: int
    num_blocks: int
    num_classes: int
    adapter: AdapterConfig

    @property
    def backbone(self) -> str:
        """The backbone in words."""
        return f"a backbone of width {self.width} and {self.num_blocks} blocks"

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all that the authors' code trains, in its order."""
        adapter, c, n = self.adapter, self.width, self.num_classes
        d = adapter.bottleneck
        assert d is not None
        parts: dict[str, tuple[int, ...]] = {
            "fc1.weight": (d, c),
            "fc1.bias": (d,),
            "conv.weight": (d, 1, *adapter.kernel_size),
            "conv.bias": (d,),
            "fc2.weight": (c, d),
            "fc2.bias": (c,),
        }
        layers = self.num_blocks if adapter.layers == "all" else adapter.layers
        return {
            f"transformer.resblocks.{block}.adapter_pre_{place}.{part}": shape
            for block in range(self.num_blocks - layers, self.num_blocks)
            for place, position in _POSITIONS.items()
            if position in adapter.positions
            for part, shape in parts.items()
        } | {"fc.weight": (n, c), "fc.bias": (n,)}


def read_official(file: Path) -> tuple[dict[str, Tensor], int]:
    """Read the trained tensors of an authors' checkpoint, and the epoch it goes on with."""
    if not file.is_file():
        raise ArgumentError(f"{file}: no such checkpoint file")
    record = read_record(file)
    tensors = find_table(record, file)
    if all(name.startswith("module.") for name in tensors):  # saved from inside DDP
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    next_epoch = record.get("next_epoch")
    return tensors, next_epoch if type(next_epoch) is int else 0


def read_shape(source: str, tensors: Mapping[str, Tensor]) -> OfficialShape:
    """Tell from tensors in the authors' names what they are of; all of them must fit that.

    Raises:
        CheckpointError: one is missing, in excess, or of another shape than the others.
    """
    found = [match for name in tensors if (match := _THEIRS.fullmatch(name))]
    if not found:
        raise CheckpointError(
            f"{source}: no checkpoint of the authors' ST-Adapter; it has no tensors named "
            "transformer.resblocks.*.adapter_pre_mlp.* or adapter_pre_attn.*"
        )
    blocks = [int(match[1]) for match in found]
    first, last = min(blocks), max(blocks)  # their code puts adapters in all from the first on
    places = {match[2] for match in found}
    _, width = _shape_of(source, tensors, "fc1.weight", "d, c")
    bottleneck, _, t, h, w = _shape_of(source, tensors, "conv.weight", "d, 1, t, h, w")
    num_classes, _ = _shape_of(source, tensors, "fc.weight", "n, c")
    try:
        adapter = AdapterConfig(
            bottleneck=bottleneck,
            kernel_size=(t, h, w),
            positions=tuple(ours for theirs, ours in _POSITIONS.items() if theirs in places),
            layers="all" if first == 0 else last - first + 1,
            init="conv-zero",
        )
    except ArgumentError as error:
        raise CheckpointError(f"{source}: {error}") from error
    shape = OfficialShape(
        width=width, num_blocks=last + 1, num_classes=num_classes, adapter=adapter
    )
    wanted = {n: torch.empty(s, device="meta") for n, s in shape.tensor_shapes().items()}
    check_fit(source, tensors, wanted)
    return shape


def our_name(theirs: str) -> str:
    """What a tensor of the authors' is called here."""
    name = theirs
    for their_part, our_part in _NAMES.items():
        name = name.replace(their_part, our_part)
    return name


def official_name(ours: str) -> str:
    """What a tensor of ours is called by the authors."""
    name = ours
    for their_part, our_part in _NAMES.items():
        name = name.replace(our_part, their_part)
    return name


def is_plain_vit(backbone: str) -> bool:
    """Whether adapters sit in this timm model where the authors' code puts them."""
    with torch.device("meta"):
        return VisionTransformerFamily.supports(create_backbone(backbone))


def remark_on(backbone: str) -> None:
    """Say so where the authors' code has no such backbone, whatever the tensors' shapes."""
    if "_clip_quickgelu_" not in backbone:
        note(f"the authors' code runs CLIP ViTs with QuickGELU alone; {backbone} is not one")


def _shape_of(source: str, tensors: Mapping[str, Tensor], part: str, axes: str) -> tuple[int, ...]:
    """The shape of a part of the first adapter, or of the head; `check_fit` compares the others."""
    for name, tensor in tensors.items():
        if f".{name}".endswith(f".{part}") and tensor.ndim == len(axes.split()):
            return tuple(tensor.shape)
    raise CheckpointError(f"{source}: it has no tensor named {part} of the form [{axes}]")
