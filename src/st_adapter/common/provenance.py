"""What made a result: the command as it was given, and the versions of what ran."""

import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("st-adapter", "torch", "torchvision", "timm", "av", "peft")


_commands: list[str] = []
"""The last is that of this process."""


def note_command(line: str | Sequence[str]) -> None:
    """Say which command this process carries out: its line, or the arguments of `st-adapter`."""
    _commands.append(line if isinstance(line, str) else shlex.join(["st-adapter", *line]))


def command() -> str:
    """The command line of this process; empty in a program that calls the library."""
    return _commands[-1] if _commands else ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source
        return "not installed"
