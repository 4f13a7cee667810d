"""Provenance of results: the command line and the versions of the packages."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from st_adapter.wording import COMMAND

_PACKAGES = ("st-adapter", "torch", "torchvision", "timm", "av", "peft")
"""Packages whose versions can change results."""


@contextmanager
def as_command(line: str) -> Iterator[None]:
    """Record that everything inside this block is done for the command line `line`."""
    before = COMMAND.set(line)
    try:
        yield
    finally:
        COMMAND.reset(before)


def command() -> str:
    """Return the current command line, or "" in a program that uses the library."""
    return COMMAND.get()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # for example when the source is run without installing it
        return "not installed"
