"""The format of the authors' checkpoints, as of github.com/linziyi96/st-adapter at b914b38."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from st_adapter.backbones.build import create_backbone
from st_adapter.backbones.construction import shapes_only
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
"""Parts of the authors' tensor names, and the parts of our names that correspond to them."""
_THEIRS = re.compile(
    r"transformer\.resblocks\.(0|[1-9]\d{0,3})\.adapter_pre_(attn|mlp)\.(fc1|conv|fc2)\.(weight|bias)"
)


@dataclass(frozen=True, kw_only=True)
class OfficialShape:
    """Describe the model of an authors' checkpoint, as far as the shapes of its tensors show.

    Attributes:
        width: width of the backbone's features.
        num_blocks: number of blocks of the backbone; the last block always has adapters.
        num_classes: number of classes.
        adapter: shape and placement of the adapters.
    """

    width: int
    num_blocks: int
    num_classes: int
    adapter: AdapterConfig

    @property
    def backbone(self) -> str:
        """The sizes of the backbone in words, for messages."""
        return f"a backbone of width {self.width} and {self.num_blocks} blocks"

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of all tensors that the authors' code trains, in order."""
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
    """Read an authors' checkpoint.

    Returns:
        The trained tensors by the authors' names, and the epoch with which training continues (0
        if the checkpoint does not record it).

    Raises:
        ArgumentError: the file does not exist.
        CheckpointError: the file cannot be read.
    """
    if not file.is_file():
        raise ArgumentError(f"checkpoint {file} does not exist")
    record = read_record(file)
    tensors = find_table(record, file)
    if all(name.startswith("module.") for name in tensors):  # saved from inside DDP
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    next_epoch = record.get("next_epoch")
    return tensors, next_epoch if type(next_epoch) is int else 0


def read_shape(source: str, tensors: Mapping[str, Tensor]) -> OfficialShape:
    """Infer the shape of the model from its tensors, and check that all of them fit it.

    Args:
        source: where the tensors come from, for error messages.
        tensors: trained tensors by the authors' names.

    Raises:
        CheckpointError: a tensor is missing, is not expected, or has a shape that contradicts the
            others.
    """
    found = [match for name in tensors if (match := _THEIRS.fullmatch(name))]
    if not found:
        raise CheckpointError(
            f"{source} is not a checkpoint of the authors' ST-Adapter: it does not have tensors "
            "named transformer.resblocks.*.adapter_pre_mlp.* or adapter_pre_attn.*"
        )
    blocks = [int(match[1]) for match in found]
    first, last = min(blocks), max(blocks)  # their code places adapters in all blocks between
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
    """Return our name of a tensor by the authors' name."""
    name = theirs
    for their_part, our_part in _NAMES.items():
        name = name.replace(their_part, our_part)
    return name


def official_name(ours: str) -> str:
    """Return the authors' name of a tensor by our name."""
    name = ours
    for their_part, our_part in _NAMES.items():
        name = name.replace(our_part, their_part)
    return name


def is_plain_vit(backbone: str) -> bool:
    """Whether a timm model is a plain ViT, in which adapters are where the authors place them."""
    with shapes_only():
        return VisionTransformerFamily.supports(create_backbone(backbone))


def remark_on(backbone: str) -> None:
    """Print a note if the authors' code does not have this backbone, even if the shapes fit."""
    if "_clip_quickgelu_" not in backbone:
        note(f"the authors' code only runs CLIP ViTs with QuickGELU; {backbone} is not one")


def _shape_of(source: str, tensors: Mapping[str, Tensor], part: str, axes: str) -> tuple[int, ...]:
    """Return the shape of a tensor of the first adapter, or of the head.

    Other adapters are not looked at: `check_fit` compares all of them with the result.
    """
    for name, tensor in tensors.items():
        if f".{name}".endswith(f".{part}") and tensor.ndim == len(axes.split()):
            return tuple(tensor.shape)
    raise CheckpointError(f"{source} does not have a tensor named {part} of shape [{axes}]")
