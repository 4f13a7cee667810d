"""What is said while work goes on.

Remarks of the library go to the logger `st_adapter`, for programs to show or to filter. The
command shows them on stderr; results go to stdout.
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
    """Stderr, as bars and remarks share it."""
    from rich.console import Console  # not for --help alone

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Make a remark, in one line; of several processes that train together, the first does."""
    if is_first_process():
        _LOGGER.info(text)


def note(text: str) -> None:
    """Say what a user should know of; programs that set up no logging print it, too."""
    if is_first_process():
        _LOGGER.warning("note: %s", text)


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
