"""Named configurations, and how a file and flags lie over them."""

import json
from pathlib import Path
from typing import Any

from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, did_you_mean

RECIPES: dict[str, dict[str, Any]] = {
    # Small data, 100 to 5,000 clips: half-width adapters, mild crops, an absolute learning rate.
    "default": {},
    # scripts/train_k400_clip_vit_b16_adapter12x384.sh of linziyi96/st-adapter at b914b38.
    "k400": {
        "bottleneck": 384,
        "positions": "mlp",
        "stride": 16,
        "crop": "jitter",
        "crop_range": (1.0, 1.15),
        "views": "3x1",
        "epochs": 12,
        "batch_size": 64,
        "lr": None,
        "lr_per_256": 1e-3,
        "warmup_epochs": 2.0,
        "clip_gradient": 0.0,
    },
    # scripts/train_ssv2_clip_vit_b16_adapter24x384.sh of the same.
    "ssv2": {
        "bottleneck": 384,
        "positions": "attention,mlp",
        "crop": "area",
        "crop_range": (0.08, 1.0),
        "flip": False,
        "randaugment": True,
        "views": "1x3",
        "epochs": 50,
        "batch_size": 64,
        "lr": None,
        "lr_per_256": 1e-3,
        "warmup_epochs": 2.0,
        "clip_gradient": 0.0,
    },
}


def resolve(recipe: str, file: Path | None, overrides: dict[str, Any]) -> TrainConfig:
    """Lay the file's values over the recipe's, then `overrides` over both."""
    if recipe not in RECIPES:
        hint = did_you_mean(recipe, list(RECIPES))
        raise ArgumentError(f"unknown recipe {recipe!r}; have {', '.join(RECIPES)}{hint}")
    values = dict(RECIPES[recipe])
    if file is not None:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            values.update(record.get("config", record))  # a run's record holds more besides
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ArgumentError(f"{file}: not a readable JSON configuration: {error}") from None
    values.update(overrides)
    return TrainConfig.from_json(values, str(file or "configuration"))
