"""Hold out a validation part from data that does not have one."""

import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from st_adapter.data.formats.listing import counted
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import DataError

_DRAWS = 50
"""Largest number of random draws to find groups in which every class occurs."""


def split_validation(
    videos: VideoList | Sequence[Video], fraction: float, seed: int, group: str | None = None
) -> tuple[VideoList, VideoList]:
    """Split videos into a training and a validation part.

    All segments of a file stay in the same part. Without `group`, a fraction of the files of each
    class is held out: at least one file, unless the class has only one.

    With `group`, files are split by groups, such as the clips of one film, so that validation
    videos do not resemble training videos. More groups than `fraction` are held out if a class
    would be missing otherwise. The last training group of a class is never held out, so that some
    classes may have no validation videos.

    Args:
        videos: The videos to split.
        fraction: Share of the files of each class, or of the groups, to hold out; in 0..1.
        seed: Seed of the random choice.
        group: Regular expression. Files whose paths give the same match form a group.

    Returns:
        The training part and the validation part.

    Raises:
        DataError: No group can be held out, or the expression does not form groups.
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
    for label in sorted(files_of):  # sorted, so that the choice depends on the seed alone
        files = sorted(files_of[label], key=Path)
        count = min(len(files) - 1, max(1, round(fraction * len(files))))
        held.update(rng.sample(files, count))
    return held


def _groups(names: Sequence[str], group: re.Pattern[str]) -> dict[str, str]:
    """Map each file to its group. A file that does not match is a group of its own.

    Only the part of a path below the deepest folder that all files share is matched, so that the
    place of the data on the disk does not matter. This part starts with a slash.
    """
    shared = os.path.commonprefix(list(names))  # noqa: RUF071  addresses are not paths
    shared = shared.rpartition("/")[0]
    matches = {name: group.search(name[len(shared) :]) for name in names}
    group_of = {name: match.group() if match else name for name, match in matches.items()}
    if not any(matches.values()):
        raise DataError(
            f"the group {group.pattern!r} matches none of the paths, such as {names[0]}"
        )
    if len(set(group_of.values())) < 2:
        raise DataError(
            f"the group {group.pattern!r} gives the same match {group_of[names[0]]!r} for every "
            f"path in {shared or '/'} ({counted(len(names), 'path')}); it must match the part that "
            "differs between groups, such as _g\\d+ in UCF101"
        )
    return group_of


def _hold_groups(
    classes_of: Mapping[str, set[int]], fraction: float, rng: random.Random
) -> set[str]:
    """Draw groups until every class that has several groups occurs.

    After _DRAWS attempts, the draw with most classes is used.
    """
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
            "cannot hold out any group: each group is the only one of some class (for example "
            f"{min(classes_of)!r}); a class needs two groups, one for training and one for "
            "validation"
        )
    return best[1]


def _draw_groups(
    classes_of: Mapping[str, set[int]], left: Counter[int], fraction: float, rng: random.Random
) -> set[str]:
    """Draw random groups until there are enough of them and no class is missing.

    Args:
        classes_of: Classes of each group.
        left: Number of groups of each class. A group that is the last one of a class is not drawn.
        fraction: Share of the groups to draw.
        rng: Source of randomness.
    """
    groups = sorted(classes_of)
    count = min(len(groups) - 1, max(1, round(fraction * len(groups))))
    first = rng.sample(groups, count)
    others = sorted(set(groups) - set(first))
    rng.shuffle(others)
    left, held = left.copy(), set[str]()
    present: set[int] = set()
    # `others` replace groups that cannot be spared, and supply classes that are still missing.
    for candidate in [*first, *others]:
        own = classes_of[candidate]
        is_wanted = len(held) < count or not own <= present
        if is_wanted and all(left[label] > 1 for label in own):
            held.add(candidate)
            present |= own
            left.subtract(own)
    return held
