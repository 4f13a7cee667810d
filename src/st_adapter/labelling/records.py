"""The contents of a row: its columns, and how predictions are written into them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from st_adapter.common.task import Task
from st_adapter.data.videos import Skipped, Video
from st_adapter.evaluation.predict import Prediction
from st_adapter.labelling.runs import Run

Kind = Literal["text", "number", "texts", "numbers"]
"""Kind of the values in a column. Any value can be missing, which is None."""

Columns = Mapping[str, Kind]
"""Names and kinds of the columns of a table, in order."""

Record = dict[str, Any]
"""Values of a row by the names of the columns."""

TIMES = ("start_seconds", "end_seconds")

_DIGITS = 6
"""Decimal places of scores, as `predict --json` prints them."""


def columns_of(runs: Sequence[Run], has_segments: bool) -> dict[str, Kind]:
    """Return the columns of a table of labels.

    Args:
        runs: The runs. If there are several, the columns of each start with its name.
        has_segments: Whether rows have a start and an end.
    """
    columns: dict[str, Kind] = {"path": "text"}
    if has_segments:
        columns |= dict.fromkeys(TIMES, "number")
    for run in runs:
        start, task = prefix(run, runs), run.spec.task
        columns[f"{start}predicted"] = "text" if task == Task() else "texts"
        for head in ("", *(f"{name}." for name, _ in task.heads)):
            columns[f"{start}{head}labels"] = "texts"
            columns[f"{start}{head}scores"] = "numbers"
    return columns | {"error": "text"}


def prefix(run: Run, runs: Sequence[Run]) -> str:
    """Return what the names of a run's columns start with: nothing if it is the only run."""
    return f"{run.name}." if len(runs) > 1 else ""


def make_record(
    columns: Columns, name: str, video: Video, results: Mapping[str, Prediction | Skipped], top: int
) -> Record:
    """Write the results of all runs for one video into a row.

    Args:
        columns: Columns of the table.
        name: Path or URL of the video. `video.path` does not keep the slashes of a URL.
        video: The video.
        results: The result of each run, by the prefix of its columns.
        top: Number of labels per head.
    """
    record: Record = dict.fromkeys(columns)
    record["path"] = name
    if TIMES[0] in columns:
        record |= {TIMES[0]: video.start_seconds, TIMES[1]: video.end_seconds}
    for start, result in results.items():
        if isinstance(result, Skipped):
            record["error"] = record["error"] or result.reason
            continue
        record[f"{start}predicted"] = result.predicted
        named = {"": result.scores} | {f"{name}.": pairs for name, pairs in result.heads.items()}
        for head, pairs in named.items():
            record[f"{start}{head}labels"] = [label for label, _ in pairs[:top]]
            record[f"{start}{head}scores"] = [_rounded(score) for _, score in pairs[:top]]
    return record


def _rounded(score: float) -> float | None:
    """Round a score; that of a diverged model can be NaN, which JSON does not have."""
    return round(score, _DIGITS) if math.isfinite(score) else None
