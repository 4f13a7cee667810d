"""Draw plots as SVG to embed in a page, in the colours of the page."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

_COLOURS = {
    "#010203": "var(--ink)",
    "#010204": "var(--line)",
    "#010205": "var(--main)",
    "#010206": "var(--wrong)",
    "#010207": "var(--quiet)",
    **{f"#01021{i}": f"var(--series-{i})" for i in range(1, 7)},
}
"""From placeholder colours to variables of the page's style, which change in dark mode.

matplotlib accepts only real colours, so plots are drawn in the placeholders, and `to_svg` replaces
them in the text of the SVG.
"""

INK, LINE, MAIN, WRONG, QUIET, *SERIES = _COLOURS
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SIZE = (5.2, 3.2)
"""Inches. A column of a third of the page, and a phone, show this size without scaling."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class MethodPoint:
    """A method in the plot of scores against parameters. Scores are from 0 to 1.

    Attributes:
        method: Name of the method.
        parameters: Number of trained parameters.
        score: Mean score over seeds.
        seeds: Lowest and highest score of a seed.
        interval: 95 % interval of the score, if it is known.
    """

    method: str
    parameters: float
    score: float
    seeds: tuple[float, float]
    interval: tuple[float, float] | None = None


def loss_curves(training: Sequence[Point], validation: Sequence[Point], kept_epoch: int) -> str:
    """Draw the training loss, smoothed, and the validation loss.

    Args:
        training: Pairs of epoch and mean loss since the point before.
        validation: Pairs of epoch and loss; may be empty.
        kept_epoch: Epoch to mark; 0 if there is none.

    Returns:
        An SVG element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        smooth = smoothed([loss for _, loss in training])
        axes.plot(*zip(*training, strict=True), color=QUIET, linewidth=1, alpha=0.35)
        epochs = [epoch for epoch, _ in training]
        axes.plot(epochs, smooth, color=QUIET, linewidth=2, label="training, smoothed")
        _plot_epochs(axes, validation, "validation", kept_epoch)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("loss")
        return to_svg(figure, "training and validation loss by epoch")


def score_curve(
    scores: Sequence[Point], baselines: Sequence[tuple[str, float]], kept_epoch: int, metric: str
) -> str:
    """Draw the score on the validation videos by epoch, and baselines as horizontal lines.

    Args:
        scores: Pairs of epoch and score from 0 to 1.
        baselines: Names and scores from 0 to 1.
        kept_epoch: Epoch to mark; 0 if there is none.
        metric: Name of the score.

    Returns:
        An SVG element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for (name, score), style in zip(baselines, (":", "-.", "--"), strict=False):
            axes.axhline(100 * score, color=QUIET, linestyle=style, label=name)
        _plot_epochs(axes, [(e, 100 * s) for e, s in scores], f"validation {metric}", kept_epoch)
        axes.set_ylim(0, 102)
        axes.set_ylabel(f"{metric}, %")
        return to_svg(figure, f"validation {metric} by epoch")


def _plot_epochs(axes: Axes, points: Sequence[Point], name: str, kept_epoch: int) -> None:
    """Plot values at the ends of epochs, and mark the kept epoch."""
    if points:
        marker = "o" if len(points) < 40 else ""
        axes.plot(*zip(*points, strict=True), color=MAIN, marker=marker, markersize=4, label=name)
    if kept_epoch:
        axes.axvline(kept_epoch, color=MAIN, linewidth=1, linestyle="--", zorder=1)
        where = (kept_epoch, 1.0)
        axes.annotate("kept", where, xycoords=("data", "axes fraction"), ha="center", va="bottom")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("epoch")
    axes.figure.legend(loc="outside upper left", ncols=2, handlelength=1.6, columnspacing=1.2)


