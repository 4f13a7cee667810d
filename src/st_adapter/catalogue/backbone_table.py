"""The table of timm's models that adapters fit."""

import json
from collections import defaultdict
from dataclasses import dataclass
from importlib.resources import files

import timm

TABLE = "backbone_table.jsonl"


@dataclass(frozen=True, kw_only=True)
class BackboneRow:
    """One image model.

    Attributes:
        parameters: without the image classifier.
        size: height and width it was trained at, pixels.
        any_size: whether it takes frames of another size.
        positions: places of adapters in a block.
        adapters: how many there are with adapters everywhere.
        refused: why adapters do not fit; empty where they do.
    """

    model: str
    module: str
    parameters: int
    size: int
    any_size: bool
    positions: str
    adapters: int
    refused: str


def pretrained_tags() -> dict[str, list[str]]:
    """The tags of timm's pretrained weights, by model."""
    tags = defaultdict(list)
    for name in timm.list_pretrained():
        model, _, tag = name.partition(".")
        tags[model].append(tag)
    return dict(tags)


def read_table() -> list[BackboneRow]:
    """The packaged table: every model that has pretrained weights in the timm it was made with."""
    lines = files("st_adapter.catalogue").joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    return [BackboneRow(**json.loads(line)) for line in lines]
