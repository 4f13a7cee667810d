"""Which class a clip shows in a mirror, or played backwards."""

import re
from collections.abc import Sequence
from pathlib import Path

from st_adapter.config import class_pairs
from st_adapter.data.annotations import Annotations
from st_adapter.data.formats.listing import csv_fields, examples
from st_adapter.data.labels import Task
from st_adapter.errors import ArgumentError, did_you_mean

UNKNOWN = -1
"""What a class is in a mirror where no class of the data is that."""

_DIRECTION = re.compile(
    r"(?<![a-z])(left|right|(?:counter|anti)[ -]?clockwise|clockwise)(?![a-z])", re.IGNORECASE
)


def reversed_classes(reversal: str | None, data: Annotations) -> dict[int, int]:
    """Class to the class that its clips show backwards.

    Args:
        reversal: pairs, or a .csv of them, as in TrainConfig.

    Raises:
        ArgumentError: a name is no class, or a video has several labels.
    """
    if reversal is None:
        return {}
    if data.task != Task():
        raise ArgumentError(f"reversal takes one label a video; the data has {data.task}")
    return _numbered("reversal", _read_pairs("reversal", reversal), data.labels)


def mirrored_classes(mirror: str | None, data: Annotations) -> dict[int, int]:
    """Class to the class that its clips show in a mirror, or UNKNOWN; others stay what they are.

    Args:
        mirror: pairs, a .csv of them, "names" or "same", as in TrainConfig. Classes that no pair
            names are told by their names.

    Raises:
        ArgumentError: a name is no class; or names tell left from right, and nothing says what a
            mirror makes of them.
    """
    if mirror == "same":
        return {}
    pairs: dict[int, int] = {}
    if mirror is not None and mirror != "names":
        pairs = _numbered("mirror", _read_pairs("mirror", mirror), data.labels)
    directed = [i for i, name in enumerate(data.labels) if _DIRECTION.search(name)]
    if mirror is None and directed:
        names = examples(repr(data.labels[i]) for i in directed)
        raise ArgumentError(
            f"a mirror would turn some classes into others: {names}; --mirror names swaps those "
            "that differ in left and right alone, --mirror same changes none, --no-flip does "
            "without a mirror"
        )
    index = {_directions(data.labels[i]): i for i in directed}
    by_name = {i: index.get(_swapped(data.labels[i]), UNKNOWN) for i in directed}
    return by_name | pairs


def _directions(name: str) -> tuple[str, tuple[str, ...]]:
    """A name without its directions, and these.

    >>> _directions("Swiping Left")
    ('swiping *', ('left',))
    """
    found = (match.lower() for match in _DIRECTION.findall(name))
    short = ("counterclockwise" if f[:4] in ("anti", "coun") else f for f in found)
    return _DIRECTION.sub("*", name).lower(), tuple(short)


def _swapped(name: str) -> tuple[str, tuple[str, ...]]:
    """The same of what a mirror shows.

    >>> _swapped("turning clockwise to the left")
    ('turning * to the *', ('counterclockwise', 'right'))
    """
    swap = {"left": "right", "clockwise": "counterclockwise"}
    swap |= {b: a for a, b in swap.items()}
    rest, directions = _directions(name)
    return rest, tuple(swap[direction] for direction in directions)


def _read_pairs(what: str, text: str) -> dict[str, str]:
    """Pairs of names, both ways round, from "a=b,c=d" or a .csv of two columns."""
    if not text.lower().endswith(".csv"):
        return class_pairs(what, text)
    pairs: dict[str, str] = {}
    for line, row in enumerate(csv_fields(Path(text)), start=1):
        names = [name.strip() for name in row]
        if len(names) != 2 or "" in names or names[0] == names[1] or set(names) & pairs.keys():
            raise ArgumentError(
                f"{text} line {line}: two different classes, none of them twice, not {row}"
            )
        pairs |= {names[0]: names[1], names[1]: names[0]}
    return pairs


def _numbered(what: str, pairs: dict[str, str], labels: Sequence[str]) -> dict[int, int]:
    for name in pairs:
        if name not in labels:
            hint = did_you_mean(name, list(labels))
            raise ArgumentError(f"{what} names {name!r}, which is no class of the data{hint}")
    index = {label: i for i, label in enumerate(labels)}
    return {index[a]: index[b] for a, b in pairs.items()}
