"""Types of classification: one label, any number of labels, or one label per head."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """How the classes of a data set belong together.

    With the defaults, a video has exactly one of the classes.

    Attributes:
        heads: Name and number of classes of each head, in the order of the classes. A video has one
            class of each. Empty if there is only one head.
        multi_label: Whether a video can have any number of the classes.
    """

    heads: tuple[tuple[str, int], ...] = ()
    multi_label: bool = False

    def __str__(self) -> str:
        if self.heads:
            return f"one label for each of {', '.join(name for name, _ in self.heads)}"
        return "any number of labels" if self.multi_label else "one label"

    def slices(self, num_classes: int) -> Iterator[tuple[str, slice]]:
        """Yield the name of each head and the slice of its classes. A single head has the name "".

        >>> list(Task(heads=(("verb", 2), ("noun", 3))).slices(5))
        [('verb', slice(0, 2, None)), ('noun', slice(2, 5, None))]
        """
        start = 0
        for name, count in self.heads or (("", num_classes),):
            yield name, slice(start, start + count)
            start += count
