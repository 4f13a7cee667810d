"""Named configurations, and how a file and flags override them."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named configuration, and the accuracy it should reach.

    Attributes:
        values: fields of TrainConfig that differ from their defaults.
        classes: classes of the data it was published for; 0 is any data.
        published: accuracy that the authors report, in percent; empty if none is known.
        source: who reports that accuracy.
        chosen: topic to reason, for each value that neither the paper nor its code gives.
    """

    values: dict[str, Any] = field(default_factory=dict)
    classes: int = 0
    published: str = ""
    source: str = ""
    chosen: dict[str, str] = field(default_factory=dict)


_RELEASED = {
    "bottleneck": 384,
    "init": "conv-zero",
    "dropout": 0.5,
    "head_std": 0.02,
    "batch_size": 64,
    "lr": None,
    "lr_per_256": 1e-3,
    "warmup_epochs": 2.0,
    "clip_gradient": 0.0,
}
_DATA = {
    # scripts/train_k400_clip_vit_b16_adapter12x384.sh of linziyi96/st-adapter at b914b38.
    "k400": Recipe(
        classes=400,
        values=_RELEASED
        | {
            "positions": "mlp",
            "stride": 16,
            "crop": "jitter",
            "crop_range": (1.0, 1.15),
            "views": "3x1",
            "epochs": 12,
        },
    ),
    # scripts/train_ssv2_clip_vit_b16_adapter24x384.sh of the same.
    "ssv2": Recipe(
        classes=174,
        values=_RELEASED
        | {
            "positions": "attention,mlp",
            "crop": "area",
            "crop_range": (0.08, 1.0),
            "flip": False,
            "randaugment": True,
            "views": "1x3",
            "epochs": 50,
        },
    ),
}
_DATA["epic"] = replace(
    _DATA["ssv2"],
    classes=97 + 300,
    chosen={
        "everything but backbone, frames and bottleneck": "no script is released; as on ssv2, "
        "which also films hands on objects from close by",
        "verbs and nouns together": "the paper does not say whether one model answers both; here "
        "two heads share the adapters",
    },
)
_BACKBONES = {
    "b16": ("vit_base_patch16_clip_quickgelu_224.openai", {}),
    "l14": (
        "vit_large_patch14_clip_quickgelu_224.openai",
        {"schedule, rate and augmentation": "none is released for ViT-L/14; as on ViT-B/16"},
    ),
    "in21k-b16": (
        "vit_base_patch16_224.orig_in21k",
        {
            "weights": "the paper says ImageNet-21k and no more; these are the first published "
            "for ViT-B/16, of Dosovitskiy et al. 2021",
            "schedule, rate and augmentation": "none is released for it; as with CLIP's weights",
        },
    ),
}
_PLACES = {
    "k400-in21k-b16": "12x384 before the MLP, as with CLIP's weights",
    "ssv2-in21k-b16": "24x384 before attention and MLP, as with CLIP's weights",
    "epic-in21k-b16": "24x384 before attention and MLP, as with CLIP's weights",
    "k400-l14": "before the MLP, 24x384: its 2747 GMACs at 32 frames, times 3 views, are the "
    "paper's 8248",
    "ssv2-l14": "before attention and MLP, 48x384, as on ViT-B/16",
    "epic-l14": "before attention and MLP, 48x384, as on ViT-B/16",
}
_QUOTED = "paper, quoted by others"
_PUBLISHED = {
    "k400-b16-8f": ("82.0", f"{_QUOTED}; 82.2 in the authors' README"),
    "k400-b16-32f": ("82.7", _QUOTED),
    "k400-l14-32f": ("87.2", _QUOTED),
    "ssv2-b16-8f": ("66.9", "authors' README"),
    "ssv2-b16-32f": ("69.5", _QUOTED),
    "ssv2-l14-32f": ("72.3", _QUOTED),
    "epic-b16-8f": ("verb 67.6, noun 55.0", _QUOTED),
}


def _published_recipes() -> dict[str, Recipe]:
    """Make a recipe for each data set, backbone and clip length of the paper."""
    made = {}
    for data, base in _DATA.items():
        for short, (backbone, chosen) in _BACKBONES.items():
            for frames in (8,) if short == "in21k-b16" else (8, 16, 32):
                name = f"{data}-{short}-{frames}f"
                values = base.values | {"backbone": backbone, "frames": frames}
                reasons = base.chosen | chosen
                if f"{data}-{short}" in _PLACES:
                    reasons |= {"places of the adapters": _PLACES[f"{data}-{short}"]}
                if frames > 8:
                    reasons |= {"schedule and rate": f"none is released for {frames} frames; as 8"}
                    if base.values.get("stride"):
                        values["stride"] = 128 // frames
                        reasons |= {"stride": "over the window of 128 frames that 8 frames take"}
                accuracy, source = _PUBLISHED.get(name, ("", ""))
                made[name] = replace(
                    base, values=values, chosen=reasons, published=accuracy, source=source
                )
    return made


RECIPES: dict[str, Recipe] = {
    # Small data, 100 to 5,000 clips: half-width adapters that learn from the first step, mild
    # crops, an absolute learning rate; docs/results.md has the study.
    "default": Recipe(),
    **_published_recipes(),
}
ALIASES = {"k400": "k400-b16-8f", "ssv2": "ssv2-b16-8f", "epic": "epic-b16-8f"}
"""Short names."""


def find_recipe(name: str) -> Recipe:
    """Return the recipe of this name or short name.

    Raises:
        ArgumentError: there is none.
    """
    recipe = RECIPES.get(ALIASES.get(name, name))
    if recipe is None:
        hint = did_you_mean(name, [*ALIASES, *RECIPES])
        raise ArgumentError(
            f"unknown recipe {name!r}; have default, {', '.join(ALIASES)} and others{hint}; "
            "`st-adapter recipes` lists all"
        )
    return recipe


def resolve(recipe: str, file: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Make the configuration of a recipe, which a file overrides, and `overrides` both.

    Args:
        recipe: name of a recipe.
        file: JSON file with values of TrainConfig, such as a run's `config.json`.
        overrides: values of TrainConfig, such as flags.

    Raises:
        ArgumentError: there is no such recipe, the file cannot be read, or a value is invalid.
    """
    values = dict(find_recipe(recipe).values)
    if file is not None:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            values.update(record.get("config", record))  # a run's record holds more besides
        except FileNotFoundError as error:
            raise ArgumentError(
                f"{file} does not exist; --config takes a run's config.json"
            ) from error
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ArgumentError(f"{file}: not a readable JSON configuration: {error}") from error
    values.update(overrides)
    return TrainConfig.from_json(values, str(file or "configuration"))
