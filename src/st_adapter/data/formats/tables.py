"""Tables with one row per video, as .csv or .parquet."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from st_adapter.common.paths import is_video_name
from st_adapter.config import COLUMNS
from st_adapter.data.formats.listing import (
    SPLITS,
    Listing,
    Root,
    Row,
    check_segment,
    read_csv,
    seconds,
)
from st_adapter.errors import DataError, did_you_mean
from st_adapter.wording import setting

SEPARATOR = ";"
"""Separator of the labels in the column `labels`."""

_SEGMENT = ("path", "start_seconds", "end_seconds")
"""Columns that say what to read of which video."""


def read(path: Path, root: Root, columns: Mapping[str, str]) -> Listing:
    """Read a table.

    Args:
        path: The table.
        root: The folder of the videos.
        columns: Maps our names of columns to the table's own. `{"label": "verb+noun"}` makes two
            heads.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    separator = "," if is_parquet else separator_of(path, columns) or ","
    header, rows = _read_parquet(path) if is_parquet else read_csv(path, separator)
    header = _in_small_letters(header, columns)
    names, heads = _settle(path, header, columns)
    place = {name: [header.index(column) for column in theirs] for name, theirs in names.items()}
    listing = Listing(heads=heads, multi_label="labels" in place)

    def cell(row: list[str], name: str) -> str:
        """Return the text in one of our columns, empty if the table does not have it."""
        return row[place[name][0]].strip() if name in place else ""

    for where, row in rows:
        video, labels = cell(row, "path"), [row[i].strip() for i in place.get("label", ())]
        if not video or "" in labels:
            raise DataError(f"{where}: path or label is empty")
        if any(map(is_video_name, labels)):
            raise DataError(
                f"{where}: the label {labels[-1]!r} is the name of a video; put quotation marks "
                "around a path that contains commas"
            )
        if listing.multi_label:
            texts = cell(row, "labels").split(SEPARATOR)
            labels = [text.strip() for text in texts if text.strip()]
        start, end = (seconds(cell(row, name), where) for name in ("start_seconds", "end_seconds"))
        check_segment(start, end, where)
        split = cell(row, "split").lower() or "train"
        if split not in SPLITS:
            raise DataError(f"{where}: split must be train, val or test, not {split!r}")
        found = root.join(video, where)
        listing.add(
            found,
            *labels,
            start_seconds=start,
            end_seconds=end,
            split=SPLITS[split],
            group=cell(row, "group"),
        )
    return listing


def read_segments(path: Path, root: Root) -> Listing | None:
    """Read the columns `path`, `start_seconds` and `end_seconds` of a table; ignore all others.

    Args:
        path: The table, a .parquet file or text separated by tabs, semicolons or commas.
        root: The folder of the videos.

    Returns:
        The videos without labels, or None if the table has no column `path`.

    Raises:
        DataError: The table cannot be read, or a row has no path or an invalid segment.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    tables = [_read_parquet(path)] if is_parquet else (read_csv(path, s) for s in "\t;,")
    in_small = ((_in_small_letters(header, {}), rows) for header, rows in tables)
    found = next((table for table in in_small if "path" in table[0]), None)
    if found is None:
        return None
    header, rows = found
    place = {name: header.index(name) for name in _SEGMENT if name in header}
    listing = Listing()
    for where, row in rows:
        cells = {name: row[index].strip() for name, index in place.items()}
        if not cells["path"]:
            raise DataError(f"{where}: the path is empty")
        start, end = (seconds(cells.get(name, ""), where) for name in _SEGMENT[1:])
        check_segment(start, end, where)
        listing.add(root.join(cells["path"], where), start_seconds=start, end_seconds=end)
    return listing


def _in_small_letters(header: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    """Convert names of columns to lower case, except those that the user has given."""
    named = {name for theirs in columns.values() for name in theirs.split("+")}
    return [name if name in named else name.lower() for name in header]


def separator_of(path: Path, columns: Mapping[str, str]) -> str | None:
    """Return the separator that splits the header into known columns, or None."""
    for separator in ("\t", ";", ","):
        header = _in_small_letters(read_csv(path, separator)[0], columns)
        label = columns.get("label", "label").partition("+")[0]
        wanted = columns.get("path", "path"), {label, columns.get("labels", "labels")}
        if wanted[0] in header and wanted[1] & {*header}:
            return separator
    return None


def _settle(
    path: Path, header: Sequence[str], columns: Mapping[str, str]
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Map our names of columns to the table's. Also return the heads, if there are several."""
    named = {ours: theirs.split("+") for ours, theirs in columns.items()}
    for theirs in (column for group in named.values() for column in group):
        if theirs not in header:
            raise DataError(
                f"{path} has no column {theirs!r}; its header is {','.join(header)!r}"
                + did_you_mean(theirs, list(header))
            )
    names = {name: [name] for name in COLUMNS if name in header} | named
    missing = [name for name in ("path", "label") if name not in names]
    if missing and not (missing == ["label"] and "labels" in names):
        raise DataError(
            f"{path} has no column {' or '.join(missing)}; its header is {','.join(header)!r}, "
            "but must contain path,label separated by commas, and may contain "
            "start_seconds,end_seconds,split,group; for other names use "
            f"{setting('columns', 'path=NAME,label=NAME')}, and for several labels label=NAME+NAME"
        )
    for column in header if not columns else ():
        hint = did_you_mean(column, list(COLUMNS))
        if column not in COLUMNS and hint:
            raise DataError(f"{path} has an unknown column {column!r}{hint}")
    if "label" in names:
        names.pop("labels", None)
    heads = tuple(names.get("label", ()))
    return names, heads if len(heads) > 1 else ()


def _text(value: Any) -> str:
    """Convert a value to the text that a .csv has in its place. Lists are joined with SEPARATOR."""
    if isinstance(value, list):
        return SEPARATOR.join(_text(item) for item in value)
    return "" if value is None else str(value)


def _read_parquet(path: Path) -> tuple[list[str], Iterator[Row]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading .parquet needs pyarrow; pip install 'st-adapter[parquet]', "
            "or give a .csv"
        ) from error
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    columns = [table.column(i).to_pylist() for i in range(table.num_columns)]
    rows = enumerate(zip(*columns, strict=True), start=1)
    texts = ((f"{path} line {line}", [_text(value) for value in row]) for line, row in rows)
    return list(table.column_names), texts
