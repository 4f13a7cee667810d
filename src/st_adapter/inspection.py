"""Parameters, operations and adapter places of a classifier, counted without computing it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from st_adapter.backbones.weights import check_name, create_backbone
from st_adapter.checkpoint import adapter_folder, read_spec
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.machine import check_input_size
from st_adapter.model import VideoClassifier, assemble
from st_adapter.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a classifier costs.

    Attributes:
        adapters, head, frozen: numbers of parameters.
        gmacs: multiply-adds of one view, in 10^9.
        sites: name, channels and bottleneck of each adapter, from the input on.
    """

    backbone: str
    method: str
    frames: int
    size: int
    classes: int
    adapters: int
    head: int
    frozen: int
    gmacs: float
    sites: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)

    def to_text(self) -> str:
        """The record as lines to read."""
        trained = self.adapters + self.head
        lines = [
            f"{self.method} on {self.backbone}, {self.frames} frames of {self.size} px, "
            f"{self.classes} classes",
            f"adapters {self.adapters / 1e6:9.3f} M",
            f"head     {self.head / 1e6:9.3f} M",
            f"trained  {trained / 1e6:9.3f} M  ({trained / self.frozen:.1%} of the frozen)",
            f"frozen   {self.frozen / 1e6:9.3f} M",
            f"compute  {self.gmacs:9.1f} GMACs a view",
            f"{len(self.sites)} adapters, from the input on:",
        ]
        lines += [f"  {s['name']:24} {s['channels']:5} -> {s['bottleneck']}" for s in self.sites]
        return "\n".join(lines)


def inspect_run(path: Path, frames: int | None = None, size: int | None = None) -> Inspection:
    """Inspect the classifier in a run or adapter folder; its weights are not needed."""
    spec = read_spec(adapter_folder(path))
    return inspect_spec(spec, frames or spec.clip.frames, size or spec.clip.size)


def inspect_backbone(
    *,
    backbone: str,
    frames: int | None,
    size: int | None,
    classes: int,
    bottleneck: int | None,
    positions: str,
    adapter_layers: str,
) -> Inspection:
    """Inspect what training on a backbone would make."""
    config = TrainConfig(
        backbone=backbone, bottleneck=bottleneck, positions=positions, adapter_layers=adapter_layers
    )
    spec = ModelSpec(
        backbone=backbone,
        weights="random",
        labels=tuple(map(str, range(classes))),
        adapter=config.adapter,
        clip=ClipConfig(),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return inspect_spec(spec, frames or config.frames, size or config.size)


def inspect_spec(spec: ModelSpec, frames: int, size: int) -> Inspection:
    """Build the classifier on the meta device, where tensors have shapes and no data."""
    check_name(spec.backbone)
    with torch.device("meta"):
        model = assemble(create_backbone(spec.backbone, **spec.backbone_options), spec)
    return Inspection(
        backbone=spec.backbone,
        method=spec.method,
        frames=frames,
        size=size,
        classes=len(spec.labels),
        adapters=sum(p.numel() for p in model.adapters.parameters()),
        head=sum(p.numel() for p in model.head.parameters()),
        frozen=sum(p.numel() for p in model.backbone.parameters()),
        gmacs=count_macs(model, frames, size) / 1e9,
        sites=[
            {
                "name": name,
                "channels": adapter.get_submodule("down").in_features,
                "bottleneck": adapter.get_submodule("down").out_features,
            }
            for name, adapter in model.adapters.items()
        ],
    )


def count_macs(model: VideoClassifier, frames: int, size: int) -> float:
    """Multiply-adds of one clip, from the shapes of every product and convolution."""
    clip = torch.empty(1, frames, 3, size, size, device=model.device)
    counter = FlopCounterMode(display=False)
    check_input_size(model, size)
    with counter, torch.no_grad():
        model(clip)
    return counter.get_total_flops() / 2
