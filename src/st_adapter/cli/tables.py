"""What the verbs print: tables, and the lines around them."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from st_adapter.comparison.results import MethodRow, at_edge
from st_adapter.data.audit import FAULTS, REMARKS, Check, Finding
from st_adapter.data.formats.listing import SHOWN
from st_adapter.evaluation.metrics import METRICS
from st_adapter.recipes import ALIASES, Recipe

if TYPE_CHECKING:  # what counts operations imports triton, which evaluate does without
    from st_adapter.catalogue.backbone_table import BackboneRow
    from st_adapter.catalogue.costs import RecipeCost

_UNBOUND = 250
"""Columns of output that goes to no terminal: nothing is cut or wrapped."""

_COMPARISON_WIDTH = 128
"""Columns that the table of a comparison needs on a terminal, too."""

_MEASURES = {
    "mean_average_precision": "mAP",
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean class accuracy",
}


def _print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, least_width: int = 0
) -> None:
    """Print rows without lines between them; a column marked > is one of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, least_width) if sys.stdout.isatty() else _UNBOUND
    console.print(table)


def print_evaluation(result: dict[str, Any]) -> None:
    """Print the accuracy of each head and of all of them, and what the order of frames adds."""
    temporal, spatial = result["views"]
    skipped = f", {result['num_skipped']} skipped" if result["num_skipped"] else ""
    rows = {f"{name} ": values for name, values in result["heads"].items()}
    rows["all of them " if rows else ""] = result
    lines = [
        name
        + "  ".join(
            f"{words} {values[key]:.2%}"
            for key, words in _MEASURES.items()
            if values.get(key) is not None
        )
        for name, values in rows.items()
    ]
    lines[-1] += f"  ({result['num_videos']} videos{skipped}, {temporal}x{spatial} views)"
    if result["temporal"]:
        orders = (f"{n.replace('_', ' ')} {a:.2%}" for n, a in result["temporal"].items())
        lines.append(f"frames {', '.join(orders)}")
    click.echo("\n".join(lines))


def print_comparison(rows: Sequence[MethodRow]) -> None:
    """Print one line per method, the best first."""
    metric = METRICS[rows[0].metric] if rows else METRICS["top1"]
    numbers = (metric, "spread", "lr", "trained", "stored", "step", "peak", "GMACs")
    columns = ("method", *(f">{name}" for name in (*numbers, "rev", "shuf", "frozen")))
    _print_table(columns, map(comparison_cells, rows), least_width=_COMPARISON_WIDTH)
    click.echo(
        f"{metric}: in %, mean over seeds; spread: lowest to highest. rev, shuf, frozen: {metric} "
        "with frames reversed, shuffled, frozen.\n"
        "lr: chosen by the same trials for every method; * is the edge of what was tried. "
        "step: ms, side by side. peak: GB of the training process."
    )


def comparison_cells(row: MethodRow) -> list[str]:
    """Format the values of a row of a comparison."""
    percent = "–" if row.score is None else f"{100 * row.score:.1f}"
    if row.diverged:
        percent += f" ({len(row.seeds) - len(row.diverged)} of {len(row.seeds)})"
    spread = "" if row.lowest is None else f"{100 * row.lowest:.1f}–{100 * (row.highest or 0):.1f}"
    return [
        row.method,
        percent,
        spread,
        f"{row.lr}{'*' if at_edge(row.lr, row.search) else ''}",
        f"{row.trained_parameters / 1e6:.3f} M ({row.share:.1%})",
        f"{row.stored_bytes / 1e6:.2f} MB",
        f"{1000 * row.step_seconds:.0f}",
        f"{row.memory_gb:.2f}",
        f"{row.gmacs:.3g}",
        *(
            f"{100 * row.temporal[order]:.1f}" if row.temporal else "–"
            for order in ("reversed", "shuffled", "frozen")
        ),
    ]


