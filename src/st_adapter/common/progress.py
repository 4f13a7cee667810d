"""Progress bars on stderr, with the time left and a few values below."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from st_adapter.common.ranks import is_first_process
from st_adapter.common.remarks import console, say

_HEIGHTS = "▁▂▃▄▅▆▇█"


class _Bars(Progress):
    """A progress bar with rows of short texts below it."""

    facts: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar, then as many rows as the texts need at the terminal's width."""
        yield from super().get_renderables()
        yield from (Text(row, no_wrap=True) for row in rows(self.facts, console().width))


class Bar:
    """A progress bar that is being shown."""

    def __init__(self, progress: _Bars, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more steps as done."""
        self._progress.advance(self._task, steps)

    def tell(self, *facts: str) -> None:
        """Show short texts below the bar, instead of the previous ones."""
        self._progress.facts = facts


@contextmanager
def bar(text: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show a progress bar with the time elapsed and left; remove it at the end of the block.

    Nothing is shown without steps, if stderr is not a terminal, or in any but the first of
    several processes.

    Args:
        text: Shown before the bar.
        total: Number of steps.
        done: Steps that are already done.
    """
    progress = _Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=max(4, min(24, console().width - 50))),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
        disable=not (total and console().is_terminal and is_first_process()),
    )
    with progress:
        yield Bar(progress, progress.add_task(text, total=total, completed=done))


def rows(facts: Iterable[str], width: int) -> list[str]:
    """Join texts into rows of at most `width` columns without splitting any of them."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + 3 + len(fact) <= width:
            lines[-1] += f"   {fact}"
        else:
            lines.append(f"  {fact}")
    return lines


def trend(values: Sequence[float]) -> str:
    """Draw values as a row of small bars.

    Returns "" for fewer than two values, or if the terminal only shows ASCII characters.
    """
    if len(values) < 2 or console().options.ascii_only:
        return ""
    low, high = min(values), max(values)
    scale = (len(_HEIGHTS) - 1) / ((high - low) or 1.0)
    return "".join(_HEIGHTS[round((value - low) * scale)] for value in values)


def duration(seconds: float) -> str:
    """Format a time as "41 s", "3:25" (minutes and seconds) or "1:02:05"."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    hours, minutes = divmod(rounded // 60, 60)
    return f"{hours}:{minutes:02}:{rounded % 60:02}" if hours else f"{minutes}:{rounded % 60:02}"


def log(text: str) -> None:
    """Log a message only if no bar is shown, for example because stderr is a file."""
    if not console().is_terminal:
        say(text)
