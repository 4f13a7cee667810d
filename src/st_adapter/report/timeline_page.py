"""The HTML page of a timeline: scores over time, and a table of spans with a picture each."""

import time
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from st_adapter.common.clock import clock
from st_adapter.common.progress import bar
from st_adapter.common.provenance import command, date, versions
from st_adapter.data.video.reader import Reader
from st_adapter.errors import VideoError
from st_adapter.evaluation.spans import Span
from st_adapter.evaluation.timeline import Timeline
from st_adapter.report.page import render
from st_adapter.report.parts import data_uri, moment, percent
from st_adapter.report.timeline_plot import choose_lanes, is_condensed, timeline_plot

_MOST_ROWS = 3000
_MOST_PICTURES = 120
_PICTURE_BYTES = 900_000
_PICTURE_SECONDS = 60.0
_PICTURE_HEIGHT = 72
"""Limits that keep a page below 3 MB, and quick to make."""


def timeline_page(timeline: Timeline, folder: Path) -> str:
    """Return a self-contained page about a timeline.

    Args:
        timeline: The timeline. Its video is read again for the pictures, if it is still there.
        folder: The folder that the page will be in. If the video is in it or below, the page can
            play the video.
    """
    spans = timeline.spans[:_MOST_ROWS]
    pictures = _middle_frames(timeline.path, spans)
    lanes = choose_lanes(timeline)
    plots = [timeline_plot(timeline, lanes, narrow=narrow) for narrow in (True, False)]
    return render(
        "timeline.html",
        title=f"Timeline of {timeline.path.name}",
        meta=_meta(timeline),
        tiles=_tiles(timeline),
        plots=plots,
        condensed=is_condensed(timeline),
        labels=_labels(timeline),
        spans=[_row(span, pictures.get(i)) for i, span in enumerate(spans)],
        num_spans=len(timeline.spans),
        num_pictures=len(pictures),
        video=_link(timeline.path, folder),
        command=command(),
        versions=versions(),
    )


def _meta(timeline: Timeline) -> list[tuple[str, str]]:
    way = "each frame once" if timeline.one_pass else "each by itself"
    start, end = float(timeline.window_starts[0]), float(timeline.window_ends[-1])
    whole = start == 0 and end > timeline.duration_seconds - timeline.step_seconds
    return [
        ("Video", str(timeline.path)),
        ("Part", "" if whole else f"{clock(start)} to {clock(end)}"),
        ("Windows", f"{timeline.window_seconds:g} s every {timeline.step_seconds:g} s, {way}"),
        ("Date", moment(date())),
    ]


def _tiles(timeline: Timeline) -> list[tuple[str, str, str]]:
    spans = timeline.spans
    present = len({span.label for span in spans})
    rate = f"{timeline.frames_per_second:.4g} frames per second"
    return [
        ("Length", clock(timeline.duration_seconds), rate),
        ("Windows", f"{len(timeline.scores):,}", ""),
        ("Spans", f"{len(spans):,}", ""),
        ("Labels", f"{present}", f"of {len(timeline.labels)} classes"),
    ]


def _labels(timeline: Timeline) -> list[dict[str, Any]]:
    """Return how often and how long each label occurs, the longest first."""
    lasts: dict[str, list[float]] = {}
    for span in timeline.spans:
        lasts.setdefault(span.label, []).append(span.end_seconds - span.start_seconds)
    seconds = float(timeline.window_ends[-1] - timeline.window_starts[0])
    rows = [
        {
            "name": name,
            "count": len(each),
            "total": clock(sum(each)),
            "seconds": sum(each),
            "longest": clock(max(each)),
            "longest_seconds": max(each),
            "share": min(1.0, sum(each) / max(seconds, 1e-3)),
        }
        for name, each in lasts.items()
    ]
    return sorted(rows, key=lambda row: -float(str(row["seconds"])))


def _row(span: Span, picture: str | None) -> dict[str, Any]:
    return {
        "label": span.label,
        "start": clock(span.start_seconds),
        "end": clock(span.end_seconds),
        "start_seconds": span.start_seconds,
        "end_seconds": span.end_seconds,
        "length": span.end_seconds - span.start_seconds,
        "score": percent(span.score),
        "picture": picture,
    }


def _link(path: Path, folder: Path) -> str | None:
    """Return the address of a video in the folder of the page, or below it; otherwise None."""
    if not path.is_file() or not path.absolute().is_relative_to(folder.absolute()):
        return None
    return quote(Path(relpath(path, folder)).as_posix())


def _middle_frames(path: Path, spans: Sequence[Span]) -> dict[int, str]:
    """Return the middle frame of each of the longest spans, as a data URI, by number of the span.

    The video is decoded once, in order.
    """
    longest = sorted(
        range(len(spans)), key=lambda i: spans[i].start_seconds - spans[i].end_seconds
    )[:_MOST_PICTURES]
    spans_of: dict[int, list[int]] = {}
    for i in longest:
        middle = (spans[i].start_frame + spans[i].end_frame - 1) // 2
        spans_of.setdefault(middle, []).append(i)
    found: dict[int, str] = {}
    if not path.exists() or not longest:
        return found
    left, end = _PICTURE_BYTES, time.monotonic() + _PICTURE_SECONDS
    reader = Reader()
    try:
        info = reader.probe(path)
        frames = reader.stream_frames(path, sorted(spans_of), _PICTURE_HEIGHT, info, True)
        with bar("pictures of spans", len(spans_of)) as progress:
            for number, frame in frames:
                picture = _to_uri(Image.fromarray(frame))
                left -= len(picture) * len(spans_of[number])
                if left < 0 or time.monotonic() > end:
                    break
                found |= dict.fromkeys(spans_of[number], picture)
                progress.advance()
    except (VideoError, OSError):
        pass  # a damaged file has pictures up to the damage
    return found


def _to_uri(picture: Image.Image) -> str:
    picture.thumbnail((2 * _PICTURE_HEIGHT, 2 * _PICTURE_HEIGHT))
    return data_uri(picture, "jpeg")
