"""What a classifier trained by each recipe costs, counted from its architecture."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from st_adapter.catalogue.costs import Inspection, inspect_backbone
from st_adapter.config import TrainConfig
from st_adapter.recipes import RECIPES, Recipe, resolve


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

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)


def recipe_costs() -> Iterator[RecipeCost]:
    """Count the cost of each recipe that was published for some data, in order."""
    for name, recipe in RECIPES.items():
        if recipe.classes:
            yield _cost(name, recipe)


def _cost(name: str, recipe: Recipe) -> RecipeCost:
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


@cache
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
