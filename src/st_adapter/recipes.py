"""Named configurations of training, and how a file and flags override them.

The published recipes reproduce the configurations of the ST-Adapter paper. The authors released
training scripts for two of them; every value that a script or the paper does not give is listed in
`Recipe.chosen` with the reason for the choice.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, did_you_mean
from st_adapter.wording import setting


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named configuration, and the accuracy that it was published with.

    Attributes:
        values: settings that differ from the defaults of TrainConfig, by name.
        classes: number of classes of the data set it was published for; 0 if it is for any data.
        published: top-1 accuracy in percent that the authors report, as text; empty if unknown.
        source: where that accuracy is reported.
        chosen: settings that neither the paper nor its code gives, each with the reason for the
            value chosen here.
    """

    values: dict[str, Any] = field(default_factory=dict)
    classes: int = 0
    published: str = ""
    source: str = ""
    chosen: dict[str, str] = field(default_factory=dict)


# The settings that the two released training scripts share.
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
    # scripts/train_ssv2_clip_vit_b16_adapter24x384.sh of the same commit.
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
        "everything but backbone, frames and bottleneck": "no script is released; as for ssv2, "
        "whose videos also show hands and objects from close by",
        "verbs and nouns together": "the paper does not say whether one model predicts both; here "
        "two heads share the adapters",
    },
)
_BACKBONES = {
    "b16": ("vit_base_patch16_clip_quickgelu_224.openai", {}),
    "l14": (
        "vit_large_patch14_clip_quickgelu_224.openai",
        {"schedule, learning rate and augmentation": "not released for ViT-L/14; as for ViT-B/16"},
    ),
    "in21k-b16": (
        "vit_base_patch16_224.orig_in21k",
        {
            "weights": "the paper only says ImageNet-21k; these are the first ones published for "
            "ViT-B/16, by Dosovitskiy et al. 2021",
            "schedule, learning rate and augmentation": "not released; as for CLIP weights",
        },
    ),
}
# Number and width of the adapters, and where in each block they are placed.
_PLACES = {
    "k400-in21k-b16": "12x384 before the MLP, as for CLIP weights",
    "ssv2-in21k-b16": "24x384 before attention and MLP, as for CLIP weights",
    "epic-in21k-b16": "24x384 before attention and MLP, as for CLIP weights",
    "k400-l14": "24x384 before the MLP; this takes 2747 GMACs for 32 frames, which times 3 views "
    "is the paper's 8248",
    "ssv2-l14": "48x384 before attention and MLP, as for ViT-B/16",
    "epic-l14": "48x384 before attention and MLP, as for ViT-B/16",
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
                    reasons |= {"placement of the adapters": _PLACES[f"{data}-{short}"]}
                if frames > 8:
                    reasons |= {
                        "schedule and learning rate": f"not released for {frames} frames; as for 8"
                    }
                    if base.values.get("stride"):
                        values["stride"] = 128 // frames
                        reasons |= {"stride": "covers the same window of 128 frames as 8 frames do"}
                accuracy, source = _PUBLISHED.get(name, ("", ""))
                made[name] = replace(
                    base, values=values, chosen=reasons, published=accuracy, source=source
                )
    return made


RECIPES: dict[str, Recipe] = {
    # For small data sets of 100 to 5,000 clips: adapters of half the width that learn from the
    # first step on, mild crops, and a learning rate that does not depend on the batch size.
    # The page Results of the docs has the measurements.
    "default": Recipe(),
    **_published_recipes(),
}
ALIASES = {"k400": "k400-b16-8f", "ssv2": "ssv2-b16-8f", "epic": "epic-b16-8f"}
"""Short names of recipes, each with the full name."""


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name or short name.

    Raises:
        ArgumentError: no recipe has this name. The message lists similar names.
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
    """Make a configuration from a recipe, a file and flags, where later ones take precedence.

    Args:
        recipe: name or short name of a recipe.
        file: JSON file with settings of TrainConfig, such as a run's `config.json`; None for none.
        overrides: settings of TrainConfig by name, such as those given by flags.

    Raises:
        ArgumentError: the recipe is unknown, the file cannot be read, or a value is invalid.
    """
    values = dict(find_recipe(recipe).values)
    if file is not None:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            _override(values, record.get("config", record))  # a run's config.json nests them
        except FileNotFoundError as error:
            raise ArgumentError(
                f"{file} does not exist; {setting('config')} takes a run's config.json"
            ) from error
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ArgumentError(f"{file}: not a readable JSON configuration: {error}") from error
    _override(values, overrides)
    return TrainConfig.from_json(values, str(file or "configuration"))


def _override(values: dict[str, Any], given: dict[str, Any]) -> None:
    """Put settings in the place of others. A rate per 256 clips replaces an absolute one, too."""
    if given.get("lr_per_256") is not None and "lr" not in given:
        values["lr"] = None  # it would take precedence
    values.update(given)
