"""How messages name settings: flags for the command, arguments for a Python program."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

COMMAND: ContextVar[str] = ContextVar("command", default="")
"""The command line that is being run, or "" in a program that uses the library."""


def setting(name: str, value: object = "") -> str:
    """Name a setting, and perhaps a value, as the caller gives it.

    Call it where the message is made, not when a module is imported.

    Args:
        name: The flag without its dashes, such as "batch-size", or the name of the argument.
        value: A value to advise, or a placeholder in capitals, such as "FILE".

    Returns:
        `--batch-size`, `--precision float32` or `--weights FILE` while a command line is run.
        Otherwise `batch_size`, `precision="float32"` or `weights=FILE`.
    """
    if COMMAND.get():
        flag = f"--{name.replace('_', '-')}"
        return flag if value == "" else f"{flag} {value}"
    argument = name.replace("-", "_")
    if value == "":
        return argument
    is_word = isinstance(value, str) and not value.isupper()
    return f'{argument}="{value}"' if is_word else f"{argument}={value}"


def switch(name: str, *, on: bool = True) -> str:
    """Name a setting that is on or off, as the caller turns it on or off.

    Returns:
        `--flip` or `--no-flip` while a command line is run, otherwise `flip=True` or `flip=False`.
    """
    if COMMAND.get():
        return setting(name if on else f"no-{name}")
    return setting(name, on)


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line that gives these settings.

    >>> as_flags({"batch_size": 4, "flip": False, "kernel_size": (3, 1, 1)})
    ['--batch-size', '4', '--no-flip', '--kernel-size', '3', '1', '1']
    """
    words: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *map(str, values)]
    return words
