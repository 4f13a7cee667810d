"""Divide videos into folds of similar classes."""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from st_adapter.data.videos import VideoList
from st_adapter.errors import DataError


def fold_of_each(videos: VideoList, count: int, seed: int) -> Int64[ndarray, " n"]:
    """Assign each video to a fold, so that classes have similar shares in all folds.

    Groups stay whole, and so do files with several segments. A video with several labels counts for
    its first.

    Args:
        videos: The videos, with groups or without.
        count: Wanted number of folds. There are fewer if there are fewer groups, or if each class
            has fewer videos.
        seed: Seed of the random choice.

    Returns:
        Number of the fold of each video, from 0.

    Raises:
        DataError: Segments of one file are in several groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    classes, groups = videos.first_targets(), videos.groups()
    if groups:
        _check_files(videos.names(), groups)
    # Sorted names number the units, so that the order of the videos does not matter.
    _, first, units = np.unique(groups or videos.names(), return_index=True, return_inverse=True)
    if not groups:
        classes = classes[first]  # the class of a file is that of its first segment
    count = min(count, len(first), max(Counter(classes.tolist()).values(), default=0))
    if count < 2:
        return np.zeros(len(videos), dtype=np.int64)
    make = StratifiedGroupKFold if groups else StratifiedKFold
    folds = make(count, shuffle=True, random_state=seed)
    fold = np.zeros(len(classes), dtype=np.int64)
    with warnings.catch_warnings():
        # Classes with fewer videos than folds. What that means depends on the caller.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, held) in enumerate(
            folds.split(classes, classes, units if groups else None)
        ):
            fold[held] = number
    return fold if groups else fold[units]


def _check_files(names: Sequence[str], groups: Sequence[str]) -> None:
    group_of: dict[str, str] = {}
    for name, group in zip(names, groups, strict=True):
        first = group_of.setdefault(name, group)
        if first != group:
            raise DataError(
                f"{name} has segments in the groups {first!r} and {group!r}; all segments of a "
                "file must be in the same group"
            )
