"""What made a result: the command as it was given, and the versions of what ran."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("st-adapter", "torch", "torchvision", "timm", "av", "peft")


_COMMAND: ContextVar[str] = ContextVar("command", default="")


@contextmanager
def as_command(line: str) -> Iterator[None]:
    """Say that what is done inside carries out a command line."""
    before = _COMMAND.set(line)
    try:
        yield
    finally:
        _COMMAND.reset(before)


def command() -> str:
    """The command line that is carried out; empty in a program that calls the library."""
    return _COMMAND.get()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source
        return "not installed"
