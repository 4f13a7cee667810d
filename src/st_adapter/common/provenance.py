"""Provenance of results: command line, date, machine, and versions of the packages."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from st_adapter.wording import COMMAND

_PACKAGES = ("st-adapter", "torch", "torchvision", "timm", "av", "peft")
"""Packages whose versions can change results."""

_OPTIONAL = ("transformers", "open_clip_torch", "torchcodec")
"""The same, of packages that only extras install."""


_MISSING = "not installed"


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


def date() -> str:
    """Return the date and time, to the second, with the offset from UTC."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def machine(gpu: str = "") -> str:
    """Describe this machine: processor, cores and memory, and the GPU that was used, if any."""
    cores, memory = os.cpu_count() or 1, psutil.virtual_memory().total / 2**30
    parts = [gpu] if gpu else []
    parts += [_processor(), f"{cores} core{'' if cores == 1 else 's'}", f"{memory:.0f} GB"]
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*names, platform.processor()]), platform.machine())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {name: _version(name) for name in _PACKAGES}
    extras = {name: number for name in _OPTIONAL if (number := _version(name)) != _MISSING}
    return {"python": platform.python_version()} | found | extras


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # for example when the source is run without installing it
        return _MISSING
