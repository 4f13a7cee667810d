"""The formats of a table of labels: JSON lines, CSV and Parquet."""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from st_adapter.errors import ArgumentError
from st_adapter.labelling.records import TIMES, Columns, Record
from st_adapter.wording import setting

SUFFIXES = (".jsonl", ".csv", ".parquet")

_GROUP_ROWS = 8192
"""Rows in a row group of a Parquet file, which are in memory together."""


def check_format(file: Path) -> None:
    """Check that a table can be written to a file, as far as its name tells.

    Raises:
        ArgumentError: The suffix is unknown, or pyarrow is missing.
    """
    if file.suffix not in SUFFIXES:
        raise ArgumentError(
            f"{setting('out')} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, "
            f"not {file.name!r}"
        )
    if file.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ArgumentError(
                f"{file}: writing .parquet needs pyarrow; pip install 'st-adapter[parquet]', "
                "or choose .jsonl or .csv"
            ) from error


def to_line(record: Record) -> str:
    """Convert a row to a line of JSON, which all formats are made of."""
    return json.dumps(record, allow_nan=False) + "\n"


def write_table(file: Path, suffix: str, columns: Columns, lines: Iterable[str]) -> None:
    """Write a table row by row, so that memory does not grow with it.

    Args:
        file: The file to write.
        suffix: One of SUFFIXES. `file` can have a temporary name with another one.
        columns: The columns.
        lines: The rows, as `to_line` returns them.
    """
    if suffix == ".jsonl":
        with file.open("w", encoding="utf-8") as text:
            text.writelines(lines)
    elif suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_cell(v) for v in json.loads(line).values()] for line in lines)
    else:
        _write_parquet(file, columns, lines)


def read_table(file: Path) -> Iterator[Record]:
    """Yield the rows of a table, only those columns that identify it.

    Values in a .csv stay text. Of a .parquet, only paths, times and errors are read.

    Raises:
        OSError, ValueError, csv.Error: The file cannot be read as such a table.
    """
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as text:
            for line in text:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not an object")
                yield record
    elif file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as text:
            yield from csv.DictReader(text)
    else:
        from pyarrow import parquet

        table = parquet.ParquetFile(file)
        needed = [name for name in ("path", *TIMES, "error") if name in table.schema_arrow.names]
        for batch in table.iter_batches(batch_size=_GROUP_ROWS, columns=needed):
            yield from batch.to_pylist()


def column_names(file: Path) -> list[str] | None:
    """Return the columns of a table, or None if that takes its first row and there is none.

    Raises:
        OSError, ValueError, csv.Error: The file cannot be read as such a table.
    """
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return list(parquet.read_schema(file).names)
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as text:
            return next(csv.reader(text), [])
    first = next(islice(read_table(file), 1), None)
    return None if first is None else list(first)


def stored_text(file: Path, text: str) -> str:
    """Return text as a table stores it.

    Names of files on Linux are bytes, which need not be valid UTF-8. JSON can escape the rest; in
    the other formats, each such byte is written as a backslash and its number.
    """
    return text if file.suffix == ".jsonl" else _valid(text)


def _valid(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    """Convert a value to the content of a cell: a list to a JSON array, None to nothing."""
    if isinstance(value, list):
        return _valid(json.dumps(value, ensure_ascii=False))
    return _valid(value) if isinstance(value, str) else value


def _write_parquet(file: Path, columns: Columns, lines: Iterable[str]) -> None:
    import pyarrow
    from pyarrow import parquet

    text, number = pyarrow.string(), pyarrow.float64()
    types = {
        "text": text,
        "number": number,
        "texts": pyarrow.list_(text),
        "numbers": pyarrow.list_(number),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(file, schema) as writer:
        rest = iter(lines)
        while group := [*islice(rest, _GROUP_ROWS)]:
            records = [
                {n: _valid(v) if isinstance(v, str) else v for n, v in json.loads(line).items()}
                for line in group
            ]
            writer.write_table(pyarrow.Table.from_pylist(records, schema))
