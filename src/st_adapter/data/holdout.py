"""The part of the videos that a run is judged on, where the data names none."""

import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import DataError

_DRAWS = 50
"""Of groups, where one after another leaves a class out."""


def split_validation(
    videos: VideoList | Sequence[Video], fraction: float, seed: int, group: str | None = None
) -> tuple[VideoList, VideoList]:
    """Hold out `fraction` of each class's files, at least one where a class has two or more.

    All segments of a file go to the same part. With `group`, whole groups are held out instead:
    `fraction` of them, and more to have a class among them that would be missing, where that can
    be. A group that is the last one of a class stays.

    Raises:
        DataError: no group can be held out.
    """
    given = VideoList.of(videos)
    rng = random.Random(seed)
    names = given.names()
    if group is not None:
        group_of = _groups(names, re.compile(group))
        classes_of: dict[str, set[int]] = defaultdict(set)
        for i, name in enumerate(names):
            classes_of[group_of[name]].update(given.targets(i).tolist())
        held_groups = _hold_groups(classes_of, fraction, rng)
        chosen = {name for name, own in group_of.items() if own in held_groups}
    else:
        chosen = _hold_files(names, given.first_targets(), fraction, rng)
    held = np.array([name in chosen for name in names])
    return given.take(np.flatnonzero(~held)), given.take(np.flatnonzero(held))


def _hold_files(
    names: Sequence[str], classes: ndarray, fraction: float, rng: random.Random
) -> set[str]:
    class_of: dict[str, int] = {}
    for name, label in zip(names, classes.tolist(), strict=True):
        class_of.setdefault(name, label)  # the class of a file is that of its first segment
    files_of: dict[int, list[str]] = defaultdict(list)
    for name, label in class_of.items():
        files_of[label].append(name)
    held: set[str] = set()
    for label in sorted(files_of):
        files = sorted(files_of[label], key=Path)
        count = min(len(files) - 1, max(1, round(fraction * len(files))))
        held.update(rng.sample(files, count))
    return held


def _groups(names: Sequence[str], group: re.Pattern[str]) -> dict[str, str]:
    """The group of each file; one that does not match is a group of its own.

    What is matched begins with the slash behind the last folder that all files lie in.
    """
    shared = os.path.commonprefix(list(names))  # noqa: RUF071  cut at a slash; some are no paths
    shared = shared.rpartition("/")[0]
    matches = {name: group.search(name[len(shared) :]) for name in names}
    group_of = {name: match.group() if match else name for name, match in matches.items()}
    if not any(matches.values()):
        raise DataError(f"no path matches the group {group.pattern!r}; the first is {names[0]}")
    if len(set(group_of.values())) < 2:
        raise DataError(
            f"all {len(names)} paths in {shared or '/'} match the group {group.pattern!r} alike, "
            f"by {group_of[names[0]]!r}; it must match the part that tells groups apart, as _g\\d+ "
            "does in UCF101"
        )
    return group_of


def _hold_groups(
    classes_of: Mapping[str, set[int]], fraction: float, rng: random.Random
) -> set[str]:
    """The first draw that leaves out no class of several groups, or the one that has most."""
    left = Counter(label for own in classes_of.values() for label in own)
    wanted = sum(count > 1 for count in left.values())
    best: tuple[int, set[str]] = (0, set())
    for _ in range(_DRAWS):
        held = _draw_groups(classes_of, left, fraction, rng)
        present = len(set().union(*(classes_of[group] for group in held)))
        best = max(best, (present, held), key=lambda draw: draw[0])
        if present >= wanted:
            break
    if not best[1]:
        raise DataError(
            f"each group is all there is of a class, as is {min(classes_of)!r}; a class needs two "
            "groups, one to train and one to choose on"
        )
    return best[1]


def _draw_groups(
    classes_of: Mapping[str, set[int]], left: Counter[int], fraction: float, rng: random.Random
) -> set[str]:
    """Groups by chance, until there are enough and no class is missing; some cannot be spared.

    Args:
        left: groups of each class.
    """
    groups = sorted(classes_of)
    count = min(len(groups) - 1, max(1, round(fraction * len(groups))))
    first = rng.sample(groups, count)
    others = sorted(set(groups) - set(first))
    rng.shuffle(others)
    left, held = left.copy(), set[str]()
    present: set[int] = set()
    for candidate in [*first, *others]:
        own = classes_of[candidate]
        is_wanted = len(held) < count or not own <= present
        if is_wanted and all(left[label] > 1 for label in own):
            held.add(candidate)
            present |= own
            left.subtract(own)
    return held
