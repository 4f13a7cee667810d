"""The score of an evaluation, how sure it is, and what it must be better than."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from st_adapter.evaluation.intervals import Interval, wilson

Evaluation = Mapping[str, Any]
"""The content of an `eval.json`, which may come from an earlier version."""


def metric_of(evaluation: Evaluation) -> str:
    """Return the name of the main measure."""
    return str(evaluation.get("metric", "top1"))


def score_of(evaluation: Evaluation) -> float | None:
    """Return the main measure, or None if nothing was evaluated."""
    value = evaluation.get(metric_of(evaluation))
    return None if value is None else float(value)


def interval_of(evaluation: Evaluation) -> Interval | None:
    """Return the 95% interval of the main measure, or None if it is not known."""
    recorded = (evaluation.get("intervals") or {}).get(metric_of(evaluation))
    if recorded:
        return float(recorded[0]), float(recorded[1])
    score, total = score_of(evaluation), evaluation.get("num_videos", 0)
    if score is None or not total or metric_of(evaluation) != "top1":
        return None
    return wilson(score, total)  # by an earlier version


def guess_of(evaluation: Evaluation) -> tuple[float, str] | None:
    """Return the score of a classifier that looks at nothing, and a description of it."""
    baselines = evaluation.get("baselines") or {}
    if metric_of(evaluation) != "top1":
        value = baselines.get("prevalence")
        return None if value is None else (float(value), "scoring all videos alike")
    counts = Counter(_label_of(row["label"]) for row in evaluation.get("predictions", ()))
    if not counts:
        return None
    label, count = counts.most_common(1)[0]
    share = float(baselines.get("largest_class", count / counts.total()))
    return share, f"always answering {label}"


def _label_of(label: str | Sequence[str]) -> str:
    """Return the label of a video, or the labels of its heads without the names of the heads."""
    if isinstance(label, str):
        return label
    return " and ".join(one.partition("/")[2] for one in label)


def is_single_label(evaluation: Evaluation) -> bool:
    """Return whether every video has one label of a single set of classes."""
    return bool(evaluation.get("confusion")) and not evaluation.get("heads")


def right_and_total(evaluation: Evaluation) -> dict[str, tuple[int, int]]:
    """Return the number of correct and of all videos of each class, for single labels."""
    if not is_single_label(evaluation):
        return {}
    rows = zip(evaluation["labels"], evaluation["confusion"], strict=True)
    return {label: (row[i], sum(row)) for i, (label, row) in enumerate(rows)}
