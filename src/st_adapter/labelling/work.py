"""The loop that labels ranges of rows in this process."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

from st_adapter.common.remarks import say
from st_adapter.labelling.formats import to_line
from st_adapter.labelling.labeller import Labeller
from st_adapter.labelling.parts import Parts, PartWriter
from st_adapter.labelling.records import Record


@dataclass(frozen=True)
class Batches(Iterable[list[int]]):
    """The numbers of the rows in each batch. Can be iterated again and again.

    Attributes:
        ranges: Ranges of rows. Each starts at a multiple of `size` and ends at one, or at the last
            row.
        size: Rows in a batch.
    """

    ranges: Sequence[range]
    size: int

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.ranges:
            for start in range(rows.start, rows.stop, self.size):
                yield [*range(start, min(start + self.size, rows.stop))]


def label_ranges(
    labeller: Labeller,
    batches: Batches,
    parts: Parts,
    advance: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Label rows and write them as parts.

    Args:
        labeller: The classifiers.
        batches: The rows.
        parts: Where to write.
        advance: Told how many rows are done after each batch.
        should_stop: Asked after each batch. Rows that are done are still written.

    Raises:
        MemoryShortError: A batch does not fit in memory. Rows that are done are written.
    """
    writer = PartWriter(parts)
    try:
        with closing(labeller.label(batches)) as labelled:
            for rows, records in zip(batches, labelled, strict=True):
                for record in records:
                    say_skipped(record)
                writer.add(range(rows[0], rows[-1] + 1), [to_line(record) for record in records])
                advance(len(rows))
                if should_stop():
                    return
    finally:
        writer.flush()


def say_skipped(record: Record) -> None:
    """Name the video of a row on stderr if it could not be read."""
    if record["error"] is not None:
        say(f"skipped {record['error']}")


def divide(ranges: Sequence[range], count: int, size: int) -> list[list[range]]:
    """Divide ranges of rows into at most `count` parts that follow each other.

    Args:
        ranges: The ranges, which start at multiples of `size`.
        count: Number of parts.
        size: Rows in a batch; batches are not divided.

    Returns:
        The ranges of each part, which has at least one batch.
    """
    batches = [
        range(start, min(start + size, rows.stop))
        for rows in ranges
        for start in range(rows.start, rows.stop, size)
    ]
    bounds = [len(batches) * i // count for i in range(count + 1)]
    shares = [batches[a:b] for a, b in pairwise(bounds)]
    return [_joined(share) for share in shares if share]


def _joined(batches: Sequence[range]) -> list[range]:
    """Join ranges that follow each other."""
    joined: list[range] = []
    for batch in batches:
        if joined and joined[-1].stop == batch.start:
            joined[-1] = range(joined[-1].start, batch.stop)
        else:
            joined.append(batch)
    return joined
