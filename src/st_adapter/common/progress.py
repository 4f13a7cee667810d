"""Bars with the time left, on stderr, which they share with remarks."""

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
    """A bar with rows of facts under it."""

    facts: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, then as many rows as the width of the terminal asks for."""
        yield from super().get_renderables()
        yield from (Text(row, no_wrap=True) for row in rows(self.facts, console().width))


class Bar:
    """One running bar."""

    def __init__(self, progress: _Bars, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1) -> None:
        """Move on."""
        self._progress.advance(self._task, steps)

    def tell(self, *facts: str) -> None:
        """Say some short things under the bar, in place of what was said before."""
        self._progress.facts = facts


@contextmanager
def bar(text: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show a bar of `total` steps with elapsed and remaining time. It goes away when done."""
    progress = _Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=max(4, min(24, console().width - 50))),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
        disable=not (console().is_terminal and is_first_process()),
    )
    with progress:
        yield Bar(progress, progress.add_task(text, total=total, completed=done))


def rows(facts: Iterable[str], width: int) -> list[str]:
    """Facts side by side, whole, in rows that a terminal of `width` columns holds."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + 3 + len(fact) <= width:
            lines[-1] += f"   {fact}"
        else:
            lines.append(f"  {fact}")
    return lines


def trend(values: Sequence[float]) -> str:
    """Values as a row of bars, the largest of them highest; empty where they cannot be shown."""
    if len(values) < 2 or console().options.ascii_only:
        return ""
    low, high = min(values), max(values)
    scale = (len(_HEIGHTS) - 1) / ((high - low) or 1.0)
    return "".join(_HEIGHTS[round((value - low) * scale)] for value in values)


def log(text: str) -> None:
    """Make a remark about progress where no bar can be seen, in a log file for example."""
    if not console().is_terminal:
        say(text)
