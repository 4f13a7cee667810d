"""The folder of parts in which a table grows until all of its rows are there.

    labels.csv.parts/
      plan.json                       which command it belongs to
      0000000000-0000004096.jsonl     rows 0 to 4095
      0000004096-0000004711.jsonl
      ...

Each part is written completely or not at all. So at any moment the names of the parts say which
rows are done, and nothing else has to be kept in step with them.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from st_adapter.common.files import atomic_path, read_json, remove_unfinished, write_json
from st_adapter.common.lock import LOCK_FILE
from st_adapter.errors import ArgumentError, LabellingError
from st_adapter.labelling.formats import write_table
from st_adapter.labelling.plan import differences
from st_adapter.labelling.records import Columns
from st_adapter.wording import setting

_PLAN = "plan.json"
_PART = re.compile(r"(\d+)-(\d+)\.jsonl")

_PART_ROWS, _PART_SECONDS = 4096, 10.0
"""Most rows of a part, and time after which it is written. A kill loses no more work than that."""


class Parts:
    """The parts of one table.

    Args:
        file: The table.
        num_rows: Number of rows that it will have.
    """

    def __init__(self, file: Path, num_rows: int) -> None:
        self.file = file
        self.folder = file.with_name(f"{file.name}.parts")
        self.num_rows = num_rows

    def begin(self, plan: Mapping[str, Any]) -> None:
        """Record which command the parts belong to, or check that they belong to this one.

        The caller must have locked the folder.

        Raises:
            ArgumentError: They belong to another command.
        """
        remove_unfinished(self.folder)
        file = self.folder / _PLAN
        if file.exists() and self.done():
            if differs := differences(read_json(file), plan):
                raise ArgumentError(
                    f"{self.folder} holds the unfinished table of another command ({differs}); "
                    f"finish that command, remove the folder, or choose another {setting('out')}"
                )
            return
        if any(path.name not in (LOCK_FILE, _PLAN) for path in self.folder.iterdir()):
            raise ArgumentError(
                f"{self.folder} exists and was not written by `predict`; remove it, or choose "
                f"another {setting('out')}"
            )
        write_json(file, dict(plan))

    def done(self) -> list[range]:
        """Return the ranges of rows that parts have, in order. They can overlap."""
        found = (_PART.fullmatch(path.name) for path in self.folder.iterdir())
        pairs = ((int(match[1]), int(match[2])) for match in found if match)
        return [range(*pair) for pair in sorted(pairs)]

    def missing(self) -> list[range]:
        """Return the ranges of rows that no part has, in order."""
        gaps, position = [], 0
        for part in [*self.done(), range(self.num_rows, self.num_rows)]:
            if part.start > position:
                gaps.append(range(position, part.start))
            position = max(position, part.stop)
        return gaps

    def write(self, rows: range, lines: Sequence[str]) -> None:
        """Write the part of some rows."""
        name = f"{rows.start:010d}-{rows.stop:010d}.jsonl"
        with atomic_path(self.folder / name) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def join(self, columns: Columns) -> int:
        """Join all parts to the table and remove them.

        Args:
            columns: Columns of the table.

        Returns:
            The number of videos that could not be read.

        Raises:
            LabellingError: Rows are missing.
        """
        counter = _FailureCounter()
        joined = self.folder / f"joined{self.file.suffix}"
        with atomic_path(joined) as temporary:
            write_table(temporary, self.file.suffix, columns, counter.count(self._lines()))
        joined.replace(self.file)
        self.clear()
        return counter.num_failed

    def clear(self) -> None:
        """Remove all parts. The lock stays: whoever locked the folder removes it."""
        for path in self.folder.iterdir():
            if path.name not in (LOCK_FILE, _PLAN):
                path.unlink()
        # Last: parts without a plan, which a kill would leave behind, could not be continued.
        (self.folder / _PLAN).unlink(missing_ok=True)

    def _lines(self) -> Iterator[str]:
        """Yield each row once, in order.

        Parts overlap if a process outlived its killed parent and wrote one more. Its rows are the
        same, so the second copy is left out.
        """
        position = 0
        for part in self.done():
            if part.start > position:
                break
            name = f"{part.start:010d}-{part.stop:010d}.jsonl"
            with (self.folder / name).open(encoding="utf-8", newline="\n") as file:
                for row, line in zip(part, file, strict=True):
                    if row >= position:
                        yield line
            position = max(position, part.stop)
        if position != self.num_rows:
            raise LabellingError(
                f"{self.folder} lacks rows from number {position} on; run the same command again"
            )


class PartWriter:
    """Collects rows and writes them as parts every few seconds.

    Args:
        parts: Where to write.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._pending: list[tuple[range, list[str]]] = []
        self._written = time.monotonic()

    def add(self, rows: range, lines: list[str]) -> None:
        """Take the lines of some rows, in any order of ranges."""
        self._pending.append((rows, lines))
        count = sum(len(pending) for pending, _ in self._pending)
        if count >= _PART_ROWS or time.monotonic() - self._written >= _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write everything that is pending, rows that follow each other as one part."""
        merged: list[tuple[range, list[str]]] = []
        for rows, lines in sorted(self._pending, key=lambda pending: pending[0].start):
            if merged and merged[-1][0].stop == rows.start:
                before, text = merged[-1]
                merged[-1] = range(before.start, rows.stop), text + lines
            else:
                merged.append((rows, lines))
        for rows, lines in merged:
            self._parts.write(rows, lines)
        self._pending.clear()
        self._written = time.monotonic()


class _FailureCounter:
    """Counts the rows with an error as they pass."""

    num_failed = 0

    def count(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self.num_failed += json.loads(line)["error"] is not None
            yield line
