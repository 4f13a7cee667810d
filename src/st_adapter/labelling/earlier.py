"""Recognise a table that was finished earlier, so that it is not written again."""

import csv
from itertools import zip_longest
from pathlib import Path

from st_adapter.errors import ArgumentError
from st_adapter.labelling.formats import column_names, read_table, stored_text
from st_adapter.labelling.records import TIMES, Columns, Record
from st_adapter.labelling.rows import Rows
from st_adapter.wording import setting


def check_earlier(file: Path, columns: Columns, rows: Rows) -> int:
    """Check that a table has exactly the given columns, and a row for each video in order.

    Args:
        file: The table, which exists.
        columns: Columns that it should have.
        rows: Videos that it should have.

    Returns:
        The number of rows with an error.

    Raises:
        ArgumentError: The file has something else.
    """
    try:
        failed = _count_failed(file, columns, rows)
    except (OSError, ValueError, KeyError, csv.Error):  # pyarrow's errors are ValueErrors, too
        failed = None
    if failed is None:
        raise ArgumentError(
            f"{file} exists, but is not the table of these videos and runs; remove it, or choose "
            f"another {setting('out')}"
        )
    return failed


def _count_failed(file: Path, columns: Columns, rows: Rows) -> int | None:
    """Count the rows with an error; return None if the table has other columns or rows."""
    if column_names(file) not in (None, [*columns]):
        return None
    failed = 0
    for number, record in zip_longest(range(len(rows)), read_table(file)):
        if number is None or record is None or not _is_row(file, record, rows, number):
            return None
        failed += bool(record["error"])
    return failed


def _is_row(file: Path, record: Record, rows: Rows, number: int) -> bool:
    """Return whether a row is about a video."""
    if record["path"] != stored_text(file, rows.videos.name(number)):
        return False
    if not rows.has_segments:
        return True
    video = rows.videos[number]
    times = [None if record[name] in (None, "") else float(record[name]) for name in TIMES]
    return times == [video.start_seconds, video.end_seconds]
