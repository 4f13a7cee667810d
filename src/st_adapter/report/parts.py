"""What the pages of a run and of a comparison have in common."""

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
SHOWN_CLIPS = 4
_SHOWN_MISTAKES = 10
_SHOWN_SKIPPED = 50
_STRIP_HEIGHT = 96


def skipped_values(skipped: list[dict[str, Any]]) -> dict[str, Any]:
    """The files that could not be used; of many, the first."""
    return {"skipped": skipped[:_SHOWN_SKIPPED], "num_skipped": len(skipped)}


def confusion_values(labels: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    """The confusion matrix where it is small, and the most frequent mistakes.

    A mistake is a true class, the class predicted and the number of videos.
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
    """Accuracy of a class, or average precision with many labels; None where it does not occur."""
    score: float | None = values.get("accuracy", values.get("average_precision"))
    return score


def with_strips(
    predictions: Iterable[dict[str, Any]], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """The first few predictions, each with a film strip of the frames that were seen.

    Args:
        settings: frames, stride and size of the clips, among others.
    """
    clip = ClipConfig(**{name: settings[name] for name in ("frames", "stride", "size")})
    shown = list(predictions)[:SHOWN_CLIPS]
    return [prediction | {"strip": _strip(prediction, clip)} for prediction in shown]


def _strip(prediction: dict[str, Any], clip: ClipConfig) -> str | None:
    """The first test view as a data URI of a JPEG; None where the video can no longer be read."""
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
