"""The table of timm's models that adapters fit."""

import json
from collections import defaultdict
from dataclasses import dataclass
from importlib.resources import files

import timm
import torch

from st_adapter.backbones.build import create_backbone
from st_adapter.errors import ArgumentError
from st_adapter.model.build import attach
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.device import check_input_size

TABLE = "backbone_table.jsonl"


@dataclass(frozen=True, kw_only=True)
class Row:
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


def read_table() -> list[Row]:
    """The packaged table: every model that has pretrained weights in the timm it was made with."""
    lines = files("st_adapter.catalogue").joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    return [Row(**json.loads(line)) for line in lines]


def examine(model: str) -> Row:
    """Attach adapters to a model on the meta device, where nothing is computed, and run clips."""
    size = timm.get_pretrained_cfg(model).input_size[-1]
    parameters, adapters, positions, any_size, refused = 0, 0, "", False, ""
    try:
        with torch.device("meta"):
            backbone = create_backbone(model)
            parameters = sum(p.numel() for p in backbone.parameters())
            classifier = attach(backbone, labels=["a", "b"])
            check_input_size(classifier, size)
            adapters = len(classifier.adapters)
            sites = classifier.family.sites()
            positions = ",".join(dict.fromkeys(site.position for site in sites))
            any_size = _runs(classifier, 2 * size)
    except ArgumentError as error:
        refused = str(error)
    return Row(
        model=model,
        module=timm.models.model_entrypoint(model).__module__.rpartition(".")[2],
        parameters=parameters,
        size=size,
        any_size=any_size,
        positions=positions,
        adapters=adapters,
        refused=refused,
    )


def _runs(classifier: VideoClassifier, size: int) -> bool:
    try:
        check_input_size(classifier, size)
    except ArgumentError:
        return False
    return True
