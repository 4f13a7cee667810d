"""What made a result: the command as it was given, and the versions of what ran."""

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("st-adapter", "torch", "torchvision", "timm", "av", "peft")


def command() -> str:
    """The command line of this process; empty where it is no `st-adapter` command."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name not in ("st-adapter", "__main__.py"):
        return ""
    return shlex.join(["st-adapter", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source
        return "not installed"
