"""Hold out a validation part from data that does not have one."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from st_adapter.data.folds import fold_of_each
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import DataError

_MOST_FOLDS = 100
"""Most folds that groups are divided into, for the smallest fractions."""


def split_validation(
    videos: VideoList | Sequence[Video], fraction: float, seed: int
) -> tuple[VideoList, VideoList]:
    """Split videos into a training and a validation part.

    Each class gives about the same fraction of its videos. All segments of a file stay in the same
    part. Without groups, a class gives at least one file, unless it has only one.

    If the videos have groups, such as the clips of one film, groups stay whole, so that validation
    videos do not resemble training videos. More groups than `fraction` are held out if a class
    would be missing otherwise. The last training group of a class is never held out, so that some
    classes may have no validation videos.

    Args:
        videos: The videos to split.
        fraction: Share of the files of each class to hold out; in 0..1.
        seed: Seed of the random choice.

    Returns:
        The training part and the validation part.

    Raises:
        DataError: No group can be held out, or segments of one file are in several groups.
    """
    given = VideoList.of(videos)
    names, groups = given.names(), given.groups()
    if groups:
        chosen, units = _hold_groups(groups, given, fraction, seed), groups
    else:
        rng = random.Random(seed)
        chosen, units = _hold_files(names, given.first_targets(), fraction, rng), names
    held = np.array([unit in chosen for unit in units])
    return given.take(np.flatnonzero(~held)), given.take(np.flatnonzero(held))


# This draw must not change: `evaluate` repeats it to find the videos that a run held out.
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


def _hold_groups(groups: Sequence[str], videos: VideoList, fraction: float, seed: int) -> set[str]:
    """Divide the groups into folds of similar classes, and hold out a part of the folds.

    Of all successive folds that make up the fraction, those with most classes are used.
    """
    classes_of: dict[str, set[int]] = defaultdict(set)
    for i, group in enumerate(groups):
        classes_of[group].update(videos.targets(i).tolist())
    fold_of = fold_of_each(videos, _num_folds(fraction), seed).tolist()
    num_folds = 1 + max(fold_of)
    folds: list[set[str]] = [set() for _ in range(num_folds)]
    for group, fold in zip(groups, fold_of, strict=True):
        folds[fold].add(group)
    count = min(num_folds - 1, max(1, round(fraction * num_folds)))
    draws = (
        _settle(set[str]().union(*[*folds, *folds][first : first + count]), classes_of, groups)
        for first in range(num_folds)
    )
    held = max(draws, key=lambda draw: len(set[int]().union(*map(classes_of.__getitem__, draw))))
    if not held:
        raise DataError(
            "cannot hold out any group: each group is the only one of some class (for example "
            f"{min(classes_of)!r}); a class needs two groups, one for training and one for "
            "validation"
        )
    return held


def _num_folds(fraction: float) -> int:
    """Return the smallest number of folds of which some make up the fraction, nearly."""
    for count in range(2, _MOST_FOLDS):
        held = min(count - 1, max(1, round(fraction * count)))
        if abs(held / count - fraction) <= 0.05 * min(fraction, 1 - fraction):
            return count
    return _MOST_FOLDS


def _settle(
    chosen: set[str], classes_of: Mapping[str, set[int]], groups: Sequence[str]
) -> set[str]:
    """Leave each class a training group, and add groups of classes that are still missing.

    Args:
        chosen: The groups to hold out if possible.
        classes_of: Classes of each group.
        groups: Group of each video.
    """
    size_of = Counter(groups)
    left = Counter(label for own in classes_of.values() for label in own)
    others = sorted(classes_of.keys() - chosen, key=lambda group: (size_of[group], group))
    held, present = set[str](), set[int]()
    for candidate in [*sorted(chosen), *others]:
        own = classes_of[candidate]
        is_wanted = candidate in chosen or not own <= present
        if is_wanted and all(left[label] > 1 for label in own):
            held.add(candidate)
            present |= own
            left.subtract(own)
    return held
