"""The format of the authors' checkpoints, linziyi96/st-adapter at b914b38."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from st_adapter.backbones.build import check_fit
from st_adapter.backbones.weight_files.tensors import read_record, table_of
from st_adapter.common.progress import say
from st_adapter.config import AdapterConfig
from st_adapter.errors import ArgumentError, CheckpointError

_POSITIONS = {"attn": "attention", "mlp": "mlp"}
_PARTS = {"fc1": "down", "conv": "conv", "fc2": "up"}
_ADAPTER_AXES = {
    "fc1.weight": "dc",
    "fc1.bias": "d",
    "conv.weight": "d1thw",
    "conv.bias": "d",
    "fc2.weight": "cd",
    "fc2.bias": "c",
}
"""Tensors of an adapter in the authors' order; d is the bottleneck, c the backbone's width."""

_HEAD_AXES = {"fc.weight": "nc", "fc.bias": "n"}
_THEIRS = re.compile(
    r"transformer\.resblocks\.(0|[1-9]\d{0,3})\.adapter_pre_(attn|mlp)\.(fc1|conv|fc2)\.(weight|bias)"
)
OURS = re.compile(r"adapters\.blocks_(\d{1,4})_(attention|mlp)\.(down|conv|up)\.(weight|bias)")


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
        adapter, blocks = self.adapter, self.num_blocks
        assert adapter.bottleneck is not None
        layers = blocks if adapter.layers == "all" else adapter.layers
        sizes = {"1": 1, "c": self.width, "d": adapter.bottleneck, "n": self.num_classes}
        sizes |= dict(zip("thw", adapter.kernel_size, strict=True))
        names = [
            f"transformer.resblocks.{block}.adapter_pre_{place}.{part}"
            for block in range(blocks - layers, blocks)
            for place, position in _POSITIONS.items()
            if position in adapter.positions
            for part in _ADAPTER_AXES
        ]
        return {
            name: tuple(sizes[axis] for axis in _axes_of(name)) for name in (*names, *_HEAD_AXES)
        }


def read_official(file: Path) -> tuple[dict[str, Tensor], int | None]:
    """Read the trained tensors of an authors' checkpoint, and the epoch it goes on with."""
    if not file.is_file():
        raise ArgumentError(f"{file}: no such checkpoint file")
    record = read_record(file)
    next_epoch = record.get("next_epoch") if isinstance(record, Mapping) else None
    tensors = table_of(record, file)
    if all(name.startswith("module.") for name in tensors):  # saved from inside DDP
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors, next_epoch if type(next_epoch) is int else None


def read_shape(source: str, tensors: Mapping[str, Tensor]) -> OfficialShape:
    """Tell from tensors in the authors' names what they are of; all of them must fit that.

    Raises:
        CheckpointError: one is missing, in excess, or of another shape than the others.
    """
    found = [match.groups() for name in tensors if (match := _THEIRS.fullmatch(name))]
    if not found:
        raise CheckpointError(
            f"{source}: no checkpoint of the authors' ST-Adapter; it has no tensors named "
            "transformer.resblocks.*.adapter_pre_mlp.* or adapter_pre_attn.*"
        )
    first, last = _last_blocks(source, {int(block) for block, *_ in found})
    sizes = _usual_sizes(source, tensors)
    places = {place for _, place, *_ in found}
    try:
        adapter = AdapterConfig(
            bottleneck=sizes["d"],
            kernel_size=(sizes["t"], sizes["h"], sizes["w"]),
            positions=tuple(ours for theirs, ours in _POSITIONS.items() if theirs in places),
            layers="all" if first == 0 else last - first + 1,
            init="conv-zero",
        )
    except ArgumentError as error:
        raise CheckpointError(f"{source}: {error}") from None
    shape = OfficialShape(
        width=sizes["c"], num_blocks=last + 1, num_classes=sizes["n"], adapter=adapter
    )
    wanted = {n: torch.empty(s, device="meta") for n, s in shape.tensor_shapes().items()}
    check_fit(source, tensors, wanted)
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise CheckpointError(f"{source}: {name} is of {tensor.dtype}, not torch.float32")
    return shape


def _last_blocks(source: str, blocks: set[int]) -> tuple[int, int]:
    """The first and the last block with adapters, where all between them have some too."""
    first, last = min(blocks), max(blocks)
    gap = next((block for block in range(first, last) if block not in blocks), None)
    if gap is not None:
        raise CheckpointError(
            f"{source}: block {gap} has no adapter, where blocks {first} and {last} have; the "
            "authors' code puts adapters in the last blocks, all of them"
        )
    return first, last


def our_name(theirs: str) -> str:
    """What a tensor of the authors' is called here."""
    match = _THEIRS.fullmatch(theirs)
    if match is None:
        return theirs.replace("fc.", "head.")
    block, place, part, kind = match.groups()
    return f"adapters.blocks_{block}_{_POSITIONS[place]}.{_PARTS[part]}.{kind}"


def official_name(ours: str) -> str:
    """What a tensor of ours is called by the authors."""
    match = OURS.fullmatch(ours)
    if match is None:
        return ours.replace("head.", "fc.")
    block, position, part, kind = match.groups()
    place = {o: t for t, o in _POSITIONS.items()}[position]
    theirs = {o: t for t, o in _PARTS.items()}[part]
    return f"transformer.resblocks.{block}.adapter_pre_{place}.{theirs}.{kind}"


def _axes_of(name: str) -> str:
    """One letter for each axis of a tensor in the authors' names; none for an unknown tensor."""
    part = ".".join(name.split(".")[-2:])
    return (_ADAPTER_AXES | _HEAD_AXES).get(part, "")


def _usual_sizes(source: str, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The commonest length of each axis; what differs from it is reported later."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for name, tensor in tensors.items():
        axes = _axes_of(name)
        if len(axes) == tensor.ndim:
            for axis, length in zip(axes, tensor.shape, strict=True):
                votes[axis][length] += 1
    for axis, part in {"c": "fc1.weight", "n": "fc.weight", "t": "conv.weight"}.items():
        if axis not in votes:
            axes = ", ".join(_axes_of(part))
            raise CheckpointError(f"{source}: it has no tensor named {part} of the form [{axes}]")
    return {axis: lengths.most_common(1)[0][0] for axis, lengths in votes.items()}


def remark_on(backbone: str) -> None:
    """Say so where the authors' code has no such backbone, whatever the tensors' shapes."""
    if "_clip_quickgelu_" not in backbone:
        say(f"note: the authors' code runs CLIP ViTs with QuickGELU alone; {backbone} is none")
