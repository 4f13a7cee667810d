"""The picture of a model card: a confusion matrix, or the average precision of each label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

_NAMED, _COUNTED, _BARS = 30, 16, 30
"""Most classes whose names and whose counts are written, and most labels with a bar."""

_NAME_LENGTH = 24
_COLOUR = "#4084c4"


def draw_result(path: Path, measures: dict[str, Any]) -> None:
    """Draw how well each class is recognised, and write it as PNG.

    Args:
        path: File to write.
        measures: An evaluation as in `eval.json`.
    """
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 10}):
        if measures["confusion"]:
            figure = _confusion(measures["labels"], np.array(measures["confusion"]))
        else:
            figure = _bars(measures["per_class"])
        figure.savefig(path, dpi=110)


def _confusion(labels: Sequence[str], counts: np.ndarray) -> Figure:
    """Draw the counts of true classes (rows) and predicted classes (columns)."""
    side = 3.2 + 0.32 * min(len(labels), _NAMED)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(labels) <= _NAMED:
        names = _drawable(labels)
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    if len(labels) <= _COUNTED:
        _write_counts(axes, counts, share)
    return figure


def _write_counts(axes: Axes, counts: np.ndarray, share: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=colour)


def _bars(per_class: dict[str, dict[str, Any]]) -> Figure:
    """Draw the average precision of the labels, the lowest ones if there are many."""
    known = {k: v["average_precision"] for k, v in per_class.items() if v["num_videos"]}
    shown = dict(sorted(known.items(), key=lambda item: item[1])[:_BARS])
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    values = [100 * value for value in shown.values()]
    axes.barh(range(len(shown)), values, color=_COLOUR)
    axes.set_yticks(range(len(shown)), _drawable([*shown]), parse_math=False)
    which = "" if len(shown) == len(known) else f", {_BARS} lowest of {len(known)}"
    axes.set(xlim=(0, 100), xlabel=f"average precision, %{which}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _drawable(labels: Sequence[str]) -> list[str]:
    """Return short names of classes, or their numbers if the font cannot write their names."""
    characters = get_font(findfont(FontProperties())).get_charmap()
    if any(ord(character) not in characters for label in labels for character in label):
        return [f"class {number}" for number in range(len(labels))]
    return [x if len(x) <= _NAME_LENGTH else f"{x[: _NAME_LENGTH - 1]}…" for x in labels]
