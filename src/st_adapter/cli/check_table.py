"""What `check` prints, and the report and the cleaned list that it writes."""

from collections.abc import Iterable
from pathlib import Path

import click

from st_adapter.common.files import write_json
from st_adapter.common.progress import say
from st_adapter.data.annotations import Annotations, write_table
from st_adapter.data.audit import FAULTS, REMARKS, Check, Finding
from st_adapter.data.formats.listing import SHOWN

REPORT_NAME, LIST_NAME = "check.json", "clean.csv"


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
    _print_classes({label: count for label, (count, _) in check.classes.items()})
    for title, kinds in (("wrong", FAULTS), ("worth knowing", REMARKS)):
        rows = [
            (text, found)
            for kind, text in kinds.items()
            if (found := [f for f in check.findings if f.kind == kind])
        ]
        if rows:
            _print_findings(title, rows)
    if not check.faults:
        click.echo("\nnothing is wrong")


def _print_classes(counts: dict[str, int]) -> None:
    least, most = (pick(counts, key=lambda label: counts[label]) for pick in (min, max))
    if counts[least] == counts[most]:
        click.echo(f"training videos a class: {counts[most]}")
        return
    click.echo(
        f"training videos a class: {counts[least]} ({least}) to {counts[most]} ({most})"
        + (", very uneven" if counts[most] > 10 * max(1, counts[least]) else "")
    )


def _print_findings(title: str, rows: Iterable[tuple[str, list[Finding]]]) -> None:
    click.echo(f"\n{title}:")
    for text, found in rows:
        click.echo(f"  {len(found)} {text}")
        for finding in found[:SHOWN]:
            click.echo(f"    {finding.path}{f': {finding.detail}' if finding.detail else ''}")
        if len(found) > SHOWN:
            click.echo(f"    ... and {len(found) - SHOWN} more, which --out FOLDER lists")


def write_check(folder: Path, check: Check, clean: Annotations) -> None:
    """Write the report as JSON, and the list without what is wrong.

    Raises:
        DataError: a name cannot stand in a list.
    """
    write_json(folder / REPORT_NAME, check.to_json())
    write_table(folder / LIST_NAME, clean)
    heads = "+".join(name for name, _ in clean.task.heads)
    how = f" with --columns label={heads}" if heads else ""
    what = f"a list to train on{how}" if clean.train else "which has no training video left"
    say(f"{folder / REPORT_NAME} and {folder / LIST_NAME}, {what}, are written")
