"""Files that a timeline is written to: tables, subtitles, and what annotation tools import."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from st_adapter.common.files import atomic_path, check_writable, finite
from st_adapter.common.paths import full_path
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.spans import Span
from st_adapter.evaluation.timeline import Timeline
from st_adapter.wording import setting

_COLUMNS = (
    *("path", "start_seconds", "end_seconds", "start_frame", "end_frame"),
    *("label", "score"),
)


@dataclass(frozen=True)
class _Format:
    """How one kind of file is written.

    Attributes:
        write: Returns the text of the file. It is given the timelines and the path of the file.
        one_video: Whether a file has room for one video only.
    """

    write: Callable[[Sequence[Timeline], Path], str]
    one_video: bool = False


def write_timelines(path: Path, timelines: Sequence[Timeline], *, as_list: bool = False) -> None:
    """Write timelines to a file, in the format that its ending names.

    The file is complete or not written at all: an existing one stays until the new one is on disk.

    Args:
        path: The file. Its ending is one of `FORMATS`.
        timelines: One timeline or more; one for formats with room for one video.
        as_list: Write a list to .json even if there is only one timeline.

    Raises:
        ArgumentError: If the ending is not known, or the format takes one video and several are
            given.
        OSError: If the file cannot be written.
    """
    chosen = find_format(path, len(timelines))
    write = _to_json_list if as_list and chosen.write is _to_json else chosen.write
    text = write(timelines, path)
    with atomic_path(path) as temporary:
        # Names of files can contain what UTF-8 cannot encode.
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")


def find_format(path: Path, num_videos: int) -> _Format:
    """Return the format of a file by its ending.

    Args:
        path: The file to write.
        num_videos: How many videos it has to hold.

    Raises:
        ArgumentError: As in `write_timelines`, or if the file cannot be written there.
    """
    ending = max((e for e in FORMATS if path.name.lower().endswith(e)), key=len, default="")
    if not ending:
        raise ArgumentError(
            f"{path}: the ending of {setting('out')} says what to write; use one of "
            f"{', '.join(FORMATS)}"
        )
    if FORMATS[ending].one_video and num_videos > 1:
        several = [e for e in FORMATS if not FORMATS[e].one_video]
        raise ArgumentError(
            f"{path}: a {ending} file is about one video, and {num_videos} were given; use one of "
            f"{', '.join(several)}, or run once for each video"
        )
    if path.is_dir():
        raise ArgumentError(f"{path} is a folder; {setting('out')} must be a file")
    check_writable(path.parent)
    return FORMATS[ending]


def _to_json(timelines: Sequence[Timeline], path: Path) -> str:
    return _dump(timelines[0].to_json()) if len(timelines) == 1 else _to_json_list(timelines, path)


def _to_json_list(timelines: Sequence[Timeline], path: Path) -> str:
    return _dump([timeline.to_json() for timeline in timelines])


def _dump(value: Any) -> str:
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False) + "\n"


def _to_csv(timelines: Sequence[Timeline], path: Path) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for timeline in timelines:
        for span in timeline.spans:
            writer.writerow(
                [full_path(timeline.path), *(getattr(span, name) for name in _COLUMNS[1:])]
            )
    return text.getvalue()


def _to_vtt(timelines: Sequence[Timeline], path: Path) -> str:
    """Write WebVTT: https://www.w3.org/TR/webvtt1/#file-structure."""
    cues = [
        f"{_stamp(start, '.')} --> {_stamp(end, '.')}\n{_escape_vtt(text)}\n"
        for start, end, text in _cues(timelines[0].spans)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _to_srt(timelines: Sequence[Timeline], path: Path) -> str:
    """Write SubRip, which has no way to escape an arrow."""
    cues = [
        f"{number}\n{_stamp(start, ',')} --> {_stamp(end, ',')}\n{text.replace('-->', '→')}\n"
        for number, (start, end, text) in enumerate(_cues(timelines[0].spans), start=1)
    ]
    return "\n".join(cues)


def _cues(spans: Sequence[Span]) -> list[tuple[int, int, str]]:
    """Return start and end in milliseconds and a line of text for each span.

    A cue ends after its start, and its text has no line break, because an empty line ends a cue.
    """
    cues = []
    for span in spans:
        start, end = round(1000 * span.start_seconds), round(1000 * span.end_seconds)
        text = f"{' '.join(span.label.split())} {span.score:.0%}"
        cues.append((start, max(start + 1, end), text))
    return cues


def _stamp(milliseconds: int, point: str) -> str:
    seconds, fraction = divmod(milliseconds, 1000)
    hours, rest = divmod(seconds, 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}{point}{fraction:03}"


def _escape_vtt(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _to_label_studio(timelines: Sequence[Timeline], path: Path) -> str:
    """Write tasks with predictions for the tag TimelineLabels of Label Studio.

    https://labelstud.io/tags/timelinelabels. A range has whole frame numbers from 1, the last one
    included. Label Studio finds the time of a frame from its number and the frame rate `fps`, so
    that numbers are computed from times, which also holds for videos with a variable rate.
    """
    return _dump([_label_studio_task(timeline) for timeline in timelines])


def _label_studio_task(timeline: Timeline) -> dict[str, Any]:
    rate, spans = timeline.frames_per_second, timeline.spans
    results = []
    for number, span in enumerate(spans):
        first = round(span.start_seconds * rate) + 1
        last = max(first, round(span.end_seconds * rate))
        results.append(
            {
                "id": f"span-{number}",
                "from_name": "timelineLabels",
                "to_name": "video",
                "type": "timelinelabels",
                "value": {
                    "ranges": [{"start": first, "end": last}],
                    "timelinelabels": [span.label],
                },
                "score": span.score,
            }
        )
    mean = sum(span.score for span in spans) / max(1, len(spans))
    return {
        "data": {"video": str(timeline.path), "fps": rate},
        "predictions": [
            {"model_version": "st-adapter", "score": round(mean, 6), "result": results}
        ],
    }


def _to_fiftyone(timelines: Sequence[Timeline], path: Path) -> str:
    """Write labels.json of FiftyOneTemporalDetectionDataset.

    https://docs.voxel51.com/user_guide/import_datasets.html. Labels are numbers of classes. Frames
    are counted from 1, the last one included. Absolute paths need no folder of copied videos.
    """
    classes = list(dict.fromkeys(label for t in timelines for label in t.labels))
    number = {label: i for i, label in enumerate(classes)}
    return _dump(
        {
            "classes": classes,
            "labels": {
                full_path(timeline.path): [
                    {
                        "label": number[span.label],
                        "support": [
                            span.start_frame + 1,
                            max(span.start_frame + 1, span.end_frame),
                        ],
                        "confidence": span.score,
                    }
                    for span in timeline.spans
                ]
                for timeline in timelines
            },
        }
    )


def _to_html(timelines: Sequence[Timeline], path: Path) -> str:
    from st_adapter.report.timeline_page import timeline_page  # imports matplotlib, which is slow

    return timeline_page(timelines[0], path.parent)


FORMATS = {
    ".json": _Format(_to_json),
    ".csv": _Format(_to_csv),
    ".vtt": _Format(_to_vtt, one_video=True),
    ".srt": _Format(_to_srt, one_video=True),
    ".html": _Format(_to_html, one_video=True),
    ".label-studio.json": _Format(_to_label_studio),
    ".fiftyone.json": _Format(_to_fiftyone),
}
"""Formats by the ending of the file."""
