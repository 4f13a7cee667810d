"""Count parameters and operations of a classifier without running it or loading weights."""

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
from st_adapter.backbones.construction import shapes_only
from st_adapter.backbones.sources import check_name
from st_adapter.config import TrainConfig
from st_adapter.methods import METHODS
from st_adapter.model.checkpoint import find, read_spec
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.spec import ModelSpec
from st_adapter.recipes import RECIPES, Recipe, resolve
from st_adapter.runtime.device import check_input_size

_POOLINGS = {
    "mean": "mean over",
    "temporal": "transformer and mean over",
    "attention": "attention pooling over",
    "ordered": "attention pooling with a code for each of",
    "side": "side network over",
}
"""How frame features become clip features, in the words of a drawing."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Describe the size and cost of a classifier.

    Attributes:
        backbone: timm name of the image model.
        method: what is trained, one of the names in METHODS.
        frames: frames per clip.
        size: height and width of a clip in pixels.
        classes: number of classes.
        adapters: number of trained parameters without the head, for all methods: not only those
            that train adapters.
        head: number of parameters of the head.
        head_type: "linear" or "cosine".
        frozen: number of parameters that are not trained.
        parts: number of parameters of the image model by its top-level modules.
        gmacs: multiply-adds in 10^9 for one view.
        sites: every place for an adapter, from the input on, with its name, block, position and
            channels, and the bottleneck of its adapter, which is 0 for a place without one.
    """

    backbone: str
    method: str
    frames: int
    size: int
    classes: int
    adapters: int
    head: int
    head_type: str
    frozen: int
    parts: dict[str, int]
    gmacs: float
    sites: list[dict[str, Any]]

    @property
    def num_adapters(self) -> int:
        """Number of places that have an adapter."""
        return sum(site["bottleneck"] > 0 for site in self.sites)

    def to_text(self) -> str:
        """Format the record as text for a terminal."""
        trained = self.adapters + self.head
        image_model = sum(self.parts.values())
        lines = [
            f"{self.method} on {self.backbone}, {_count(self.frames, 'frame')} of {self.size} px, "
            f"{_count(self.classes, 'class')}",
            f"{self._place():8} {self.adapters / 1e6:9.3f} M",
            f"head     {self.head / 1e6:9.3f} M",
            f"trained  {trained / 1e6:9.3f} M  ({trained / image_model:.1%} "
            f"{'of the frozen model' if self.frozen == image_model else 'of the image model'})",
            f"frozen   {self.frozen / 1e6:9.3f} M  "
            f"{'' if self.frozen == image_model else f'of {image_model / 1e6:.3f} M '}"
            f"({_in_millions(self.parts)})",
            f"compute  {self.gmacs:9.1f} GMACs per view",
        ]
        if self.num_adapters:
            count = _count(self.num_adapters, "adapter")
            lines.append(f"{count}, shown as [channels > bottleneck > channels]:")
        return "\n".join(lines + self.drawing())

    def drawing(self) -> list[str]:
        """Draw the path of a frame through the blocks, with one line per run of equal blocks."""
        blocks = groupby(self.sites, key=lambda site: site["block"])
        rows = [(block, " ".join(map(_draw, sites))) for block, sites in blocks]
        lines = ["  frames"]
        for text, group in groupby(rows, key=lambda row: row[1]):
            numbers = [number for number, _ in group]
            span = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
            lines.append(f"  block {span:7} {text}")
        return [
            *lines,
            f"  {_POOLINGS[METHODS[self.method].pooling]} {_count(self.frames, 'frame')}, "
            f"{self.head_type} head of "
            f"{_count(self.classes, 'class')}",
        ]

    def _place(self) -> str:
        """Say in one word where the trained parameters are, apart from the head."""
        if self.num_adapters:
            return "adapters"
        return "inside" if METHODS[self.method].pooling == "mean" else "behind"


def _count(number: int, noun: str) -> str:
    if number != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{number} {noun}"


def _draw(site: dict[str, Any]) -> str:
    """Draw one place: the adapter, if it has one, before the attention, MLP or block."""
    outside, inside = site["channels"], site["bottleneck"]
    adapter = f"[{outside} > {inside} > {outside}] " if inside else ""
    return f"-> {adapter}{site['position']}"


def _in_millions(parts: dict[str, int]) -> str:
    """List the parts that do not round to 0.000 million, the largest first."""
    shown = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {count / 1e6:.3f}" for name, count in shown if count >= 500)


