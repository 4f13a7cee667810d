"""Predictions as a page shows them: mistakes first, with film strips and links to the videos."""

import json
import time
from collections.abc import Iterable, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from st_adapter.common.paths import is_remote
from st_adapter.common.progress import bar
from st_adapter.config import ClipConfig
from st_adapter.data.film_strip import film_strip
from st_adapter.data.reading import read_views
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError
from st_adapter.report.parts import data_uri

_SHOWN_ROWS = 200
"""Rows of the table in the page; further ones are a list that a script searches."""

_MOST_STRIPS = 120
_STRIP_BYTES = 1_100_000
_STRIP_SECONDS = 30.0
_STRIP_HEIGHT = 72
_LISTED_BYTES = 1_200_000

COMPACT = (",", ":")
"""Separators of JSON without spaces."""

Prediction = dict[str, Any]


def is_right(prediction: Prediction) -> bool:
    """Whether the predicted labels are exactly the true ones."""
    return bool(prediction["label"] == prediction["predicted"])


def answer_values(evaluation: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the predictions for a page in `folder`.

    Returns:
        `answers`: the first predictions, complete; `more`: the others, each as true class,
        predicted class (numbers of labels), score in percent and name; `num_mistakes`; and
        `has_links`, whether any video can be played.
    """
    ranked = sorted(
        evaluation["predictions"],
        key=lambda p: (is_right(p), p["score"] if is_right(p) else -p["score"]),
    )
    start = _common_start([p["path"] for p in ranked])
    answers = with_strips(ranked[:_SHOWN_ROWS], evaluation, folder)
    for answer in answers:
        answer |= {"right": is_right(answer), "name": _name(answer, start)}
    return {
        "answers": answers,
        "more": _listed(ranked[_SHOWN_ROWS:], evaluation["labels"], start),
        "num_mistakes": sum(not is_right(p) for p in ranked),
        "has_links": any(answer["link"] for answer in answers),
    }


def with_strips(
    predictions: Sequence[Prediction], settings: dict[str, Any], folder: Path
) -> list[Prediction]:
    """Return predictions, each with a film strip of its clip and a link to its video.

    Strips are left out after a number, a size and a time that keep the page small and quick to
    make. The strip, or the link, is None if the video is gone.

    Args:
        predictions: Predictions as in `eval.json`.
        settings: Contains `frames` and `stride` of the clips.
        folder: The folder of the page, from which links start.
    """
    clip = ClipConfig(frames=settings["frames"], stride=settings["stride"], size=_STRIP_HEIGHT)
    shown, left, end = [], _STRIP_BYTES, time.monotonic() + _STRIP_SECONDS
    with bar("film strips", min(_MOST_STRIPS, len(predictions))) as progress:
        for number, prediction in enumerate(predictions):
            strip = None
            if number < _MOST_STRIPS and left > 0 and time.monotonic() < end:
                strip = _strip(prediction, clip)
                left -= len(strip or "")
                progress.advance()
            shown.append(prediction | {"strip": strip, "link": _link(prediction, folder)})
    return shown


def _strip(prediction: Prediction, clip: ClipConfig) -> str | None:
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
    return data_uri(Image.fromarray(film_strip(clips[0], gap=2)), "jpeg")


def _link(prediction: Prediction, folder: Path) -> str | None:
    """Return the address of a video: relative if it is in the folder of the page, else absolute."""
    path = Path(prediction["path"])
    if is_remote(prediction["path"]) or not path.is_file():
        return None
    near = path.absolute().is_relative_to(folder.absolute().parent)
    link = quote(Path(relpath(path, folder)).as_posix()) if near else path.absolute().as_uri()
    start, end = prediction.get("start_seconds"), prediction.get("end_seconds")
    return link if start is None and end is None else f"{link}#t={start or 0},{end or ''}"


def _common_start(paths: Sequence[str]) -> int:
    """Return the length of the folders that all paths share. Paths may be URLs."""
    # All paths are between these two in the order of text, so they start as these two do.
    first, last = min(paths, default=""), max(paths, default="")
    pairs = enumerate(zip(first, last, strict=False))
    start = first[: next((i for i, (a, b) in pairs if a != b), len(first))]
    return max(start.rfind("/"), start.rfind("\\")) + 1


def _name(prediction: Prediction, start: int) -> str:
    name: str = prediction["path"][start:]
    times = [prediction.get("start_seconds"), prediction.get("end_seconds")]
    if any(value is not None for value in times):
        name += f" ({times[0] or 0:g} s to {'the end' if times[1] is None else f'{times[1]:g} s'})"
    return name


def _listed(predictions: Iterable[Prediction], labels: Sequence[str], start: int) -> list[Any]:
    """Return short records of as many predictions as a page has space for."""
    number = {label: i for i, label in enumerate(labels)}

    def numbers(names: str | list[str]) -> int | list[int]:
        return number[names] if isinstance(names, str) else [number[name] for name in names]

    rows: list[Any] = []
    left = _LISTED_BYTES
    for p in predictions:
        row = [numbers(p["label"]), numbers(p["predicted"]), round(100 * p["score"], 1)]
        row.append(_name(p, start))
        left -= len(json.dumps(row, separators=COMPACT)) + 1
        if left < 0:
            break
        rows.append(row)
    return rows
