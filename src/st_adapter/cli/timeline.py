"""The subcommand that finds out what happens when in long videos."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from st_adapter.cli import DONE, SOME_FAILED
from st_adapter.cli.imports import import_predictor
from st_adapter.cli.options import PATH, RUN_DEFAULTS, RUN_SETTINGS, verb
from st_adapter.cli.use import UNCALIBRATED
from st_adapter.common.clock import clock, parse_clock
from st_adapter.common.files import finite
from st_adapter.config import parse_views
from st_adapter.errors import ArgumentError, VideoError
from st_adapter.wording import setting

if TYPE_CHECKING:
    from st_adapter.evaluation.predict import Predictor
    from st_adapter.evaluation.timeline import Timeline

_SETTINGS = tuple(name for name in RUN_SETTINGS if name not in ("workers", "compile"))
_DEFAULTS = {name: value for name, value in RUN_DEFAULTS.items() if name in _SETTINGS}


def _seconds(text: str) -> float:
    try:
        return parse_clock(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_SPAN_OPTIONS = (
    click.option(
        "--window",
        type=float,
        help="Seconds that are scored together.  [default: the median length of training clips]",
    ),
    click.option(
        "--step",
        type=float,
        help="Seconds from the start of one window to the next. Spans start and end more exactly "
        "with a shorter one.  [default: a quarter of a window; one frame with --one-pass]",
    ),
    click.option(
        "--one-pass",
        is_flag=True,
        help="Run each sampled frame through the image model once, whatever the step. This is "
        "several times as fast, and scores differ slightly.",
    ),
    click.option(
        "--smooth",
        type=float,
        default=0.0,
        show_default=True,
        help="Seconds to average scores over.",
    ),
    click.option(
        "--min-seconds",
        type=float,
        default=0.0,
        show_default=True,
        help="Shortest span. A shorter one continues the span before it.",
    ),
    click.option(
        "--threshold",
        type=float,
        help="Lowest score at which a span gets a label.  [default: as `predict` decides]",
    ),
    click.option(
        "--background", metavar="LABEL", help="Class that means that nothing of interest happens."
    ),
    click.option(
        "--from",
        "start_seconds",
        type=_seconds,
        metavar="TIME",
        help="Start there: seconds, m:ss or h:mm:ss.  [default: the start]",
    ),
    click.option(
        "--to", "end_seconds", type=_seconds, metavar="TIME", help="End there.  [default: the end]"
    ),
)


def _span_options(function: Any) -> Any:
    for option in reversed(_SPAN_OPTIONS):
        function = option(function)
    return function


@verb(*_SETTINGS, defaults=_DEFAULTS)
@click.argument("run", type=PATH)
@click.argument("videos", type=PATH, nargs=-1, required=True)
@_span_options
@click.option(
    "--out",
    type=PATH,
    help="File to write instead of printing spans. Its ending says what: .json, .csv, .vtt, .srt, "
    ".html, .label-studio.json or .fiftyone.json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per video and line.")
@UNCALIBRATED
def timeline(
    run: Path,
    videos: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    uncalibrated: bool,
    **options: Any,
) -> int:
    """Find what happens when in long videos.

    Windows of a video are scored one after the other, and neighbouring windows with the same label
    are joined to spans with a start and an end. VIDEOS are video files, URLs of such files, or
    folders that contain them.
    """
    views = options.pop("views")
    model = {name: options.pop(name) for name in _SETTINGS if name in options}
    model |= {"views": parse_views(views) if views else None, "calibrated": not uncalibrated}
    _check_part(options["start_seconds"], options["end_seconds"])
    from st_adapter.evaluation.predict import expand

    paths = expand(videos)
    if out is not None:
        from st_adapter.report.timeline_files import find_format

        find_format(out, len(paths))
    predictor = import_predictor(run)(run, **model)
    found: list[Timeline] = []
    try:
        for path in paths:
            result = _find_spans(predictor, path, options)
            if isinstance(result, str):
                click.echo(f"skipped {result}", err=True)
            else:
                found.append(result)
            if as_json or out is None:
                _print(path, result, as_json=as_json, with_path=len(paths) > 1)
    finally:  # Ctrl-C does not lose the videos that are done
        if out is not None and found:
            _write(out, found, num_given=len(paths))
    return DONE if len(found) == len(paths) else SOME_FAILED


def _check_part(start_seconds: float | None, end_seconds: float | None) -> None:
    if end_seconds is not None and end_seconds <= (start_seconds or 0):
        raise ArgumentError(
            f"{setting('to')} {clock(end_seconds)} is not after {setting('from')} "
            f"{clock(start_seconds or 0)}"
        )


def _find_spans(predictor: "Predictor", path: Path, options: dict[str, Any]) -> "Timeline | str":
    """Return the timeline of a video, or the reason why it cannot be read."""
    from st_adapter.common.progress import bar
    from st_adapter.data.video.container import stated_seconds

    start, end = options["start_seconds"] or 0.0, options["end_seconds"] or math.inf
    total = max(0, round(min(stated_seconds(path), end) - start))
    done = 0

    def advance(seconds: float) -> None:
        nonlocal done
        progress.advance(int(seconds) - done)
        done = int(seconds)

    with bar(f"{path.name}, seconds", total) as progress:
        try:
            return predictor.timeline(path, **options, advance=advance)
        except VideoError as error:
            return str(error)


def _print(path: Path, result: "Timeline | str", *, as_json: bool, with_path: bool) -> None:
    if as_json:
        failure = {"path": str(path), "error": result}
        record = failure if isinstance(result, str) else result.to_json()
        click.echo(json.dumps(finite(record)))
    elif not isinstance(result, str):
        _print_spans(result, with_path=with_path)


def _write(out: Path, found: "list[Timeline]", num_given: int) -> None:
    from st_adapter.common.remarks import say
    from st_adapter.data.formats.listing import counted
    from st_adapter.report.timeline_files import write_timelines

    write_timelines(out, found, as_list=num_given > 1)
    spans = counted(sum(len(timeline.spans) for timeline in found), "span")
    say(f"wrote {out}: {spans} of {counted(len(found), 'video')}")


def _print_spans(timeline: "Timeline", *, with_path: bool) -> None:
    """Print the spans of a video, one per line.

    Args:
        timeline: The timeline of the video.
        with_path: Print the path of the video above them.
    """
    from st_adapter.cli.table import print_table

    if with_path:
        click.echo(f"{timeline.path}")
    if not timeline.spans:
        click.echo(f"no spans in {clock(timeline.duration_seconds)}")
        return
    print_table(
        (">start", ">end", "label", ">score"),
        (
            (
                clock(span.start_seconds),
                clock(span.end_seconds),
                span.label,
                f"{span.score:.1%}",
            )
            for span in timeline.spans
        ),
    )
