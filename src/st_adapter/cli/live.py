"""The subcommand that labels a camera or a stream."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from st_adapter.cli.imports import import_predictor
from st_adapter.cli.options import PATH, RUN_DEFAULTS, verb
from st_adapter.cli.use import THRESHOLD, UNCALIBRATED, records
from st_adapter.config import parse_views

if TYPE_CHECKING:
    from st_adapter.evaluation.watch import LiveResult

_SETTINGS = ("weights", "frames", "size", "views", "precision", "device")


@verb(*_SETTINGS, defaults=RUN_DEFAULTS)
@click.argument("run", type=PATH)
@click.argument("source")
@click.option(
    "--step",
    type=float,
    help="Seconds from one line to the next, to the nearest frame that is looked at.  [default: a "
    "line for each of those]",
)
@click.option(
    "--window",
    type=float,
    help="Seconds that a line looks back.  [default: the median length of the training clips]",
)
@click.option(
    "--one-pass/--whole-clips",
    default=True,
    show_default=True,
    help="Run each frame through the image model once, when it arrives, or score the last frames "
    "as a clip, exactly as `predict` does, which costs a whole clip per line.",
)
@click.option("--seconds", type=float, help="Stop this long after the first picture.")
@click.option(
    "--timeout",
    type=float,
    default=10.0,
    show_default=True,
    help="Longest wait in seconds for a connection, and then for each picture.",
)
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, help="Labels per line."
)
@THRESHOLD
@UNCALIBRATED
def watch(
    run: Path,
    source: str,
    step: float | None,
    window: float | None,
    one_pass: bool,
    seconds: float | None,
    timeout: float,
    top: int,
    views: str | None,
    uncalibrated: bool,
    **options: Any,
) -> None:
    """Label a camera or a stream, live.

    SOURCE is a camera (0 or /dev/video0), an address (rtsp://, http://, https://, udp://, tcp://;
    tcp://...?listen waits for a sender), or a file, which plays at its own pace. Prints one JSON
    object per line. A stream that goes away is tried again until Ctrl-C.
    """
    chosen = parse_views(views) if views else None
    from st_adapter.data.live.source import parse_source
    from st_adapter.evaluation.watch import WatchOptions
    from st_adapter.evaluation.watch import watch as watch_source

    where = parse_source(source)
    how = WatchOptions(
        window_seconds=window,
        step_seconds=step,
        one_pass=one_pass,
        limit_seconds=seconds,
        timeout_seconds=timeout,
    )
    predictor = import_predictor(run)(run, views=chosen, calibrated=not uncalibrated, **options)
    with _quiet_end_of_pipe():
        for result in watch_source(predictor, where, how):
            click.echo(json.dumps(_record(result, top)))


def _record(result: "LiveResult", top: int) -> dict[str, Any]:
    labels = result.labels
    record: dict[str, Any] = {
        "time": result.arrived_at.isoformat(timespec="milliseconds"),
        "seconds": round(labels.seconds, 3),
        "predicted": labels.predicted,
        "predictions": records(labels.scores[:top]),
    }
    if labels.heads:
        record["heads"] = {name: records(pairs[:top]) for name, pairs in labels.heads.items()}
    return record | {
        "latency_seconds": round(result.latency_seconds, 3),
        "dropped_frames": result.dropped_frames,
    }


@contextmanager
def _quiet_end_of_pipe() -> Iterator[None]:
    """End without an error if stdout is closed, as after `| head`."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes stdout when it exits, which would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
