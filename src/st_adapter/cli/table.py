"""Print a table on the terminal."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

_UNBOUND = 250
"""Columns of output that does not go to a terminal: enough that nothing is cut or wrapped."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without rules. A leading > in a column's title aligns the column right.

    On a terminal, long texts are wrapped to its width, except those in the first column.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.lstrip(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=not table.columns,
        )
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not sys.stdout.isatty():
        console.width = _UNBOUND
    console.print(table)
