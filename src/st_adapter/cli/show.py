"""What the verbs `recipes`, `backbones` and `bench` print."""

import fnmatch
import json
import sys
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from st_adapter.catalogue.backbone_table import Row, pretrained_tags, read_table
from st_adapter.catalogue.recipe_costs import recipe_costs
from st_adapter.common.progress import bar
from st_adapter.errors import ArgumentError, did_you_mean
from st_adapter.recipes import ALIASES, RECIPES, Recipe, find_recipe

_UNBOUND = 250
"""Columns where nothing is cut or wrapped: output that goes to no terminal."""


def print_recipes(as_json: bool) -> None:
    """List recipes with cost and accuracy."""
    published = [name for name, recipe in RECIPES.items() if recipe.classes]
    costs = []
    with bar("counting", len(published)) as progress:
        for cost in recipe_costs():
            costs.append(cost)
            progress.advance()
    if as_json:
        click.echo(json.dumps([cost.to_json() for cost in costs], indent=2))
        return
    columns = ("recipe", "adapters", ">trained", ">GMACs", "views", "*", "top-1, %", "source")
    table = _table(*columns)
    for cost in costs:
        recipe = cost.recipe
        trained, gmacs = f"{cost.trained / 1e6:.3f} M", f"{cost.gmacs:.1f}"
        mark = "*" if recipe.chosen else ""
        counts = (cost.adapters, trained, gmacs, cost.config.views, mark)
        table.add_row(cost.name, *counts, recipe.published or "-", recipe.source)
    _print(table)
    short = ", ".join(f"{alias} is {name}" for alias, name in ALIASES.items())
    click.echo(
        f"\n{short}.\nTrained parameters include the head; GMACs are of one view of 224 px.\n"
        "- where no figure is known from a source at hand.\n"
        "* has values that neither paper nor code gives: `st-adapter recipes NAME` says why."
    )


def recipe_text(name: str, values: dict[str, Any]) -> str:
    """One recipe in full: what sets it apart, what it should reach, what was chosen here."""
    recipe: Recipe = find_recipe(name)
    lines = [f"{key} = {values[key]}" for key in recipe.values] or ["the defaults of every flag"]
    if recipe.published:
        lines += ["", f"published top-1, %: {recipe.published} ({recipe.source})"]
    if recipe.chosen:
        lines += ["", "chosen here, given by neither the paper nor its code:"]
        lines += [f"  {topic}: {reason}" for topic, reason in recipe.chosen.items()]
    return "\n".join(lines)


def print_backbones(pattern: str, refused: bool, as_json: bool) -> None:
    """List the models whose name has or matches the pattern.

    Raises:
        ArgumentError: there is none.
    """
    rows = {row: tags for row, tags in _matching(pattern).items() if bool(row.refused) == refused}
    if not rows:
        fit = "refused" if refused else "supported"
        raise ArgumentError(f"no {fit} backbone matches {pattern!r}")
    if as_json:
        for row, tags in rows.items():
            click.echo(json.dumps(asdict(row) | {"tags": tags}))
        return
    if refused:
        table = _table("model", "why adapters do not fit")
        for row in rows:
            table.add_row(row.model, row.refused)
    else:
        table = _table("model", ">params", ">px", "any px", ">adapters", "places", "weights")
        for row, tags in rows.items():
            numbers = (f"{row.parameters / 1e6:.1f} M", str(row.size))
            sizes = "yes" if row.any_size else "no"
            places = (str(row.adapters), row.positions)
            table.add_row(row.model, *numbers, sizes, *places, " ".join(tags))
    _print(table)


def _matching(pattern: str) -> dict[Row, list[str]]:
    """The models by name, each with those of its tags that match what follows a dot."""
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


def _table(*columns: str) -> Table:
    """A table without lines; a column marked > is one of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return table


def _print(table: Table) -> None:
    width = None if sys.stdout.isatty() else _UNBOUND
    Console(highlight=False, markup=False, width=width).print(table)


def print_bench(result: dict[str, Any]) -> None:
    """Print what was measured."""
    click.echo(
        f"{result['method']} on {result['backbone']}, {result['batch_size']} clips of "
        f"{result['frames']} frames, {result['size']} px, {result['precision']}, "
        f"{result['device']}, {result['threads']} threads"
    )
    table = _table("", ">ms", ">clips/s", ">peak, GB")
    for row in result["rows"]:
        peak = "" if row["peak_gb"] is None else f"{row['peak_gb']:.2f}"
        milliseconds, rate = 1000 * row["seconds"], row["clips_per_second"]
        table.add_row(row["what"], f"{milliseconds:.1f}", f"{rate:.2f}", peak)
    _print(table)
