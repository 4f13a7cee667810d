"""Parameters, operations and adapter places of a classifier, counted without running it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from st_adapter.backbones.build import create_backbone
from st_adapter.backbones.sources import check_name
from st_adapter.config import TrainConfig
from st_adapter.methods import METHODS
from st_adapter.model.checkpoint import find, read_spec
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.spec import ModelSpec
from st_adapter.recipes import RECIPES, Recipe, resolve
from st_adapter.runtime.device import check_input_size


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a classifier costs.

    Attributes:
        adapters: trained parameters but for the head's; in most methods they are no adapters.
        head: the head's parameters.
        frozen: parameters that are not trained.
        parts: those of the image model, by part of it.
        gmacs: multiply-adds of one view, in 10^9.
        sites: every place for an adapter, from the input on: its name, block, position and
            channels, and the bottleneck of the adapter there, 0 where there is none.
    """

    backbone: str
    method: str
    frames: int
    size: int
    classes: int
    adapters: int
    head: int
    frozen: int
    parts: dict[str, int]
    gmacs: float
    sites: list[dict[str, Any]]

    @property
    def num_adapters(self) -> int:
        """How many of the places have an adapter."""
        return sum(site["bottleneck"] > 0 for site in self.sites)

    def to_text(self) -> str:
        """The record as lines to read."""
        trained = self.adapters + self.head
        image_model = sum(self.parts.values())
        lines = [
            f"{self.method} on {self.backbone}, {self.frames} frames of {self.size} px, "
            f"{self.classes} classes",
            f"{'adapters' if self.num_adapters else 'inside':8} {self.adapters / 1e6:9.3f} M",
            f"head     {self.head / 1e6:9.3f} M",
            f"trained  {trained / 1e6:9.3f} M  ({trained / image_model:.1%} "
            f"{'of the frozen' if self.frozen == image_model else 'of the image model'})",
            f"frozen   {self.frozen / 1e6:9.3f} M  "
            f"{'' if self.frozen == image_model else f'of {image_model / 1e6:.3f} M '}"
            f"({_in_millions(self.parts)})",
            f"compute  {self.gmacs:9.1f} GMACs a view",
        ]
        if self.num_adapters:
            lines.append(f"{self.num_adapters} adapters, [outside > inside > outside]:")
        return "\n".join(lines + self.drawing())

    def drawing(self) -> list[str]:
        """The way of a frame through the blocks, a line for each run of blocks that are alike."""
        blocks = groupby(self.sites, key=lambda site: site["block"])
        rows = [(block, " ".join(map(_draw, sites))) for block, sites in blocks]
        lines = ["  frames"]
        for text, group in groupby(rows, key=lambda row: row[1]):
            numbers = [number for number, _ in group]
            span = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
            lines.append(f"  block {span:7} {text}")
        return [*lines, f"  mean over {self.frames} frames, head of {self.classes}"]


def _draw(site: dict[str, Any]) -> str:
    """One place: the adapter, if there is one, before what comes after it."""
    outside, inside = site["channels"], site["bottleneck"]
    adapter = f"[{outside} > {inside} > {outside}] " if inside else ""
    return f"-> {adapter}{site['position']}"


def _in_millions(parts: dict[str, int]) -> str:
    """The parts that have a thousandth of a million, the largest first."""
    shown = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {count / 1e6:.3f}" for name, count in shown if count >= 500)


def inspect_run(path: Path, frames: int | None = None, size: int | None = None) -> Inspection:
    """Inspect the classifier in a run or adapter folder; its weights are not needed."""
    spec = read_spec(find(path))
    return inspect_spec(spec, frames or spec.clip.frames, size or spec.clip.size)


def inspect_backbone(
    *,
    backbone: str,
    frames: int | None,
    size: int | None,
    classes: int,
    **choices: Any,
) -> Inspection:
    """Inspect what training on a backbone would make; `choices` are fields of TrainConfig."""
    config = TrainConfig(backbone=backbone, **choices)
    spec = spec_of(config, tuple(map(str, range(classes))))
    return inspect_spec(spec, frames or config.frames, size or config.size)


