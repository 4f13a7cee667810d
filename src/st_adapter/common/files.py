"""Files that are written completely or not at all, JSON, and checks of folders."""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError

from st_adapter.errors import ArgumentError
from st_adapter.wording import setting

_UNFINISHED = ".st-adapter-unfinished"
"""Suffix of temporary files. It is unusual enough that only our files have it."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, and rename it to `path` once it is on disk.

    If the block fails, the temporary file is removed and an existing `path` is left unchanged.

    Raises:
        OSError: If the file cannot be written. Errors that torch and safetensors raise in this case
            are turned into this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}{_UNFINISHED}")
    try:
        temporary.touch(exist_ok=False)  # not mkstemp, which ignores the umask
    except PermissionError as error:
        raise PermissionError(f"{path}: no permission to write to {path.parent}") from error
    mode = temporary.stat().st_mode
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # safetensors puts a private file in its place
        temporary.replace(path)
    except (RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{path} cannot be written ({free:.1f} MB free on its disk): {reason}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, seconds_old: float = 0.0) -> None:
    """Remove temporary files of `atomic_path` that a killed process left behind.

    Args:
        folder: Folder to search, with its subfolders.
        seconds_old: Minimum age of the files to remove, so that files which other processes are
            still writing are kept.
    """
    newest = time.time() - seconds_old
    for path in folder.rglob(f".*{_UNFINISHED}"):
        if path.is_file():
            with suppress(OSError):  # it was renamed just now, or belongs to another user
                if path.stat().st_mtime <= newest:
                    path.unlink()


def no_folder(path: Path) -> str:
    """Say why a path is not a folder: "is a file" or "does not exist"."""
    return "is a file" if path.exists() else "does not exist"


def check_writable(folder: Path, name: str = "out") -> None:
    """Check that a folder can be created or written to.

    Args:
        folder: The folder; it does not have to exist.
        name: The setting that names it, for the message.

    Raises:
        ArgumentError: If the folder, or its first parent that exists, is a file or is read-only.
    """
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ArgumentError(f"{there} is a file; {setting(name)} must be a folder")
    if not os.access(there, os.W_OK):
        raise ArgumentError(
            f"{folder}: no permission to write to {there}; choose another {setting(name)}"
        )


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON. NaN and infinity become null."""
    text = json.dumps(finite(value), indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def append_json_line(path: Path, value: dict[str, Any]) -> None:
    """Append `value` to a file of JSON lines. NaN and infinity become null."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(value), allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Return plain values with null instead of NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """Read the objects of a file of JSON lines; return [] if the file does not exist.

    Reading stops at the first damaged line, because a crash can leave the last one incomplete.
    """
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArgumentError: If the file cannot be read or contains something else.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{file} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ArgumentError(f"{file} is damaged: expected a JSON object")
    return record
