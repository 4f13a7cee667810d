"""Draw plots as SVG to embed in a page, in the colours of the page."""

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = {
    "#010203": "var(--ink)",
    "#010204": "var(--line)",
    "#010205": "var(--accent)",
    "#010206": "var(--second)",
    "#010207": "var(--quiet)",
}
"""From placeholder colours to variables of the page's style, which change in dark mode.

matplotlib accepts only real colours, so plots are drawn in the placeholders, and `_to_svg` replaces
them in the text of the SVG.
"""

_LABEL_DECADES = 0.9
"""Labels of points closer than this on the logarithmic axis may overlap."""

INK, LINE, ACCENT, SECOND, QUIET = _COLOURS
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def learning_curves(
    losses: Sequence[tuple[float, float]], scores: Sequence[tuple[float, float]], metric: str
) -> str:
    """Draw the training loss and, if there are any, the scores on the validation videos.

    Args:
        losses: Pairs of epoch and mean loss since the point before.
        scores: Pairs of epoch and score from 0 to 1; may be empty.
        metric: Name of the score.

    Returns:
        An SVG element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
        _plot(axes[0], losses, "training loss", ACCENT)
        axes[0].set_ylim(bottom=0)
        axes[0].set_xlim(left=0)
        if scores:
            _plot(axes[1], [(e, 100 * s) for e, s in scores], f"validation {metric}, %", SECOND)
            axes[1].set_xlim(left=0)
            axes[1].set_ylim(0, 100)
        return _to_svg(figure, "learning curves")


def frontier(points: Sequence[tuple[str, float, float, float, float]], metric: str) -> str:
    """Draw the score of each method against its number of trained parameters.

    A line connects the methods that score higher than every method with fewer parameters.

    Args:
        points: Tuples of method, trained parameters, and mean, lowest and highest score from 0 to
            1.
        metric: Name of the score.

    Returns:
        An SVG element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        best = undominated([(count, score) for _, count, score, _, _ in points])
        axes.plot(*zip(*[(c, 100 * a) for c, a in best], strict=True), color=QUIET, linewidth=1.5)
        for method, count, score, low, high in points:
            colour = ACCENT if method == "st-adapter" else SECOND
            axes.plot([count, count], [100 * low, 100 * high], color=colour, linewidth=1.2)
            axes.plot(count, 100 * score, "o", color=colour, markersize=7)
        _label_apart(axes, [(method, count, 100 * score) for method, count, score, _, _ in points])
        axes.set_xscale("log")
        axes.margins(x=0.2, y=0.18)
        axes.set_xlabel("trained parameters")
        axes.set_ylabel(f"{metric}, %")
        axes.grid(axis="y", color=LINE, linewidth=0.5)
        return _to_svg(figure, f"{metric} against trained parameters")


def _label_apart(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write names next to points, moved up if they would overlap."""
    low, high = axes.get_ylim()
    line_height = (high - low) / 22
    placed: list[tuple[float, float]] = []
    for name, x, y in sorted(points, key=lambda point: point[2]):
        near = [py for px, py in placed if abs(math.log10(px / x)) < _LABEL_DECADES]
        height = max([y, *(py + line_height for py in near if py + line_height > y)])
        placed.append((x, height))
        axes.annotate(name, (x, height), (7, 0), textcoords="offset points", va="center")


def loss_curves(curves: dict[str, list[tuple[float, float]]]) -> str:
    """Draw the training loss of each method in a plot of its own, all on the same scale.

    Args:
        curves: Pairs of step and loss, by method.

    Returns:
        An SVG element.
    """
    columns = 3
    with matplotlib.rc_context(_STYLE):
        lines = -(-len(curves) // columns)
        figure = Figure(figsize=(7, 0.6 + 1.5 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(curves) :]:
            axes.set_axis_off()
        for axes, (method, points) in zip(grid.flat, curves.items(), strict=False):
            colour = ACCENT if method == "st-adapter" else SECOND
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.3)
            axes.set_title(method, fontsize=11, loc="left")
            axes.grid(axis="y", color=LINE, linewidth=0.5)
        return _to_svg(figure, "training loss of each method over steps")


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, gain) points that gain more than every cheaper point, by rising cost.

    >>> undominated([(3, 0.8), (1, 0.5), (2, 0.4)])
    [(1, 0.5), (3, 0.8)]
    """
    kept: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or gain > kept[-1][1]:
            kept.append((cost, gain))
    return kept


def _plot(axes: Axes, points: Sequence[tuple[float, float]], title: str, colour: str) -> None:
    marker = "o" if len(points) < 12 else ""
    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("epoch")
    axes.grid(axis="y", color=LINE, linewidth=0.5)


def _to_svg(figure: Figure, label: str) -> str:
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
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
