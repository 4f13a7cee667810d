"""The packaged table of timm models: which of them adapters fit, and why not the others."""

import json
from collections import defaultdict
from dataclasses import dataclass
from importlib.resources import files

import timm

TABLE = "backbone_table.jsonl"
"""Written by `scripts/list_backbones.py`, which builds every model; that takes many minutes."""


@dataclass(frozen=True, kw_only=True)
class BackboneRow:
    """Describe one image model.

    Attributes:
        model: name in timm, without a tag.
        module: module of timm that defines it.
        parameters: number of parameters, without the image classifier.
        size: height and width in pixels that it was trained with.
        any_size: whether it accepts frames of another size.
        positions: places of adapters in a block.
        adapters: number of adapters if all places have one.
        refused: why adapters do not fit; empty if they do.
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
    """Return the tags of all pretrained weights in timm, by the name of their model."""
    tags = defaultdict(list)
    for name in timm.list_pretrained():
        model, _, tag = name.partition(".")
        tags[model].append(tag)
    return dict(tags)


def read_table() -> list[BackboneRow]:
    """Read the packaged table.

    It lists every model with pretrained weights in the version of timm that it was made with.
    """
    lines = files("st_adapter.catalogue").joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    return [BackboneRow(**json.loads(line)) for line in lines]
