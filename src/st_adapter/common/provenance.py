"""Provenance of results: the command line and the versions of the packages."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("st-adapter", "torch", "torchvision", "timm", "av", "peft")
"""Packages whose versions can change results."""


_COMMAND: ContextVar[str] = ContextVar("command", default="")


@contextmanager
def as_command(line: str) -> Iterator[None]:
    """Record that everything inside this block is done for the command line `line`."""
    before = _COMMAND.set(line)
    try:
        yield
    finally:
        _COMMAND.reset(before)


def command() -> str:
    """Return the current command line, or "" in a program that uses the library."""
    return _COMMAND.get()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # for example when the source is run without installing it
        return "not installed"