def smoothed(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours, over about a tenth of all values.

    >>> smoothed([3.0, 1.0, 2.0])
    [3.0, 1.0, 2.0]
    >>> smoothed([0.0] * 15 + [16.0] * 15)[13:17]
    [0.0, 5.333333333333333, 10.666666666666666, 16.0]
    """
    reach = len(values) // 20
    parts = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [float(np.mean(part)) for part in parts]


def reliability(bins: Sequence[tuple[float, float, int]]) -> str:
    """Draw the accuracy of predictions against their score.

    Args:
        bins: Mean score and accuracy, from 0 to 1, and number of videos of each group of
            predictions with similar scores.

    Returns:
        An SVG element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        axes.plot([0, 100], [0, 100], color=QUIET, linewidth=1, linestyle="--")
        most = max(count for *_, count in bins)
        for score, accuracy, count in bins:
            axes.plot([100 * score] * 2, [100 * score, 100 * accuracy], color=WRONG, linewidth=1.5)
            size = 18 + 160 * count / most
            axes.scatter(100 * score, 100 * accuracy, s=size, color=MAIN, zorder=3, clip_on=False)
        _percent_axes(axes, "score of the predicted class", "accuracy")
        return to_svg(figure, "accuracy against score")


def rate_curve(
    points: Sequence[Point], at: Point | None, chance: Sequence[Point], names: tuple[str, str]
) -> str:
    """Draw a curve over all thresholds, such as ROC, with the threshold in use marked.

    Args:
        points: The curve, from 0 to 1.
        at: The point of the threshold in use.
        chance: The curve of guessing.
        names: Labels of the two axes.

    Returns:
        An SVG element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        axes.plot(*_hundredfold(chance), color=QUIET, linewidth=1, linestyle="--")
        axes.plot(*_hundredfold(points), color=MAIN, linewidth=2)
        if at is not None:
            axes.plot(*_hundredfold([at]), "o", color=WRONG, markersize=8, zorder=3, clip_on=False)
        _percent_axes(axes, *names)
        return to_svg(figure, f"{names[1]} against {names[0]}")


def _hundredfold(points: Sequence[Point]) -> list[list[float]]:
    return [[100 * value for value in values] for values in zip(*points, strict=True)]


def _percent_axes(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-1, 102), ylim=(-1, 102), xlabel=f"{x}, %", ylabel=f"{y}, %")


def frontier(points: Sequence[MethodPoint], metric: str, *, narrow: bool = False) -> str:
    """Draw the score of each method against its number of trained parameters.

    A line connects the methods that score higher than every method with fewer parameters. The axis
    of scores starts at 0, or at a number that its label states.

    Args:
        points: The methods.
        metric: Name of the score.
        narrow: Draw for a phone.

    Returns:
        An SVG element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes((4.7, 5.4) if narrow else (9.4, 5.8))
        best = undominated([(point.parameters, point.score) for point in points])
        axes.plot(*zip(*[(c, 100 * a) for c, a in best], strict=True), color=LINE, linewidth=2)
        for point in points:
            colour = MAIN if point.method == "st-adapter" else QUIET
            for ends, width in ((point.interval, 1.2), (point.seeds, 3.5)):
                if ends:
                    heights = [100 * end for end in ends]
                    at = [point.parameters] * 2
                    axes.plot(at, heights, color=colour, linewidth=width, alpha=0.4)
            axes.plot(point.parameters, 100 * point.score, "o", color=colour, markersize=7)
        start = axis_start([100 * min(*p.seeds, *(p.interval or p.seeds)) for p in points])
        axes.set_ylim(start, 102)
        note = f" (axis starts at {start} %)" if start else ""
        axes.set(xscale="log", xlabel="trained parameters", ylabel=f"{metric}, %{note}")
        axes.margins(x=0.12)
        axes.grid(axis="x", visible=False)
        _label_apart(figure, axes, points)
        return to_svg(figure, f"{metric} against trained parameters{', narrow' * narrow}")


def axis_start(values: Sequence[float]) -> int:
    """Return where an axis of percentages starts: at 0, unless all values are above 50.

    >>> axis_start([12.0, 90.0]), axis_start([81.0, 90.0])
    (0, 70)
    """
    lowest = min(values)
    return 10 * math.floor(lowest / 10) - 10 if lowest > 50 else 0


def _label_apart(figure: Figure, axes: Axes, points: Sequence[MethodPoint]) -> None:
    """Write the name of each point near it, where it covers no other name, point or bar."""
    canvas = FigureCanvasAgg(figure)
    # Settles the layout, so that positions in pixels are known.
    canvas.draw()  # type: ignore[no-untyped-call]
    spots = [axes.transData.transform((p.parameters, 100 * p.score)) for p in points]
    dots = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in spots]
    bars = [_bar(axes, point) for point in points]
    names: list[Bbox] = []
    for point, (x, y) in sorted(zip(points, spots, strict=True), key=lambda pair: -pair[1][1]):
        text = axes.annotate(point.method, (point.parameters, 100 * point.score), weight="bold")
        extent = text.get_window_extent()
        text.remove()

        def cost(place: tuple[float, Bbox]) -> float:
            away, box = place
            covered = [sum(map(box.overlaps, boxes)) for boxes in (names, dots, bars)]
            return 100 * covered[0] + 20 * covered[1] + 4 * covered[2] + away / 15

        places = _places(x, y, extent.width + 6, extent.height, axes.get_window_extent())
        away, box = min(places, key=cost)
        names.append(box)
        offset = (box.x0 + 3 - x, box.y0 + box.height / 2 - y)
        _write(axes, point, offset, with_line=away > 18)