def inspect_run(path: Path, frames: int | None = None, size: int | None = None) -> Inspection:
    """Inspect the classifier in a run or adapter folder, without the weights of its backbone.

    Args:
        path: run folder or adapter folder.
        frames: frames per clip; None is as trained.
        size: height and width of a clip in pixels; None is as trained.
    """
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
    """Inspect the classifier that training with a backbone would make.

    Args:
        backbone: timm name.
        frames: frames per clip; None is the default of TrainConfig.
        size: height and width of a clip in pixels; None is the default of TrainConfig.
        classes: number of classes.
        **choices: other settings of TrainConfig.
    """
    config = TrainConfig(backbone=backbone, **choices)
    spec = spec_of(config, tuple(map(str, range(classes))))
    return inspect_spec(spec, frames or config.frames, size or config.size)


def spec_of(config: TrainConfig, labels: Sequence[str]) -> ModelSpec:
    """Return the record of a classifier with random weights, enough to count its cost."""
    return ModelSpec(
        backbone=config.backbone,
        weights="random",
        labels=tuple(labels),
        method=config.method,
        adapter=config.adapter,
        method_config=config.method_config,
        head=config.head,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def build_shapes(spec: ModelSpec) -> VideoClassifier:
    """Build the classifier that a record describes without values: nothing can be computed."""
    check_name(spec.backbone)
    with shapes_only():  # no memory is allocated
        return VideoClassifier(create_backbone(spec.backbone, **spec.backbone_options), spec)


def inspect_spec(spec: ModelSpec, frames: int, size: int) -> Inspection:
    """Build the classifier that a record describes, and count its parameters and operations.

    Args:
        spec: record of the classifier.
        frames: frames per clip.
        size: height and width of a clip in pixels.
    """
    model = build_shapes(spec)
    trained = sum(p.numel() for p in model.trained_tensors().values())
    head = sum(p.numel() for p in model.head.parameters())
    return Inspection(
        backbone=spec.backbone,
        method=spec.method,
        frames=frames,
        size=size,
        classes=len(spec.labels),
        adapters=trained - head,
        head=head,
        head_type=spec.head,
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
    """Count the parameters of the image model by the first part of their names.

    LoRA adds parameters inside the image model; they are not counted.
    """
    counts: Counter[str] = Counter()
    adds_inside = METHODS[model.spec.method].low_rank
    for name, parameter in model.backbone.named_parameters():
        if not (adds_inside and parameter.requires_grad):
            counts[name.partition(".")[0]] += parameter.numel()
    return dict(counts)


def count_macs(model: VideoClassifier, frames: int, size: int) -> float:
    """Count the multiply-adds of one clip in all matrix products and convolutions."""
    clip = torch.empty(1, frames, 3, size, size, device=model.device)
    counter = FlopCounterMode(display=False)
    check_input_size(model, size)
    with counter:  # not under no_grad: the counter reads grad_fn of inputs that require grad
        model(clip)
    return counter.get_total_flops() / 2


@dataclass(frozen=True, kw_only=True)
class RecipeCost:
    """Describe the size and cost of the classifier that a recipe makes.

    Attributes:
        name: name of the recipe.
        config: its settings.
        recipe: the recipe.
        adapters: number and width of its adapters, such as "12x384".
        trained: number of parameters of the adapters and the head.
        gmacs: multiply-adds in 10^9 for one view.
    """

    name: str
    config: TrainConfig
    recipe: Recipe
    adapters: str
    trained: int
    gmacs: float


def recipe_costs() -> Iterator[RecipeCost]:
    """Yield the cost of each published recipe, in the order of RECIPES."""
    for name, recipe in RECIPES.items():
        if recipe.classes:
            yield _recipe_cost(name, recipe)


def _recipe_cost(name: str, recipe: Recipe) -> RecipeCost:
    """Compute the cost of a recipe from that of one frame and one class.

    Each frame costs the same, because zero padding gives the convolutions of the adapters as many
    operations at the ends of a clip as elsewhere. The head runs once per clip.
    """
    config = resolve(name, None, {})
    frame = _one_frame(config.backbone, config.positions, config.bottleneck)
    width = frame.head - 1  # the head of one class has `width` weights and 1 bias
    head_macs = width * recipe.classes
    return RecipeCost(
        name=name,
        config=config,
        recipe=recipe,
        adapters=f"{frame.num_adapters}x{config.bottleneck}",
        trained=frame.adapters + head_macs + recipe.classes,
        gmacs=(config.frames * (frame.gmacs * 1e9 - width) + head_macs) / 1e9,
    )


@cache  # many recipes differ only in their data set and number of frames
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
