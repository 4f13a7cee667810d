"""Commands that are killed, stopped or run twice: real processes, and a table equal to the byte."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from conftest import wait_for
from st_adapter.common.lock import alone_in
from st_adapter.errors import ArgumentError
from st_adapter.labelling.label import label_videos

PROGRAM = """
import sys
from st_adapter.cli.imports import quick_imports
with quick_imports():  # also in the processes that it starts: most of the time of a test
    import st_adapter.labelling.parts as parts
    import st_adapter.labelling.processes
from st_adapter.cli.main import entry

parts._PART_ROWS = 8
if __name__ == "__main__":
    entry()
"""
"""The command, which writes its parts all the time."""


@pytest.fixture
def many(label_clips, tmp_path):
    """A list of many rows over a few videos, of which one is broken."""
    return write_list(tmp_path / "many.txt", label_clips, 4000)


def write_list(file, clips, count):
    file.write_text("".join(f"{clips / f'{3 + i % 5:02}.mp4'}\n" for i in range(count)))
    return file


def start(given, listed, out, *flags):
    file = out.parent / "command.py"
    file.write_text(PROGRAM)
    command = [sys.executable, str(file), "predict", str(given), str(listed), "--out", str(out)]
    command += ["--device", "cpu", "--workers", "0", *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def has_parts(out, count=3):
    return lambda: len([*out.with_name(f"{out.name}.parts").glob("0*.jsonl")]) >= count


def test_a_killed_command_goes_on_to_the_same_table_also_in_several_processes(
    label_runs, label_clips, tmp_path
):
    few = write_list(tmp_path / "few.txt", label_clips, 400)
    alone, out = tmp_path / "alone.csv", tmp_path / "l.csv"
    label_videos(label_runs["light"], few, alone, device="cpu", workers=0)
    process = start(label_runs["light"], few, out)
    wait_for(has_parts(out), process, 180)
    process.kill()
    process.communicate()
    assert not out.exists()
    process = start(label_runs["light"], few, out, "--processes", "2")
    said, error = process.communicate(timeout=120)
    assert (process.returncode, said) == (1, f"{out}: 400 videos, of which 80 failed\n"), error
    assert "are labelled already" in error
    assert out.read_bytes() == alone.read_bytes()
    assert not out.with_name("l.csv.parts").exists()


@pytest.mark.parametrize(
    ("number", "flags"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--processes", "2"))]
)
def test_a_stopped_command_says_how_to_go_on(label_runs, many, tmp_path, number, flags):
    out = tmp_path / "l.jsonl"
    process = start(label_runs["light"], many, out, *flags)
    wait_for(has_parts(out), process, 180)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    lines = [line for line in error.splitlines() if line]
    assert lines[-1] == "st-adapter: stopped; run the same command again to continue"
    assert "Traceback" not in error
    assert not out.exists()
    assert has_parts(out)()


def test_a_killed_process_ends_the_command_and_nothing_is_lost(label_runs, many, tmp_path):
    out = tmp_path / "l.jsonl"
    process = start(label_runs["light"], many, out, "--processes", "2")
    wait_for(has_parts(out, 6), process, 180)
    labelling = [p for p in psutil.Process(process.pid).children() if _is_labelling(p)]
    assert len(labelling) == 2
    labelling[0].kill()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert error.splitlines()[-1] == (
        "st-adapter: error: a process was killed by signal 9, often because memory ran out; what "
        "is labelled is kept, and the same command goes on from there"
    )
    assert not any(psutil.pid_exists(p.pid) for p in labelling)
    assert has_parts(out, 6)()


def test_processes_end_with_a_killed_command(label_runs, many, tmp_path):
    out = tmp_path / "l.jsonl"
    process = start(label_runs["light"], many, out, "--processes", "2")
    wait_for(has_parts(out), process, 180)
    labelling = [p for p in psutil.Process(process.pid).children() if _is_labelling(p)]
    process.kill()
    process.communicate()
    end = time.monotonic() + 30
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in labelling):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_commands_cannot_write_one_table(label_runs, many, tmp_path):
    out = tmp_path / "l.jsonl"
    with (
        alone_in(tmp_path / "l.jsonl.parts"),
        pytest.raises(ArgumentError, match="another process is working in .*l.jsonl.parts"),
    ):
        label_videos(label_runs["light"], many, out, device="cpu", workers=0)
    assert os.listdir(tmp_path) == ["many.txt"]


def _is_labelling(process):
    return "spawn_main" in " ".join(process.cmdline())
