"""Draw the scores of a video over time, and its spans below them on the same axis."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from st_adapter.common.clock import clock
from st_adapter.evaluation.spans import Span
from st_adapter.evaluation.timeline import Timeline
from st_adapter.report.figures import QUIET, SERIES, STYLE, to_svg

_POINTS = 400
"""Most points of a line. Of more windows, the highest score of neighbouring ones is drawn: a mean
would hide short moments, which are what one looks for in a long video."""

_COLUMNS = 700
"""Columns that spans are drawn in. A shorter span takes one, and spans that touch become one."""

_TICK_SECONDS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)

_LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
"""One for each colour, for readers who cannot tell the colours apart."""

_NAME_LETTERS = 44


class Lane(NamedTuple):
    """One row of spans in the plot.

    Attributes:
        name: Text above the row: a label, or what the row sums up.
        spans: The spans in it.
        label: Number of the label whose scores are drawn in the same colour; None for no line.
    """

    name: str
    spans: list[Span]
    label: int | None


def choose_lanes(timeline: Timeline) -> list[Lane]:
    """Choose the labels to draw: those with the longest spans, and one row for all others.

    Without any span, the labels with the highest scores are drawn, which had no row otherwise.
    """
    labels = timeline.labels
    seconds = dict.fromkeys(labels, 0.0)
    for span in timeline.spans:
        seconds[span.label] += span.end_seconds - span.start_seconds
    highest = timeline.scores.max(0).tolist()
    ranked = sorted(range(len(labels)), key=lambda i: (-seconds[labels[i]], -highest[i]))
    present = {span.label for span in timeline.spans}
    shown = [i for i in ranked if labels[i] in present or not present][: len(SERIES)]
    lanes = [Lane(labels[i], [s for s in timeline.spans if s.label == labels[i]], i) for i in shown]
    names = {lane.name for lane in lanes}
    rest = [span for span in timeline.spans if span.label not in names]
    if rest:
        lanes.append(Lane(f"{len({s.label for s in rest})} other labels", rest, None))
    return lanes


def is_condensed(timeline: Timeline) -> bool:
    """Return whether there are more windows than points of a line."""
    return len(timeline.scores) > _POINTS


def timeline_plot(timeline: Timeline, lanes: Sequence[Lane], *, narrow: bool = False) -> str:
    """Draw scores as lines and spans as bars, over the part of the video that was looked at.

    Args:
        timeline: The scores.
        lanes: What to draw, as `choose_lanes` returns it.
        narrow: Draw for a phone.

    Returns:
        An SVG element.
    """
    start = float(timeline.window_starts[0])
    end = max([float(timeline.window_ends[-1]), *(span.end_seconds for span in timeline.spans)])
    with matplotlib.rc_context(STYLE):
        width, row = (4.7, 0.5) if narrow else (12.6, 0.46)
        # SVG has 72 units per inch, so that a pixel is what it will be in the file.
        figure = Figure((width, 2.9 + row * len(lanes)), dpi=72, layout="constrained")
        heights = [2.4, row * len(lanes)]
        upper, lower = figure.subplots(2, sharex=True, height_ratios=heights)
        _draw_lines(upper, timeline, lanes)
        _draw_lanes(lower, lanes, start, end)
        lower.set_xlim(start, max(end, start + 0.1))
        _label_times(lower, start, end, most=4 if narrow else 9)
        svg = to_svg(figure, f"scores and spans over time{', narrow' * narrow}")
    # Names are put in afterwards: matplotlib would take $ for mathematics, and its fonts lack many
    # letters, which the browser has.
    for number, lane in enumerate(lanes):
        svg = svg.replace(_placeholder(number), escape(shorten(lane.name)))
    return svg


def _draw_lines(axes: Axes, timeline: Timeline, lanes: Sequence[Lane]) -> None:
    middles = (timeline.window_starts + timeline.window_ends) / 2
    points = np.array_split(np.arange(len(middles)), min(_POINTS, len(middles)))
    times = [middles[numbers].mean() for numbers in points]
    drawn = [lane.label for lane in lanes if lane.label is not None]
    marker = "o" if len(times) == 1 else ""
    for label, colour, style in zip(drawn, SERIES, _LINE_STYLES, strict=False):
        values = [100 * timeline.scores[numbers, label].max() for numbers in points]
        axes.plot(times, values, color=colour, linestyle=style, linewidth=1.8, marker=marker)
    axes.set_ylim(0, 102)
    axes.set_ylabel("score, %")
    axes.tick_params(axis="x", labelbottom=False)


def _draw_lanes(axes: Axes, lanes: Sequence[Lane], start: float, end: float) -> None:
    for number, (lane, colour) in enumerate(zip(lanes, [*SERIES, QUIET], strict=False)):
        bars = columns_of(lane.spans, start, end)
        y = len(lanes) - 1 - number
        axes.broken_barh(bars, (y + 0.06, 0.4), color=QUIET if lane.label is None else colour)
        name = axes.text(
            *(0, y + 0.54),
            _placeholder(number),
            transform=axes.get_yaxis_transform(),
            fontsize=10.5,
        )
        name.set_in_layout(False)
    axes.set_ylim(0, max(1, len(lanes)))
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)


def columns_of(spans: Sequence[Span], start: float, end: float) -> list[tuple[float, float]]:
    """Return what spans cover of the plot, in columns, as pairs of start and length in seconds."""
    width = max(end - start, 0.1) / _COLUMNS
    covered = np.zeros(_COLUMNS, dtype=bool)
    for span in spans:
        first = min(_COLUMNS - 1, max(0, round((span.start_seconds - start) / width)))
        covered[first : max(first + 1, round((span.end_seconds - start) / width))] = True
    runs, position = [], 0
    for is_covered, group in groupby(covered.tolist()):
        length = len([*group])
        if is_covered:
            runs.append((start + position * width, length * width))
        position += length
    return runs


def _label_times(axes: Axes, start: float, end: float, most: int) -> None:
    step = next((s for s in _TICK_SECONDS if (end - start) / s <= most), _TICK_SECONDS[-1])
    ticks = np.arange(np.ceil(start / step), np.floor(end / step) + 1) * step
    axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.xaxis.set_ticklabels([clock(seconds, with_tenths=step < 1) for seconds in ticks])


def _placeholder(number: int) -> str:
    return f"lane-name-{number:02}"


def shorten(name: str) -> str:
    """Cut a name that is too long for a plot."""
    text = " ".join(name.split())
    return text if len(text) <= _NAME_LETTERS else f"{text[: _NAME_LETTERS - 1]}…"
