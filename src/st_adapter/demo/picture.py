"""Draw the demo's picture: a bar chart of accuracy above film strips of the classes."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from st_adapter.data.film_strip import film_strip
from st_adapter.data.video import decode
from st_adapter.demo import clips

_COLOURS = ("#9aa5b1", "#5b8fc9", "#d9632a")


def draw_comparison(path: Path, test_clips: Path, bars: dict[str, dict[str, float]]) -> None:
    """Draw the picture and write it as PNG.

    Args:
        path: File to write.
        test_clips: Folder of the class folders. One clip of each pair is shown.
        bars: Accuracy from 0 to 1, by method and then by group of classes.
    """
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(9, 8.5), layout="constrained")
        axes = figure.subplots(
            1 + len(clips.PAIRS), 1, height_ratios=[3.2] + [1] * len(clips.PAIRS)
        )
        _draw_bars(axes[0], bars)
        for row, pair in zip(axes[1:], clips.PAIRS, strict=True):
            video = sorted((test_clips / pair.forward).glob("*.mp4"))[0]
            frames = decode.read_frames(video, range(clips.CLIP_FRAMES))
            row.imshow(film_strip(frames, gap=3))
            row.set_title(f"→ {pair.forward}          ← {pair.backward}", fontsize=10)
            row.axis("off")
        figure.savefig(path, dpi=110)


def _draw_bars(axes: Axes, bars: dict[str, dict[str, float]]) -> None:
    width = 0.8 / len(bars)
    for i, (method, values) in enumerate(bars.items()):
        places = [x + (i - (len(bars) - 1) / 2) * width for x in range(len(values))]
        heights = [100 * value for value in values.values()]
        drawn = axes.bar(places, heights, width * 0.92, color=_COLOURS[i], label=method)
        axes.bar_label(drawn, fmt="%.0f", fontsize=8)
    groups = [name.replace(" / ", " /\n") for name in next(iter(bars.values()))]
    axes.set_xticks(range(len(groups)), groups)
    axes.axhline(50, color="#555555", linewidth=1, linestyle=":")
    axes.set_xlim(-0.5, len(groups) - 0.1)
    axes.text(len(groups) - 0.12, 51, "blind\nto order", fontsize=8, color="#555555", ha="right")
    axes.set_ylim(0, 124)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("top-1 accuracy on new photographs, %")
    axes.legend(ncols=len(bars), loc="upper center", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
