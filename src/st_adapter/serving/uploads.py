"""Bodies of requests: the file goes to a private folder as it arrives, the fields to memory."""

import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError

from st_adapter.common.lock import LOCK_FILE, alone_in
from st_adapter.errors import ArgumentError
from st_adapter.serving.refusals import Refusal

_PREFIX = "st-adapter-serve-"
"""Start of the names of upload folders, by which the next start finds those of killed servers."""

_MOST_FIELDS = 100
_MOST_FIELD_BYTES = 4096
"""Limits of what is kept in memory of one request."""


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Create a folder that only this user can read, and remove it at the end of the block.

    Also removes the folders of killed servers, whose locks no process holds any more.
    """
    # Without a lock file, a folder belongs to a server that is just starting.
    for file in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{LOCK_FILE}"):
        folder = file.parent
        with suppress(ArgumentError, OSError):  # ArgumentError: in use
            # Other users could name a folder like ours, and link its lock to any file of this user.
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                with alone_in(folder):
                    shutil.rmtree(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with alone_in(folder):
            folder.chmod(0o700)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def receive(
    chunks: AsyncIterator[bytes], content_type: str, path: Path, max_bytes: int
) -> dict[str, list[str]]:
    """Write the file of a multipart body to a path.

    Args:
        chunks: The body.
        content_type: The header of that name.
        path: File to create.
        max_bytes: Largest body.

    Returns:
        The values of each other field.

    Raises:
        Refusal: The body is too large (413) or not a form with one file (400, 415, 422), or the
            disk is full (503).
    """
    received = 0
    try:
        with path.open("xb") as file:
            body = _Body(content_type, file)
            async for chunk in chunks:
                received += len(chunk)
                if received > max_bytes:
                    raise too_large(max_bytes)
                body.write(chunk)
            body.end()
    except OSError as error:
        raise Refusal(503, "the server has no room for the upload", retry_seconds=30) from error
    return body.fields


def too_large(max_bytes: int) -> Refusal:
    """Return the refusal of a body above the limit."""
    return Refusal(413, f"the request is larger than {max_bytes / 1e6:g} MB, the limit here")


def new_path(folder: Path) -> Path:
    """Return a path in a folder that no file has."""
    return folder / uuid4().hex


class _Body:
    """Takes a multipart body apart."""

    def __init__(self, content_type: str, file: BinaryIO) -> None:
        header = Message()
        header["content-type"] = content_type
        boundary = header.get_boundary()
        if header.get_content_type() != "multipart/form-data" or not boundary:
            raise Refusal(415, "send a form of type multipart/form-data with the video in `file`")
        self.fields: dict[str, list[str]] = {}
        self._file, self._num_files, self._ended = file, 0, False
        self._header, self._disposition = [b"", b""], b""
        self._name, self._value = "", bytearray()
        names = [name for name in dir(self) if name.startswith("on_")]
        callbacks: Any = {name: getattr(self, name) for name in names}
        try:
            self._parser = MultipartParser(boundary.encode("latin-1"), callbacks)
        except (FormParserError, UnicodeError) as error:
            raise Refusal(400, "the boundary of the form is not valid") from error

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        try:
            self._parser.write(chunk)
        except (FormParserError, UnicodeError) as error:
            raise Refusal(400, "the form is damaged") from error

    def end(self) -> None:
        """Check that the body is whole."""
        if not self._ended:
            raise Refusal(400, "the form ends too early")
        if not self._num_files:
            raise Refusal(422, "the form has no file; send the video in the field `file`")

    def on_part_begin(self) -> None:
        self._disposition, self._value = b"", bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._add_to_header(0, data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._add_to_header(1, data[start:end])

    def _add_to_header(self, half: int, data: bytes) -> None:
        self._header[half] += data
        # Older versions of the parser have no limit, and adding to a long one takes ever longer.
        if len(self._header[half]) > _MOST_FIELD_BYTES:
            raise Refusal(413, f"a header of the form is longer than {_MOST_FIELD_BYTES} bytes")

    def on_header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = [b"", b""]

    def on_headers_finished(self) -> None:
        # Only the name of the field counts. The name of the file is never used.
        match = re.search(rb'[; ]name="([^"]*)"|[; ]name=([^";]+)', self._disposition)
        self._name = (match[1] or match[2] or b"").decode() if match else ""
        if not self._name:
            raise Refusal(400, "a part of the form has no name")
        if self._name == "file":
            self._num_files += 1
            if self._num_files > 1:
                raise Refusal(422, "the form has more than one file; send one video per request")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._file.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MOST_FIELD_BYTES:
            raise Refusal(
                413,
                f"the field {self._name[:100]!r} is longer than {_MOST_FIELD_BYTES} bytes; the "
                "video goes in the field 'file'",
            )

    def on_part_end(self) -> None:
        if self._name == "file":
            return
        values = self.fields.setdefault(self._name, [])
        values.append(self._value.decode())
        if sum(map(len, self.fields.values())) > _MOST_FIELDS:
            raise Refusal(413, f"the form has more than {_MOST_FIELDS} fields")

    def on_end(self) -> None:
        self._ended = True
