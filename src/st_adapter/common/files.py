"""Files written whole or not at all."""

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

_UNFINISHED = ".st-adapter-unfinished"
"""Ending of the names of temporary files; nobody else's files end so."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes that name once it is whole and on disk.

    Raises:
        OSError: it cannot be written, by a library that says so in another way, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}{_UNFINISHED}")
    temporary.touch(exist_ok=False)  # with the permissions that the user's umask leaves
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{path} cannot be written, {free:.1f} MB are free there: {reason}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, seconds_old: float = 0.0) -> None:
    """Remove temporary files of `atomic_path` that a killed process left.

    Args:
        seconds_old: age from which a file counts as left, where others may be writing there.
    """
    newest = time.time() - seconds_old
    for path in folder.rglob(f".*{_UNFINISHED}"):
        if path.is_file():
            with suppress(OSError):  # it has its name now, or is not ours to remove
                if path.stat().st_mtime <= newest:
                    path.unlink()


def no_folder(path: Path) -> str:
    """What a path is that is no folder."""
    return "is a file" if path.exists() else "does not exist"


def check_writable(folder: Path, flag: str = "--out") -> None:
    """Raise ArgumentError where the folder that a flag names cannot be made or written to."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ArgumentError(f"{there} is a file; {flag} takes a folder")
    if not os.access(there, os.W_OK):
        raise ArgumentError(f"{folder}: {there} cannot be written to; choose another {flag}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinities, which JSON lacks, as null."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def append_json_line(path: Path, value: dict[str, Any]) -> None:
    """Append one object to a file of JSON lines."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_finite(value), allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects in a file; a last line that was torn by a crash is left out."""
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
        ArgumentError: it cannot be read.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{file} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ArgumentError(f"{file} is damaged: it holds no JSON object")
    return record
