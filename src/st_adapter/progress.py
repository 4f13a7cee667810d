"""What a terminal shows while work goes on: bars with the time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)
"""Progress and remarks go to stderr; results go to stdout."""


class Bar:
    """One running bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1) -> None:
        """Move on."""
        self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Say something short behind the bar."""
        self._progress.update(self._task, note=text)


@contextmanager
def bar(text: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show a bar of `total` steps with elapsed and remaining time. It goes away when done."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        yield Bar(progress, progress.add_task(text, total=total, completed=done, note=""))


def log(text: str) -> None:
    """Print one line of progress where no bar can be seen, in a log file for example."""
    if not console.is_terminal:
        say(text)


def say(text: str) -> None:
    """Print one line of remark."""
    console.print(text, markup=False, soft_wrap=True)
