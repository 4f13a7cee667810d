"""Find the class that a clip shows when it is mirrored or played backwards."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from st_adapter.common.task import Task
from st_adapter.config import pair_classes, split_pairs
from st_adapter.data.annotations import Annotations
from st_adapter.data.formats.listing import csv_rows, examples
from st_adapter.errors import ArgumentError, did_you_mean
from st_adapter.wording import setting, switch

UNKNOWN = -1
"""Stands for the class of mirrored clips if the data has no such class."""

_DIRECTION = re.compile(
    r"(?<![a-z])(left|right|(?:counter|anti)[ -]?clockwise|clockwise)(?![a-z])", re.IGNORECASE
)
_OPPOSITE = {"left": "right", "clockwise": "counterclockwise"}
_OPPOSITE |= {b: a for a, b in _OPPOSITE.items()}


def reversed_classes(reversal: str | None, data: Annotations) -> dict[int, int]:
    """Map each class to the one that its clips show when played backwards.

    Args:
        reversal: Pairs of classes, or a .csv file of pairs, as in `TrainConfig.reversal`. None
            gives an empty map.
        data: The data whose classes are named.

    Returns:
        Index of a class to the index of the other class of its pair.

    Raises:
        ArgumentError: A name is not a class of the data, or videos have several labels.
    """
    if reversal is None:
        return {}
    if data.task != Task():
        raise ArgumentError(f"reversal needs one label per video, but the data has {data.task}")
    return _read_pairs("reversal", reversal, data.labels)


def mirrored_classes(mirror: str | None, data: Annotations) -> dict[int, int]:
    """Map each class that changes when a clip is mirrored to the class of the mirrored clip.

    A class that is not in a pair is mapped by its name: "Turn left" to "Turn right".

    Args:
        mirror: Pairs of classes, a .csv file of pairs, "names" or "same", as in
            `TrainConfig.mirror`.
        data: The data whose classes are named.

    Returns:
        Index of a class to the index of another, or to UNKNOWN if the data has no such class.
        Classes that stay the same are left out.

    Raises:
        ArgumentError: A name is not a class of the data, or `mirror` is None and some names of
            classes contain a direction, such as left or clockwise.
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
            f"mirroring clips may turn these classes into others: {names}; use "
            f"{setting('mirror', 'names')} to swap classes whose names differ only in left and "
            f"right, {setting('mirror', 'same')} to keep all labels, or {switch('flip', on=False)} "
            "to mirror nothing"
        )
    index = {_plain(data.labels[i]): i for i in directed}
    by_name = {i: index.get(_plain(data.labels[i], _OPPOSITE), UNKNOWN) for i in directed}
    return by_name | pairs


def _plain(name: str, swap: Mapping[str, str] = {}) -> str:
    """Return a name in lower case, with one spelling of each direction, or with directions swapped.

    >>> _plain("Turning anti-clockwise to the left", _OPPOSITE)
    'turning clockwise to the right'
    """

    def spell(match: re.Match[str]) -> str:
        found = match.group().lower()
        found = "counterclockwise" if found.startswith(("anti", "counter")) else found
        return swap.get(found, found)

    return _DIRECTION.sub(spell, name).lower()


def _read_pairs(what: str, text: str, labels: Sequence[str]) -> dict[int, int]:
    """Read "a=b,c=d" or a .csv with two columns, and map each class to the other of its pair."""
    if text.lower().endswith(".csv"):
        pairs = pair_classes(text, [row for _, row in csv_rows(Path(text))])
    else:
        pairs = pair_classes(what, split_pairs(text))
    index = {label: i for i, label in enumerate(labels)}
    for name in pairs:
        if name not in index:
            hint = did_you_mean(name, list(labels))
            raise ArgumentError(f"{what} names {name!r}, which is not a class of the data{hint}")
    return {index[a]: index[b] for a, b in pairs.items()}