def spec_of(config: TrainConfig, labels: Sequence[str]) -> ModelSpec:
    """What training would make, as far as its costs and places go."""
    return ModelSpec(
        backbone=config.backbone,
        weights="random",
        labels=tuple(labels),
        method=config.method,
        adapter=config.adapter,
        method_config=config.method_config,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def inspect_spec(spec: ModelSpec, frames: int, size: int) -> Inspection:
    """Build the classifier without data."""
    check_name(spec.backbone)
    with torch.device("meta"):
        model = VideoClassifier(create_backbone(spec.backbone, **spec.backbone_options), spec)
    trained = model.num_parameters(only_trainable=True)
    head = sum(p.numel() for p in model.head.parameters())
    return Inspection(
        backbone=spec.backbone,
        method=spec.method,
        frames=frames,
        size=size,
        classes=len(spec.labels),
        adapters=trained - head,
        head=head,
        frozen=model.num_parameters() - trained,
        parts=count_parts(model),
        gmacs=count_macs(model, frames, size) / 1e9,
        sites=[
            {
                "name": site.name,
                "block": site.block,
                "position": site.position,
                "channels": site.channels,
                "bottleneck": _bottleneck(model, site.name),
            }
            for site in model.family.sites()
        ],
    )


def _bottleneck(model: VideoClassifier, site: str) -> int:
    down = model.trained_tensors().get(f"adapters.{site}.down.weight")
    return 0 if down is None else down.shape[0]


def count_parts(model: VideoClassifier) -> dict[str, int]:
    """Parameters of the image model by the first part of their names."""
    counts: Counter[str] = Counter()
    adds_inside = METHODS[model.spec.method].low_rank
    for name, parameter in model.backbone.named_parameters():
        if not (adds_inside and parameter.requires_grad):
            counts[name.partition(".")[0]] += parameter.numel()
    return dict(counts)


def count_macs(model: VideoClassifier, frames: int, size: int) -> float:
    """Multiply-adds of one clip, from the shapes of every product and convolution."""
    clip = torch.empty(1, frames, 3, size, size, device=model.device)
    counter = FlopCounterMode(display=False)
    check_input_size(model, size)
    with counter:  # it asks each input that can be trained for its place in the graph
        model(clip)
    return counter.get_total_flops() / 2


@dataclass(frozen=True, kw_only=True)
class RecipeCost:
    """A recipe's architecture in numbers.

    Attributes:
        adapters: how many, and how wide, such as "12x384".
        trained: parameters of adapters and head.
        gmacs: multiply-adds of one view, in 10^9.
    """

    name: str
    config: TrainConfig
    recipe: Recipe
    adapters: str
    trained: int
    gmacs: float


def recipe_costs() -> Iterator[RecipeCost]:
    """Count the cost of each recipe that was published for some data, in order."""
    for name, recipe in RECIPES.items():
        if recipe.classes:
            yield _recipe_cost(name, recipe)


def _recipe_cost(name: str, recipe: Recipe) -> RecipeCost:
    """Scale the cost of one frame: only adapters see several frames, at the same cost for each."""
    config = resolve(name, None, {})
    frame = _one_frame(config.backbone, config.positions, config.bottleneck)
    width = frame.head - 1
    head_macs = width * recipe.classes
    return RecipeCost(
        name=name,
        config=config,
        recipe=recipe,
        adapters=f"{frame.num_adapters}x{config.bottleneck}",
        trained=frame.adapters + head_macs + recipe.classes,
        gmacs=(config.frames * (frame.gmacs * 1e9 - width) + head_macs) / 1e9,
    )


@cache  # many recipes differ in data and frames alone
def _one_frame(backbone: str, positions: str, bottleneck: int | None) -> Inspection:
    return inspect_backbone(
        backbone=backbone,
        frames=1,
        size=None,
        classes=1,
        bottleneck=bottleneck,
        positions=positions,
        adapter_layers="all",
    )
