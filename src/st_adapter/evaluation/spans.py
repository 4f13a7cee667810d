"""Spans of a long video: which label holds from when to when, found from scores over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of a video with one label.

    Attributes:
        start_seconds: Start, relative to the first frame of the video.
        end_seconds: End, exclusive.
        start_frame: Number of the first frame.
        end_frame: Number of the frame after the last one.
        label: The label.
        score: Mean score of the label over the span, in 0..1.
    """

    start_seconds: float
    end_seconds: float
    start_frame: int
    end_frame: int
    label: str
    score: float


def smooth(scores: Float[ndarray, "w c"], reach: int) -> Float[ndarray, "w c"]:
    """Average scores over time.

    Args:
        scores: Scores of windows at equal distances.
        reach: Number of windows on each side that count as much as the window itself; fewer at
            both ends. 0 changes nothing.

    >>> smooth(np.array([[0.0], [3.0], [0.0], [0.0]]), 1)[:, 0].tolist()
    [1.5, 1.0, 1.0, 0.0]
    """
    if not reach:
        return scores
    sums = np.vstack([np.zeros_like(scores[:1]), scores.cumsum(0)])
    numbers = np.arange(len(scores))
    first, last = np.maximum(numbers - reach, 0), np.minimum(numbers + reach + 1, len(scores))
    averages: ndarray = (sums[last] - sums[first]) / (last - first)[:, None]
    return averages


def runs_of_labels(chosen: Sequence[Sequence[int]], num_classes: int) -> list[tuple[int, int, int]]:
    """Return the runs of windows in which a class is chosen, as (class, first, end), by start.

    Args:
        chosen: For each window, the indices of the classes chosen for it: none, one, or several.
        num_classes: Number of classes.

    >>> runs_of_labels([[0], [0], [1], [], [1, 2]], 3)
    [(0, 0, 2), (1, 2, 3), (1, 4, 5), (2, 4, 5)]
    """
    present: Bool[ndarray, "w c"] = np.zeros((len(chosen), num_classes), dtype=bool)
    for row, classes in zip(present, chosen, strict=True):
        row[list(classes)] = True
    edges = np.diff(present.astype(np.int8), axis=0, prepend=0, append=0)
    runs = []
    for index in range(num_classes):
        starts, ends = (np.flatnonzero(edges[:, index] == sign) for sign in (1, -1))
        runs += [(index, int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
    return sorted(runs, key=lambda run: (run[1], run[0]))


def absorb_short(chosen: Sequence[int], seconds: Sequence[float], least: float) -> list[int]:
    """Let each short run of windows continue the run before it, or join the first long one.

    If all runs are short, the class that lasts longest in all takes their place.

    Args:
        chosen: The class of each window; -1 for none.
        seconds: How much time each window stands for.
        least: Shortest run to keep, in seconds.

    >>> absorb_short([2, 0, 0, 1, 0, 2, 2], [1.0] * 7, least=1.5)
    [0, 0, 0, 0, 0, 2, 2]
    """
    ends = np.concatenate([[0.0], np.cumsum(seconds)])
    result: list[int] = []
    waiting = 0  # windows before the first long run
    position = 0
    for index, group in groupby(chosen):
        length = len([*group])
        is_long = ends[position + length] - ends[position] >= least
        position += length
        if is_long:
            result += [index] * (waiting + length)
            waiting = 0
        elif result:
            result += [result[-1]] * length
        else:
            waiting += length
    if result:
        return result
    lasts: dict[int, float] = {}
    for index, own in zip(chosen, seconds, strict=True):
        lasts[index] = lasts.get(index, 0.0) + own
    return [max(lasts, key=lasts.__getitem__)] * len(chosen)


def close_gaps(
    chosen: Bool[ndarray, " w"], seconds: Sequence[float], least: float
) -> Bool[ndarray, " w"]:
    """Fill short gaps in the presence of a class, then remove what is still short.

    Args:
        chosen: Whether the class is present in each window.
        seconds: How much time each window stands for.
        least: Shortest gap and shortest presence to keep, in seconds.

    >>> close_gaps(np.array([True, True, False, True, False, False, True]), [1.0] * 7, 2).tolist()
    [True, True, True, True, False, False, False]
    """
    ends = np.concatenate([[0.0], np.cumsum(seconds)])
    result = chosen.copy()
    for state in (False, True):
        edges = np.diff((result == state).astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        for start, stop in zip(starts, stops, strict=True):
            at_edge = start == 0 or stop == len(result)
            if ends[stop] - ends[start] < least and (state or not at_edge):
                result[start:stop] = not state
    return result
