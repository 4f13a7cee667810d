"""`st-adapter watch` as a process: lines, exit codes, signals and closed pipes."""

import json
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from conftest import save_one_block, write_video
from senders import free_port, live_sender, pictures, served
from st_adapter.cli.main import main


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A classifier of two classes."""
    folder = tmp_path_factory.mktemp("adapter")
    save_one_block(folder)
    return folder


def start(adapter, source, *flags):
    command = [sys.executable, "-m", "st_adapter", "watch", str(adapter), str(source)]
    return subprocess.Popen(
        [*command, "--window", "0.8", "--device", "cpu", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(err):
    """The lines on stderr, without the note on random weights."""
    return [line for line in err.splitlines() if line and "random weights" not in line]


@pytest.mark.parametrize("way", ["--one-pass", "--whole-clips"])
def test_a_line_for_each_step(adapter, tmp_path, capfd, way):
    path = write_video(tmp_path / "a.mp4", [*pictures(10)], rate=10)
    began = datetime.now(UTC)
    given = [way, "--window", "0.8", "--top", "1", "--device", "cpu"]
    assert main(["watch", str(adapter), str(path), *given]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [record["seconds"] for record in records] == [0.0, 0.2, 0.4, 0.6, 0.8]
    for record in records:
        assert [*record] == [
            *("time", "seconds", "predicted", "predictions", "latency_seconds", "dropped_frames")
        ]
        assert began <= datetime.fromisoformat(record["time"]) <= datetime.now(UTC)
        assert record["predicted"] == record["predictions"][0]["label"]
        assert len(record["predictions"]) == 1
        assert 0 <= record["latency_seconds"] < 1
        assert record["dropped_frames"] == 0


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("tcp://127.0.0.1:{port}", [], "Connection refused; check the address"),
        ("tcp://127.0.0.1:{port}?listen", ["--timeout", "0.5"], "or wait longer with --timeout"),
        ("/dev/video87", [], "/dev/video87: there is no such camera"),
        ("nothing.mp4", [], "nothing.mp4: no such file; a source is a camera"),
        ("tcp://127.0.0.1:{port}", ["--step", "0"], "--step must be a number of seconds above 0"),
    ],
)
def test_what_cannot_be_watched_ends_with_one_line(adapter, capfd, source, flags, message):
    source = source.format(port=free_port())
    assert main(["watch", str(adapter), source, "--window", "1", *flags]) == 2
    out, err = capfd.readouterr()
    assert not out
    (line,) = said(err)
    assert message in line


def test_a_signal_ends_it_between_two_connections(adapter):
    port = free_port()
    with live_sender(port):
        process = start(adapter, f"tcp://127.0.0.1:{port}", "--timeout", "30")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["seconds"] == 0
    # The sender is gone, and the next connection is refused.
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=5)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert [line for line in said(err) if "again" not in line] == ["st-adapter: stopped"]


def test_ctrl_c_ends_it_while_a_sender_is_silent(adapter):
    """FFmpeg waits for packets without looking at signals."""
    connected = threading.Event()

    def say_nothing(client):
        connected.set()
        client.recv(1)

    with served(say_nothing) as port:
        process = start(adapter, f"tcp://127.0.0.1:{port}", "--timeout", "60")
        assert connected.wait(60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=5)
    assert process.returncode == 130, err
    assert said(err) == ["st-adapter: stopped"]


def test_a_closed_pipe_ends_it_quietly(adapter):
    port = free_port()
    with live_sender(port):
        process = start(adapter, f"tcp://127.0.0.1:{port}")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert said(process.stderr.read()) == []
        assert process.wait(timeout=5) == 0
        process.stderr.close()
