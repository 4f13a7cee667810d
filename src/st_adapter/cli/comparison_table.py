"""The table of a comparison on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from st_adapter.comparison.results import Row, at_edge
from st_adapter.evaluation.metrics import METRICS

_WIDTH = 128
"""Columns that the table needs, wherever it is printed."""


def print_table(rows: Sequence[Row]) -> None:
    """Print one line a method, the best first, to stdout."""
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    metric = METRICS[rows[0].metric] if rows else METRICS["top1"]
    table = Table(
        title=f"{metric} in %, mean over seeds (lowest to highest); the last three with frames "
        "reversed, shuffled, frozen"
    )
    for name in ("method", metric, "spread", "lr", "trained", "stored", "step", "peak", "GMACs"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name in ("rev", "shuf", "frozen"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    console.print(
        "lr: chosen by the same trials for every method; * is the edge of what was tried. "
        "step: ms, side by side. peak: GB of the training process.",
        soft_wrap=True,
    )


def cells(row: Row) -> list[str]:
    """A row's values as people read them."""
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
