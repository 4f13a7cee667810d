"""What is said while work goes on: remarks, and bars with the time left.

Remarks of the library go to the logger `st_adapter`, for programs to show or to filter. The
command shows them on stderr; results go to stdout.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from rich.console import Console, RenderableType
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

_LOGGER = logging.getLogger("st_adapter")
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


@cache
def console() -> Console:
    """Stderr, as bars and remarks share it."""
    return Console(stderr=True, highlight=False)


def is_first_process() -> bool:
    """Whether this process speaks for all that train together."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Make a remark, in one line; of several processes that train together, the first does."""
    if is_first_process():
        _LOGGER.info(text)


def note(text: str) -> None:
    """Say what a user should know of; programs that set up no logging print it, too."""
    if is_first_process():
        _LOGGER.warning("note: %s", text)


def log(text: str) -> None:
    """Make a remark about progress where no bar can be seen, in a log file for example."""
    if not console().is_terminal:
        say(text)


class _OnConsole(logging.Handler):
    """Prints remarks above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one remark."""
        console().print(record.getMessage(), markup=False, soft_wrap=True)


def show_remarks() -> None:
    """Print remarks on stderr from now on, as the command does."""
    if not remarks_are_shown():
        _LOGGER.addHandler(_OnConsole())
        _LOGGER.setLevel(logging.INFO)


def remarks_are_shown() -> bool:
    """Whether `show_remarks` was called in this process."""
    return any(isinstance(handler, _OnConsole) for handler in _LOGGER.handlers)
