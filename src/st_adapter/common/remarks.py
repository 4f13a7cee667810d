"""Messages about the progress of work.

The library logs them to the logger `st_adapter`, so that programs can show or filter them. The
command prints them on stderr and keeps stdout for results.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from st_adapter.common.ranks import is_first_process

if TYPE_CHECKING:
    from rich.console import Console

_LOGGER = logging.getLogger("st_adapter")


@cache
def console() -> Console:
    """Return the console on stderr that progress bars and messages share."""
    from rich.console import Console  # slow to import, and --help does not need it

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Log one line of information; of several processes, only the first one logs."""
    if is_first_process():
        _LOGGER.info("%s", text)


def note(text: str) -> None:
    """Log a warning. Python prints it even if a program has not configured logging."""
    if is_first_process():
        _LOGGER.warning("note: %s", text)


class _OnConsole(logging.Handler):
    """Prints messages above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        console().print(record.getMessage(), markup=False, soft_wrap=True)


def show_remarks() -> None:
    """Print all messages on stderr from now on, as the command does."""
    if not remarks_are_shown():
        _LOGGER.addHandler(_OnConsole())
        _LOGGER.setLevel(logging.INFO)


def remarks_are_shown() -> bool:
    """Return whether `show_remarks` was called in this process."""
    return any(isinstance(handler, _OnConsole) for handler in _LOGGER.handlers)
