"""Values that both the page of a run and the page of a comparison show."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from st_adapter.config import ClipConfig
from st_adapter.data.clips import read_views
from st_adapter.data.film_strip import film_strip
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError

SHOWN_CLASSES = 30
"""Most classes that a table or a confusion matrix shows."""

SHOWN_CLIPS = 4
"""Most clips in a list of right or wrong answers."""

_SHOWN_MISTAKES = 10
_SHOWN_SKIPPED = 50
_STRIP_HEIGHT = 96


def skipped_values(skipped: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the first of the files that could not be used, and their number."""
    return {"skipped": skipped[:_SHOWN_SKIPPED], "num_skipped": len(skipped)}


def confusion_values(labels: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    """Return the confusion matrix, unless it is too large, and the most frequent mistakes.

    A mistake is given as true class, predicted class and number of videos.
    """
    mistakes = [
        (labels[i], labels[j], count)
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    mistakes.sort(key=lambda mistake: -mistake[2])
    return {
        "matrix": confusion if len(labels) <= SHOWN_CLASSES else [],
        "confusions": mistakes[:_SHOWN_MISTAKES],
    }


def class_score(values: dict[str, Any]) -> float | None:
    """Return the accuracy of a class, or its average precision if videos have several labels.

    The score is None for a class that does not occur.
    """
    score: float | None = values.get("accuracy", values.get("average_precision"))
    return score


def with_strips(
    predictions: Iterable[dict[str, Any]], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the first few predictions, each with a film strip of the frames in its clip.

    Args:
        predictions: Predictions as in `eval.json`.
        settings: Contains `frames`, `stride` and `size` of the clips.
    """
    clip = ClipConfig(**{name: settings[name] for name in ("frames", "stride", "size")})
    shown = list(predictions)[:SHOWN_CLIPS]
    return [prediction | {"strip": _strip(prediction, clip)} for prediction in shown]


def _strip(prediction: dict[str, Any], clip: ClipConfig) -> str | None:
    """Return a film strip of the first test view as a data URI, or None if the video is gone."""
    video = Video(
        path=Path(prediction["path"]),
        start_seconds=prediction.get("start_seconds"),
        end_seconds=prediction.get("end_seconds"),
    )
    try:
        clips, _ = read_views(video, clip)
    except VideoError:
        return None
    pixels = film_strip(clips[0])
    width = pixels.shape[1] // pixels.shape[0] * _STRIP_HEIGHT
    picture = Image.fromarray(pixels.numpy()).resize((width, _STRIP_HEIGHT))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=72)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
