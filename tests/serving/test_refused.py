"""Requests that are refused, each with a reason and none at the cost of another."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from servers import serving

from conftest import blinking, restamped, wait_for, write_video

DEADLINE = 4


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The server's folder for temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(label_runs, temporary):
    limits = {
        "max-seconds": 60,
        "max-pixels": 10_000,
        "max-frames": 100,
        "max-megabytes": 0.5,
        "upload-seconds": 1,
        "deadline": DEADLINE,
        "queue": 2,
        "decoders": 2,
        "connections": 20,
    }
    flags = [part for name, value in limits.items() for part in (f"--{name}", value)]
    with serving(label_runs["light"], *flags, temporary=temporary) as server:
        yield server


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", blinking(True, 0))


@pytest.fixture(autouse=True)
def _nothing_is_left(server, clip, temporary):
    """After each test, the next request is answered, and no upload is kept."""
    yield
    deadline = time.monotonic() + 30
    while (answer := server.predict(clip)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer.status_code == 200, answer.text
    (folder,) = temporary.iterdir()
    wait_for(lambda: [path.name for path in folder.iterdir()] == [".lock"], server.process)


@contextmanager
def stopped_decoders(server):
    """Let the decoders stand still in this block."""
    processes = server.decoders()
    assert len(processes) == 2
    for process in processes:
        process.suspend()
    try:
        yield processes
    finally:
        for process in processes:
            if process.is_running():
                process.resume()


def waiting(server):
    return server.client.get("/healthz").json()["waiting"]


def test_a_video_larger_than_allowed_is_refused(server, clip, tmp_path):
    large = write_video(tmp_path / "large.mp4", [np.zeros((96, 128, 3), np.uint8)] * 8)
    answer = server.predict(large)
    assert answer.status_code == 413
    assert answer.json() == {
        "error": "pictures of 128 x 96 are larger than 10,000 pixels, the limit here"
    }
    slow = restamped(clip, tmp_path / "slow.mkv", lambda stamp: stamp * 100)
    answer = server.predict(slow)
    assert answer.status_code == 413
    assert answer.json() == {"error": "the video is 80.0 s long; the limit here is 60 s"}
    many = write_video(tmp_path / "many.mp4", blinking(True, 0, 120), rate=30)
    answer = server.predict(many)
    assert answer.json() == {"error": "120 frames are more than 100, the limit here"}


def test_a_video_of_narrow_pictures_is_refused(server, tmp_path):
    """Scaled to the short side of a clip, a few kilobytes would become gigabytes."""
    narrow = write_video(tmp_path / "narrow.avi", [np.zeros((2, 4000, 3), np.uint8)], codec="ffv1")
    for fields in ({}, {"frames": "true"}):
        answer = server.predict(narrow, **fields)
        assert answer.status_code == 413
        assert answer.json() == {
            "error": "pictures of 4000 x 2 are too narrow: one side can be at most 32 times as "
            "long as the other"
        }


def test_a_file_that_is_not_a_video_is_refused_without_naming_its_place(server, tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("not a video")
    answer = server.predict(path)
    assert answer.status_code == 422
    assert answer.json() == {"error": "cannot be decoded: Invalid data found when processing input"}
    path.write_bytes(b"")
    assert server.predict(path).json() == {"error": "the file is empty"}


def test_an_upload_larger_than_allowed_is_refused(server, tmp_path):
    path = tmp_path / "large.mp4"
    path.write_bytes(bytes(600_000))
    answer = server.predict(path)
    assert answer.status_code == 413
    assert answer.json() == {"error": "the request is larger than 0.5 MB, the limit here"}

    def chunks():
        for _ in range(10):
            yield bytes(60_000)

    head = b'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    answer = server.client.post(
        "/v1/predict",
        content=(part for part in (head, *chunks())),
        headers={"Content-Type": "multipart/form-data; boundary=X"},
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        ("POST /v1/pre", b" 408 "),
        (
            "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            "Content-Type: multipart/form-data; boundary=X\r\n\r\n--X\r\n",
            b" 408 ",
        ),
    ],
)
def test_slow_clients_are_cut_off(server, request_text, expected):
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request_text.encode())
        started = time.monotonic()
        answer = b"".join(iter(lambda: connection.recv(1000), b""))
    assert expected in answer.splitlines()[0]
    assert 0.8 < time.monotonic() - started < 10


def test_a_client_that_does_not_read_its_answers_is_cut_off(server):
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        started = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:  # until its answers and then its requests fill all buffers
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 99)
        assert time.monotonic() - started < 15


def test_a_connection_too_many_is_refused(server):
    host, port = server.address.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port)), timeout=20) for _ in range(20)]
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        assert b" 503 " in connection.recv(1000)
    for one in held:
        one.close()


@pytest.mark.parametrize(
    "name", ["../../evil.mp4", "/etc/passwd", "a\x00b\x1b[31m.mp4", "x" * 4000, "", "ä\n.mp4"]
)
def test_the_name_of_a_file_is_never_used(server, clip, name):
    answer = server.client.post("/v1/predict", files={"file": (name, clip.read_bytes())})
    # The client sends no name at all as a field that is not a file.
    assert answer.status_code == 200, answer.text


def test_more_requests_than_the_queue_has_room_for_are_told_to_retry(server, clip):
    with ThreadPoolExecutor(2) as pool, stopped_decoders(server):
        held = [pool.submit(server.predict, clip) for _ in range(2)]
        wait_for(lambda: waiting(server) == 2, server.process)
        answer = server.predict(clip)
        assert answer.status_code == 503
        assert answer.json() == {"error": "too many requests are waiting; try again"}
        assert int(answer.headers["retry-after"]) > 0
    assert [future.result().status_code for future in held] == [200, 200]


def test_a_decoder_that_is_killed_costs_only_its_request(server, clip):
    with ThreadPoolExecutor(2) as pool, stopped_decoders(server) as decoders:
        held = pool.submit(server.predict, clip)
        wait_for(lambda: waiting(server) == 1, server.process)
        time.sleep(0.2)  # until the decoder has been asked
        for process in decoders:
            os.kill(process.pid, signal.SIGKILL)
        answer = held.result()
    assert answer.status_code == 503
    assert answer.json() == {"error": "the decoder was killed; try again"}


def test_an_answer_that_is_late_is_given_up(server, clip):
    with ThreadPoolExecutor(1) as pool, stopped_decoders(server) as decoders:
        started = time.monotonic()
        answer = pool.submit(server.predict, clip).result()
        took = time.monotonic() - started
        killed = [process for process in decoders if not process.is_running()]
        assert len(killed) == 1
    assert answer.status_code == 504
    assert "not answered within 4 s" in answer.json()["error"]
    assert DEADLINE <= took < DEADLINE + 3


def test_work_for_a_client_that_has_left_is_given_up(server, clip, tmp_path):
    slow = restamped(clip, tmp_path / "slow.mkv", lambda stamp: stamp * 60)
    fields = {"window": "0.5", "step": "0.001"}
    long = {"files": {"file": slow.read_bytes()}, "data": fields, "timeout": 0.5}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.address}/v1/timeline", **long)
    started = time.monotonic()
    assert waiting(server) == 1
    wait_for(lambda: waiting(server) == 0, server.process)
    assert time.monotonic() - started < 0.8 * DEADLINE


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Host": "evil.example"}, "only requests to localhost"),
        ({"Host": "127.0.0.1.evil.example:8000"}, "only requests to localhost"),
        ({"Host": "[::1"}, "only requests to localhost"),
        ({"Origin": "https://evil.example"}, "pages of other sites"),
        ({"Origin": "null"}, "pages of other sites"),
        ({"Origin": "http://localhost:1"}, "pages of other sites"),
    ],
)
def test_pages_of_other_sites_cannot_use_the_server(server, clip, headers, reason):
    with clip.open("rb") as file:
        answer = server.client.post("/v1/predict", files={"file": file}, headers=headers)
    assert answer.status_code == 403
    assert reason in answer.json()["error"]


def test_its_own_page_can_use_the_server(server, clip):
    port = server.address.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        headers = {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}"}
        with clip.open("rb") as file:
            answer = server.client.post("/v1/predict", files={"file": file}, headers=headers)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/predict", 405), ("DELETE", "/", 405)],
)
def test_unknown_paths_and_methods_are_refused_in_json(server, method, path, status):
    answer = server.client.request(method, path)
    assert answer.status_code == status
    assert [*answer.json()] == ["error"]
