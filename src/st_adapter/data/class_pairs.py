"""Which class a clip shows in a mirror, or played backwards."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from st_adapter.common.task import Task
from st_adapter.config import pair_classes, split_pairs
from st_adapter.data.annotations import Annotations
from st_adapter.data.formats.listing import csv_rows, examples
from st_adapter.errors import ArgumentError, did_you_mean

UNKNOWN = -1
"""The mirror image of a class that is no class of the data."""

_DIRECTION = re.compile(
    r"(?<![a-z])(left|right|(?:counter|anti)[ -]?clockwise|clockwise)(?![a-z])", re.IGNORECASE
)
_OPPOSITE = {"left": "right", "clockwise": "counterclockwise"}
_OPPOSITE |= {b: a for a, b in _OPPOSITE.items()}


def reversed_classes(reversal: str | None, data: Annotations) -> dict[int, int]:
    """Map each class to the one that its clips show when played backwards.

    Args:
        reversal: pairs of classes, or a .csv file with them, as in TrainConfig.

    Raises:
        ArgumentError: a name is not a class of the data, or a video has several labels.
    """
    if reversal is None:
        return {}
    if data.task != Task():
        raise ArgumentError(f"reversal takes one label a video; the data has {data.task}")
    return _read_pairs("reversal", reversal, data.labels)


def mirrored_classes(mirror: str | None, data: Annotations) -> dict[int, int]:
    """Map each class that a mirror changes to the one that its mirrored clips show, or UNKNOWN.

    Args:
        mirror: pairs of classes, a .csv file with them, "names" or "same", as in TrainConfig. A
            class in no pair is mapped by its name: "Turn left" to "Turn right".

    Raises:
        ArgumentError: a name is not a class of the data, or `mirror` is None and some classes
            have left or right in their names.
    """
    if mirror == "same":
        return {}
    pairs: dict[int, int] = {}
    if mirror is not None and mirror != "names":
        pairs = _read_pairs("mirror", mirror, data.labels)
    directed = [i for i, name in enumerate(data.labels) if _DIRECTION.search(name)]
    if mirror is None and directed:
        names = examples(repr(data.labels[i]) for i in directed)
        raise ArgumentError(
            f"a mirror would turn some classes into others: {names}; --mirror names swaps those "
            "that differ in left and right alone, --mirror same changes none, --no-flip does "
            "without a mirror"
        )
    index = {_plain(data.labels[i]): i for i in directed}
    by_name = {i: index.get(_plain(data.labels[i], _OPPOSITE), UNKNOWN) for i in directed}
    return by_name | pairs


def _plain(name: str, swap: Mapping[str, str] = {}) -> str:
    """Return a name in small letters, its directions spelt one way, or swapped for others.

    >>> _plain("Turning anti-clockwise to the left", _OPPOSITE)
    'turning clockwise to the right'
    """

    def spell(match: re.Match[str]) -> str:
        found = match.group().lower()
        found = "counterclockwise" if found.startswith(("anti", "counter")) else found
        return swap.get(found, found)

    return _DIRECTION.sub(spell, name).lower()


def _read_pairs(what: str, text: str, labels: Sequence[str]) -> dict[int, int]:
    """Read "a=b,c=d", or a .csv with two columns: each class to the other of its pair."""
    if text.lower().endswith(".csv"):
        pairs = pair_classes(text, [row for _, row in csv_rows(Path(text))])
    else:
        pairs = pair_classes(what, split_pairs(text))
    index = {label: i for i, label in enumerate(labels)}
    for name in pairs:
        if name not in index:
            hint = did_you_mean(name, list(labels))
            raise ArgumentError(f"{what} names {name!r}, which is no class of the data{hint}")
    return {index[a]: index[b] for a, b in pairs.items()}
