"""Values that both the page of a run and the page of a comparison show."""

import base64
import io
from datetime import datetime
from typing import Any, Literal

import numpy as np
from PIL import Image

MATRIX_CLASSES = 30
"""Most classes whose confusion matrix is a table; with more it is a picture."""

_SHOWN_SKIPPED = 50
_BLUE, _ORANGE = (64, 132, 196), (224, 110, 40)
"""Colours of the picture, which are clear on a light and on a dark page."""

BASELINES = {
    "largest_class": "Always the largest class",
    "one_frame": "Linear probe on one frame",
    "prevalence": "Same scores for every video",
}


def skipped_values(skipped: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the first of the files that could not be used, and their number."""
    return {"skipped": skipped[:_SHOWN_SKIPPED], "num_skipped": len(skipped)}


def track(
    name: str,
    value: float | None,
    interval: list[float] | None = None,
    *,
    seeds: tuple[float, float] | None = None,
    note: str = "",
    own: bool = False,
) -> dict[str, Any]:
    """Return a row of the template's `tracks`: a score from 0 to 1 on an axis."""
    return {
        "name": name,
        "value": value,
        "interval": interval,
        "seeds": seeds,
        "note": note,
        "own": own,
    }


def baselines_of(evaluation: dict[str, Any]) -> dict[str, float]:
    """Return the scores of trivial classifiers by name, best first.

    Versions that did not record them recorded the numbers of videos, which give one of them.
    """
    found: dict[str, float] = dict(evaluation.get("baselines") or {})
    counts = [values["num_videos"] for values in evaluation["per_class"].values()]
    if not found and evaluation["metric"] == "top1" and not evaluation["heads"]:
        found = {"largest_class": max(counts) / max(1, sum(counts))}
    named = {BASELINES.get(name, name): score for name, score in found.items()}
    return dict(sorted(named.items(), key=lambda item: -item[1]))


def confusion_values(labels: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    """Return the confusion matrix, as a picture if it is large, and the most frequent mistakes.

    A mistake is given as true class, predicted class, number of videos and videos of the class.
    """
    mistakes = [
        (labels[i], labels[j], count, sum(row))
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    mistakes.sort(key=lambda mistake: -mistake[2])
    is_large = len(labels) > MATRIX_CLASSES
    return {
        "matrix": [] if is_large else confusion,
        "heat_map": heat_map(confusion) if is_large and confusion else "",
        "confusions": mistakes[: 60 if is_large else 10],
        "num_confusions": len(mistakes),
    }


def heat_map(confusion: list[list[int]]) -> str:
    """Draw a confusion matrix with one pixel per cell, right answers blue and mistakes orange.

    Opacity is the square root of the share of the true class, so that single mistakes are visible.
    """
    counts = np.array(confusion, dtype=float)
    share = np.sqrt(counts / np.maximum(1, counts.sum(1, keepdims=True)))
    pixels = np.zeros((*share.shape, 4), np.uint8)
    pixels[..., :3] = np.where(np.eye(len(share), dtype=bool)[..., None], _BLUE, _ORANGE)
    pixels[..., 3] = np.where(share > 0, 60 + 195 * share, 0)
    return data_uri(Image.fromarray(pixels, "RGBA"), "png")


def data_uri(picture: Image.Image, kind: Literal["png", "jpeg"]) -> str:
    """Return a picture as an address that contains it, so that a page needs no other file."""
    stream = io.BytesIO()
    quality = {"quality": 60} if kind == "jpeg" else {}
    picture.save(stream, format=kind.upper(), optimize=True, **quality)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def class_score(values: dict[str, Any], metric: str) -> float | None:
    """Return the accuracy of a class, or its average precision if videos have several labels.

    The score is None for a class that does not occur.
    """
    score: float | None = values["accuracy" if metric == "top1" else "average_precision"]
    return score


def points(value: float | None) -> str:
    """Write a share in percent, without the sign."""
    return "–" if value is None else f"{100 * value:.1f}"


def percent(value: float | None) -> str:
    """Write a share as a percentage, with a space that does not break."""
    return "–" if value is None else f"{points(value)}\N{NO-BREAK SPACE}%"


def interval_text(ends: list[float] | None) -> str:
    """Write an interval of shares as percentages."""
    return f"{points(ends[0])} to {percent(ends[1])}" if ends else ""


def duration(seconds: float | None) -> str:
    """Write a duration in the unit that suits it; nothing if it is unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Write a number of bytes."""
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def moment(date: str | None) -> str:
    """Write a date in ISO 8601 for people; nothing if it is unknown."""
    return f"{datetime.fromisoformat(date):%d %B %Y, %H:%M}".lstrip("0") if date else ""
