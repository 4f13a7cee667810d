"""Bodies of requests, and the folder that they are kept in."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from st_adapter.serving.refusals import Refusal
from st_adapter.serving.uploads import receive, upload_folder

KIND = "multipart/form-data; boundary=XX"


def part(name, value, more=""):
    head = f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


END = b"--XX--\r\n"


def send(folder, body, kind=KIND, size=7, most=10_000):
    """Receive a body in pieces of a few bytes; return the file and the fields."""

    async def chunks():
        for start in range(0, len(body), size):
            yield body[start : start + size]

    path = folder / "upload"
    fields = asyncio.run(receive(chunks(), kind, path, most))
    return path.read_bytes(), fields


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_file_goes_to_disk_and_fields_to_memory(tmp_path, size):
    video = bytes(range(256)) * 3 + b"\r\n--X"
    more = '; filename="../../etc/passwd\\"\x01"'
    body = part("task", b"a") + part("file", video, more) + part("task", "é".encode()) + END
    assert send(tmp_path, body, size=size) == (video, {"task": ["a", "é"]})
    assert [*tmp_path.iterdir()] == [tmp_path / "upload"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"{}", "application/json", 415, "multipart/form-data"),
        (b"", "multipart/form-data", 415, "multipart/form-data"),
        (b"", KIND, 400, "ends too early"),
        (b"nonsense", KIND, 400, "damaged"),
        (part("file", b"x"), KIND, 400, "ends too early"),
        (part("task", b"a") + END, KIND, 422, "send the video in the field `file`"),
        (part("file", b"x") * 2 + END, KIND, 422, "more than one file"),
        (part("task", b"x" * 5000) + END, KIND, 413, "longer than 4096 bytes"),
        (part("task", b"a", "; x=" + "x" * 5000) + END, KIND, 413, "header of the form is longer"),
        (part("task", b"x") * 101 + END, KIND, 413, "more than 100 fields"),
        (part("task", b"\xff") + END, KIND, 400, "damaged"),
        (part("file", b"x" * 20_000) + END, KIND, 413, "larger than 0.01 MB"),
    ],
)
def test_a_body_that_is_no_form_with_one_file_is_refused(tmp_path, body, kind, status, message):
    with pytest.raises(Refusal, match=message) as caught:
        send(tmp_path, body, kind)
    assert caught.value.status == status


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_is_private_and_removed(temporary):
    with upload_folder() as folder, upload_folder() as other:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "upload").write_bytes(b"x")
        assert other.is_dir()
    assert not [*temporary.iterdir()]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make folders of other users")
def test_folders_of_other_users_are_left_alone(temporary):
    other = temporary / "st-adapter-serve-other"
    other.mkdir()
    (other / ".lock").symlink_to(temporary / "made")
    os.chown(other, 12345, 12345)
    linked = temporary / "st-adapter-serve-linked"
    linked.symlink_to(other)
    with upload_folder():
        assert other.exists()
        assert not (temporary / "made").exists()


def test_the_folder_of_a_killed_server_is_removed_by_the_next(temporary):
    program = (
        "import sys\nfrom st_adapter.serving.uploads import upload_folder\n"
        "with upload_folder() as folder:\n"
        "    (folder / 'upload').write_bytes(b'x')\n"
        "    print(folder, flush=True)\n    sys.stdin.read()\n"
    )
    environment = os.environ | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        left = Path(process.stdout.readline().strip())
        with upload_folder():
            assert (left / "upload").exists()  # its owner lives
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (left / "upload").exists()
    with upload_folder():
        assert not left.exists()
