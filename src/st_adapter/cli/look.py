"""The subcommands check, inspect, recipes and backbones, which train nothing."""

import fnmatch
import json
from dataclasses import asdict, replace
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
    from st_adapter.data.annotations import Annotations

_SHAPE = ("method", "bottleneck", "positions", "adapter_layers", "head")
"""Settings of the model that `inspect` builds on --backbone. A RUN has its own."""


@verb("frames", "stride", "workers", *DATA_SETTINGS, defaults=DEFAULTS)
@click.argument("data", type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="Folder for check.json, with all findings, and clean.csv, the videos without problems.",
)
@click.option("--deep", is_flag=True, help="Decode every file to its end, to find those cut off.")
@click.option("--val", type=PATH, help="Validation data, in any form that DATA takes.")
def check(data: Path, out: Path | None, deep: bool, val: Path | None, **flags: Any) -> int:
    """Check the videos in DATA for problems.

    Problems are files that cannot be read, segments without frames, videos that are in both the
    training and the validation part or are listed with different labels, and classes without
    training videos. The exit code is 1 if there are any.

    Also lists what is worth knowing but does no harm, such as videos shorter than a clip, and what
    makes accuracy misleading: scenes that both parts share, and classes that differ in resolution,
    frame rate or length.
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
    misleading = _find_misleading(data, clean, config)
    if misleading:
        click.echo("\nlikely to mislead:")
    for line in misleading:
        click.echo(f"  {line}")
    if out is not None:
        write_json(out / "check.json", asdict(found) | {"misleading": misleading})
        write_table(out / "clean.csv", clean)
        heads = "+".join(name for name, _ in clean.task.heads)
        flags_needed = f" with --columns label={heads}" if heads else ""
        hint = (
            f"train on the second{flags_needed}" if clean.train else "no training videos are left"
        )
        say(f"wrote {out / 'check.json'} and {out / 'clean.csv'}; {hint}")
    return SOME_FAILED if found.faults else DONE


def _find_misleading(data: Path, videos: "Annotations", config: TrainConfig) -> list[str]:
    """Say what makes accuracy on the validation part misleading, which may be held out here."""
    from st_adapter.data.holdout import split_validation
    from st_adapter.data.video.index import index_of
    from st_adapter.diagnosis.examine import examine
    from st_adapter.diagnosis.warnings import video_warnings

    before = ""
    if videos.train and not videos.val:
        parts = split_validation(videos.train, config.val_fraction, config.seed)
        videos = replace(videos, train=parts[0], val=parts[1])
        before = f"with {config.val_fraction:.0%} held out at random, "
    if not videos.train or not videos.val:
        return []
    facts = examine(videos, index_of(data), workers=config.workers)
    return [before + warning.text for warning in video_warnings(facts)]


@verb(*_SHAPE, "frames", "size", defaults={name: DEFAULTS[name] for name in _SHAPE})
@click.argument("run", type=PATH, required=False)
@click.option("--backbone", help="Any timm model, instead of RUN.")
@click.option(
    "--classes",
    type=click.IntRange(1),
    default=400,
    show_default=True,
    help="Number of classes, with --backbone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(
    run: Path | None, backbone: str | None, classes: int, as_json: bool, **flags: Any
) -> None:
    """Count the parameters and operations of a model.

    Also shows where its adapters sit. The model is either a trained RUN or a new one, described by
    --backbone and the options below. With RUN, only --frames and --size can be changed; with
    --backbone, their defaults are 8 and 224.
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
    """List the published configurations.

    Shows the cost and the published accuracy of each.

    With NAME, shows the values that this recipe sets, and explains those that neither the paper nor
    its code gives. With NAME and --json, prints the values of all settings.
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
    with bar(
        "counting operations", sum(recipe.classes > 0 for recipe in RECIPES.values())
    ) as progress:
        for cost in recipe_costs():
            costs.append(cost)
            progress.advance()
    if as_json:
        click.echo(json.dumps([asdict(cost) for cost in costs], indent=2))
    else:
        print_recipes(costs)


@verb()
@click.argument("pattern", default="*")
@click.option(
    "--refused", is_flag=True, help="List the models that do not accept adapters, and why."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def backbones(pattern: str, refused: bool, as_json: bool) -> None:
    """List the timm models that accept adapters.

    Shows the size of each and the tags of its pretrained weights. PATTERN is part of a name, or a
    pattern with * and ?, such as "vit_*dinov2*". A second pattern after a dot selects tags, as in
    "resnet50.*in1k".
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
    """Find models by name, each with its tags. The part of the pattern after a dot selects tags."""
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
            f"no backbone with pretrained weights matches {pattern!r}; `st-adapter inspect "
            f"--backbone NAME` tries any timm model{did_you_mean(model, names)}"
        )
    return found