def print_check(check: Check) -> None:
    """Print sizes, and for each kind of finding how many there are and a few of them."""
    train, val = check.videos["train"], check.videos["val"]
    click.echo(
        f"{train} training and {val} validation videos of {len(check.classes)} classes in "
        f"{check.files} files"
    )
    for name, unit, spread in (
        ("length", " s", check.durations_seconds),
        ("frames", "", check.frames),
        ("short side", " px", check.short_sides),
    ):
        if spread:
            low, median, high = (f"{value:.4g}" for value in spread)
            click.echo(f"{name}: {low} to {high}{unit}, median {median}")
    counts = {label: count for label, (count, _) in check.classes.items()}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    said = f"training videos a class: {counts[least]}"
    if counts[least] < counts[most]:
        said += f" ({least}) to {counts[most]} ({most})"
        said += ", very uneven" if counts[most] > 10 * max(1, counts[least]) else ""
    click.echo(said)
    _print_findings("wrong", FAULTS, check.findings)
    _print_findings("worth knowing", REMARKS, check.findings)
    if not check.faults:
        click.echo("\nnothing is wrong")


def _print_findings(title: str, kinds: Mapping[str, str], findings: Sequence[Finding]) -> None:
    by_kind = {text: [f for f in findings if f.kind == kind] for kind, text in kinds.items()}
    if any(by_kind.values()):
        click.echo(f"\n{title}:")
    for text, found in by_kind.items():
        if found:
            click.echo(f"  {len(found)} {text}")
        for finding in found[:SHOWN]:
            click.echo(f"    {finding.path}{f': {finding.detail}' if finding.detail else ''}")
        if len(found) > SHOWN:
            click.echo(f"    ... and {len(found) - SHOWN} more, which --out FOLDER lists")


def print_recipes(costs: "Sequence[RecipeCost]") -> None:
    """Print published recipes with cost and accuracy."""
    _print_table(
        ("recipe", "adapters", ">trained", ">GMACs", "views", "*", "top-1, %", "source"),
        (
            (
                cost.name,
                cost.adapters,
                f"{cost.trained / 1e6:.3f} M",
                f"{cost.gmacs:.1f}",
                cost.config.views,
                "*" if cost.recipe.chosen else "",
                cost.recipe.published or "-",
                cost.recipe.source,
            )
            for cost in costs
        ),
    )
    short = ", ".join(f"{alias} is {name}" for alias, name in ALIASES.items())
    click.echo(
        f"\n{short}.\nTrained parameters include the head; GMACs are of one view of 224 px.\n"
        "-: no accuracy is known from a source at hand.\n"
        "*: some values are given by neither paper nor code: `st-adapter recipes NAME` says why."
    )


def print_recipe(recipe: Recipe, values: dict[str, Any]) -> None:
    """Print what sets a recipe apart, what it should reach, and what was chosen here."""
    lines = [f"{key} = {values[key]}" for key in recipe.values] or ["the defaults of every flag"]
    if recipe.published:
        lines += ["", f"published top-1, %: {recipe.published} ({recipe.source})"]
    if recipe.chosen:
        lines += ["", "chosen here, given by neither the paper nor its code:"]
        lines += [f"  {topic}: {reason}" for topic, reason in recipe.chosen.items()]
    click.echo("\n".join(lines))


def print_backbones(found: "Mapping[BackboneRow, Sequence[str]]", refused: bool) -> None:
    """Print image models with the tags of their weights, or why adapters do not fit."""
    if refused:
        rows = ((row.model, row.refused) for row in found)
        _print_table(("model", "why adapters do not fit"), rows)
        return
    _print_table(
        ("model", ">params", ">px", "any px", ">adapters", "places", "weights"),
        (
            (
                row.model,
                f"{row.parameters / 1e6:.1f} M",
                str(row.size),
                "yes" if row.any_size else "no",
                str(row.adapters),
                row.positions,
                " ".join(tags),
            )
            for row, tags in found.items()
        ),
    )


def print_bench(result: dict[str, Any]) -> None:
    """Print what was measured."""
    click.echo(
        f"{result['method']} on {result['backbone']}, {result['batch_size']} clips of "
        f"{result['frames']} frames, {result['size']} px, {result['precision']}, "
        f"{result['device']}, {result['threads']} threads\n"
    )
    _print_table(
        ("", ">ms", ">clips/s", ">peak, GB"),
        (
            (
                row["what"],
                f"{1000 * row['seconds']:.1f}",
                f"{row['clips_per_second']:.2f}",
                "" if row["peak_gb"] is None else f"{row['peak_gb']:.2f}",
            )
            for row in result["rows"]
        ),
    )
