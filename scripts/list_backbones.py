"""Try adapters on every model of timm that has pretrained weights; write the table and its page.

python scripts/list_backbones.py    (about ten minutes on one processor core; no weights needed)
"""

import dataclasses
import json
import platform
from collections import defaultdict
from datetime import date
from pathlib import Path

import timm
import torch

from st_adapter.backbones.build import create_backbone
from st_adapter.catalogue.backbone_table import TABLE, BackboneRow
from st_adapter.common.progress import bar
from st_adapter.errors import ArgumentError
from st_adapter.model.build import attach
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.device import check_input_size

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write the table and `docs/reference/backbones.md`."""
    torch.set_num_threads(1)
    models = sorted({name.partition(".")[0] for name in timm.list_models(pretrained=True)})
    rows = []
    with bar("trying", len(models)) as progress:
        for model in models:
            rows.append(examine(model))
            progress.advance()
    lines = [json.dumps(dataclasses.asdict(row)) + "\n" for row in rows]
    (ROOT / "src" / "st_adapter" / "catalogue" / TABLE).write_text("".join(lines), encoding="utf-8")
    page = page_of(rows)
    (ROOT / "docs" / "reference" / "backbones.md").write_text(page, encoding="utf-8")
    print(page.splitlines()[2])


def examine(model: str) -> BackboneRow:
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
    return BackboneRow(
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


def page_of(rows: list[BackboneRow]) -> str:
    """docs/reference/backbones.md."""
    fit = [row for row in rows if not row.refused]
    families = defaultdict(list)
    for row in rows:
        families[row.module].append(row)
    lines = [
        "# Image models that adapters fit",
        "",
        f"{len(fit)} of {len(rows)} architectures with pretrained weights in timm "
        f"{timm.__version__} take adapters and run a clip; the other {len(rows) - len(fit)} are "
        "refused, each with a reason.",
        "",
        f"`python scripts/list_backbones.py`, torch {torch.__version__.partition('+')[0]}, "
        f"Python {platform.python_version()}, {date.today()}: each model is built on the meta "
        "device, adapters go to every place there is, one clip of two frames runs at the size "
        "the model was trained at, then at twice that size. `st-adapter backbones PATTERN` lists "
        "single models with their pretrained tags.",
        "",
        "*Places* are those of `--positions`; *any size* counts the models that take frames of "
        "another size than their own: a ViT any multiple of its patch. All take any number of "
        "frames.",
        "",
        "| timm module | models | fit | places | any size | such as |",
        "|---|---|---|---|---|---|",
        *(family_line(module, families[module]) for module in sorted(families)),
        "",
        "## Refused",
        "",
        "| model | reason |",
        "|---|---|",
        *(f"| {row.model} | {row.refused} |" for row in rows if row.refused),
    ]
    return "\n".join(lines) + "\n"


def family_line(module: str, rows: list[BackboneRow]) -> str:
    """One family as a row of the page."""
    fit = [row for row in rows if not row.refused]
    places = " or ".join(sorted({row.positions for row in fit}))
    sizes = sum(row.any_size for row in fit)
    smallest = min(rows, key=lambda row: row.parameters).model
    return f"| {module} | {len(rows)} | {len(fit)} | {places} | {sizes} | `{smallest}` |"


if __name__ == "__main__":
    main()