def _bar(axes: Axes, point: MethodPoint) -> Bbox:
    """Return the space that the interval and the range of seeds of a point take, in pixels."""
    ends = (*point.seeds, *(point.interval or ()))
    (x, low), (_, high) = (
        axes.transData.transform((point.parameters, 100 * end)) for end in (min(ends), max(ends))
    )
    return Bbox.from_bounds(x - 3, low, 6, high - low)


def _places(
    x: float, y: float, width: float, height: float, frame: Bbox
) -> list[tuple[float, Bbox]]:
    """Return the boxes around a point that lie in the frame, each with its distance in pixels."""
    found = []
    for away, angle in product((14, 22, 34, 50, 70, 95, 125), np.arange(0, 2 * np.pi, np.pi / 8)):
        dx, dy = away * math.cos(angle), away * math.sin(angle)
        left = x + dx - width * (1 - max(-1.0, min(1.0, dx / 8))) / 2
        box = Bbox.from_bounds(left, y + dy - height / 2, width, height)
        if frame.containsx(box.x0) and frame.containsx(box.x1) and frame.containsy(box.y0):
            found.append((float(away), box))
    return found or [(14.0, Bbox.from_bounds(x - width - 14, y, width, height))]


def _write(axes: Axes, point: MethodPoint, offset: Point, *, with_line: bool) -> None:
    """Write a name, with a line to its point if that is not next to it."""
    line = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
    axes.annotate(
        point.method,
        (point.parameters, 100 * point.score),
        offset,
        textcoords="offset pixels",
        va="center",
        arrowprops=line if with_line else None,
        weight="bold" if point.method == "st-adapter" else "normal",
    )


def small_loss_curves(curves: dict[str, list[list[Point]]]) -> dict[str, str]:
    """Draw the smoothed training loss of each method as a small plot, all on the same scale.

    Args:
        curves: By method, for each seed pairs of step and loss.

    Returns:
        An SVG element for each method.
    """
    values = [point for seeds in curves.values() for points in seeds for point in points]
    last, highest = (max(column) for column in zip(*values, strict=True))
    plots = {}
    for method, seeds in curves.items():
        with matplotlib.rc_context(STYLE | {"font.size": 9}):
            figure, axes = _axes((2.3, 1.5))
            colour = MAIN if method == "st-adapter" else QUIET
            for points in seeds:
                steps = [step for step, _ in points]
                losses = smoothed([loss for _, loss in points])
                axes.plot(steps, losses, color=colour, linewidth=1.3)
            axes.set(xlim=(0, 1.02 * last), ylim=(0, 1.05 * highest))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
            plots[method] = to_svg(figure, f"training loss of {method} by step")
    return plots


def undominated(points: Sequence[Point]) -> list[Point]:
    """Return the (cost, gain) points that gain more than every cheaper point, by rising cost.

    >>> undominated([(3, 0.8), (1, 0.5), (2, 0.4)])
    [(1, 0.5), (3, 0.8)]
    """
    kept: list[Point] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or gain > kept[-1][1]:
            kept.append((cost, gain))
    return kept


def _axes(size: Point = _SIZE) -> tuple[Figure, Axes]:
    # SVG has 72 units per inch, so that a pixel is what it will be in the file.
    figure = Figure(figsize=size, dpi=72, layout="constrained")
    return figure, figure.subplots()


def to_svg(figure: Figure, label: str) -> str:
    """Return the figure as an SVG element with a text alternative for screen readers.

    Metadata, identifiers and a fixed size are removed: they belong in a file of its own.
    """
    stream = io.StringIO()
    # Identifiers are made from this salt; they must differ between the figures of a page.
    options: dict[Any, Any] = {"svg.hashsalt": label}
    with matplotlib.rc_context(options):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    for placeholder, colour in _COLOURS.items():
        text = text.replace(placeholder, colour)
    kind = ' class="narrow"' if label.endswith("narrow") else ""
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}"{kind} ', 1)
