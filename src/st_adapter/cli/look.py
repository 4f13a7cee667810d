"""The verbs that train nothing and need no run: check, inspect, recipes, backbones."""

import fnmatch
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from st_adapter.cli import DONE, SOME_FAILED
from st_adapter.cli.options import DATA_SETTINGS, DEFAULTS, PATH, given_settings, verb
from st_adapter.common.files import check_writable, write_json
from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, did_you_mean
from st_adapter.recipes import RECIPES, find_recipe, resolve

if TYPE_CHECKING:
    from st_adapter.catalogue.backbone_table import BackboneRow

_SHAPE = ("method", "bottleneck", "positions", "adapter_layers")
"""Settings that say what `inspect` attaches to a backbone; a RUN records them."""


@verb("frames", "stride", "workers", *DATA_SETTINGS, defaults=DEFAULTS)
@click.argument("data", type=PATH)
@click.option("--out", type=PATH, help="Folder for check.json and clean.csv, a list to train on.")
@click.option("--deep", is_flag=True, help="Decode every file to its end.")
@click.option("--val", type=PATH, help="Validation data, in any form DATA takes.")
def check(data: Path, out: Path | None, deep: bool, val: Path | None, **flags: Any) -> int:
    """Find what is wrong with the videos in DATA before time is spent on training.

    Files that cannot be read or end early, videos in both parts or under two labels, classes that
    are in one part alone; and what is worth knowing. Exit code 1 when something is wrong.
    """
    config = TrainConfig(**given_settings(flags))
    if out is not None:
        check_writable(out)
    from st_adapter.cli.tables import print_check
    from st_adapter.common.remarks import say
    from st_adapter.data.annotations import both_parts, write_table
    from st_adapter.data.audit import check_data
    from st_adapter.data.video.index import index_of

    videos = both_parts(data, val, config.data)
    found, clean = check_data(
        videos, config.clip, index_of(data), deep=deep, workers=config.workers
    )
    print_check(found)
    if out is not None:
        write_json(out / "check.json", asdict(found))
        write_table(out / "clean.csv", clean)
        heads = "+".join(name for name, _ in clean.task.heads)
        how = f" with --columns label={heads}" if heads else ""
        what = f"a list to train on{how}" if clean.train else "which has no training video left"
        say(f"{out / 'check.json'} and {out / 'clean.csv'}, {what}, are written")
    return SOME_FAILED if found.faults else DONE


@verb(*_SHAPE, "frames", "size", defaults={name: DEFAULTS[name] for name in _SHAPE})
@click.argument("run", type=PATH, required=False)
@click.option("--backbone", help="Any timm name, instead of RUN.")
@click.option("--classes", type=click.IntRange(1), default=400, help="Classes, without RUN.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(
    run: Path | None, backbone: str | None, classes: int, as_json: bool, **flags: Any
) -> None:
    """Count parameters and operations, and show where the adapters sit.

    Everything but --frames and --size is taken from RUN if there is one.
    """
    if (run is None) == (backbone is None):
        raise ArgumentError("inspect takes either a RUN or --backbone NAME")
    from st_adapter.catalogue.costs import inspect_backbone, inspect_run

    if run is not None:
        result = inspect_run(run, flags["frames"], flags["size"])
    else:
        given = {"frames": None, "size": None, "backbone": backbone} | given_settings(flags)
        result = inspect_backbone(classes=classes, **given)
    click.echo(json.dumps(asdict(result), indent=2) if as_json else result.to_text())


@verb()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recipes(name: str | None, as_json: bool) -> None:
    """List the published configurations: cost, published accuracy, what was chosen here.

    With NAME, show every value of one recipe.
    """
    if name is not None:
        values = resolve(name, None, {}).to_json()
        if as_json:
            click.echo(json.dumps(values, indent=2))
            return
        from st_adapter.cli.tables import print_recipe

        print_recipe(find_recipe(name), values)
        return
    from st_adapter.catalogue.costs import recipe_costs
    from st_adapter.cli.tables import print_recipes
    from st_adapter.common.progress import bar

    costs = []
    with bar("counting", sum(recipe.classes > 0 for recipe in RECIPES.values())) as progress:
        for cost in recipe_costs():
            costs.append(cost)
            progress.advance()
    if as_json:
        click.echo(json.dumps([asdict(cost) for cost in costs], indent=2))
    else:
        print_recipes(costs)


@verb()
@click.argument("pattern", default="*")
@click.option("--refused", is_flag=True, help="List the models that adapters do not fit, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def backbones(pattern: str, refused: bool, as_json: bool) -> None:
    """List the image models of timm that adapters fit, with size and pretrained tags.

    PATTERN is part of a name, or has * and ? in it, such as "vit_*dinov2*".
    """
    from st_adapter.cli.tables import print_backbones

    found = {r: tags for r, tags in _find_backbones(pattern).items() if bool(r.refused) == refused}
    if not found:
        fit = "refused" if refused else "supported"
        raise ArgumentError(f"no {fit} backbone matches {pattern!r}")
    if as_json:
        for row, tags in found.items():
            click.echo(json.dumps(asdict(row) | {"tags": tags}))
    else:
        print_backbones(found, refused)


def _find_backbones(pattern: str) -> "dict[BackboneRow, list[str]]":
    """Find models by name, each with those of its tags that match what follows a dot."""
    from st_adapter.catalogue.backbone_table import pretrained_tags, read_table

    model, _, tag = pattern.partition(".")
    wanted = model if set("*?[") & set(model) else f"*{model}*"
    tags_of, rows, found = pretrained_tags(), read_table(), {}
    for row in rows:
        tags = [t for t in tags_of.get(row.model, []) if fnmatch.fnmatchcase(t, tag or "*")]
        if tags and fnmatch.fnmatchcase(row.model, wanted):
            found[row] = tags
    if not found:
        names = [row.model for row in rows]
        if tag and model in names:
            raise ArgumentError(f"{model} has no tag {tag!r}; tags: {', '.join(tags_of[model])}")
        raise ArgumentError(
            f"no backbone with pretrained weights matches {pattern!r}{did_you_mean(model, names)}; "
            "`st-adapter inspect --backbone NAME` tries any model of timm"
        )
    return found
