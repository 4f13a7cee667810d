"""SIGTERM and Ctrl-C are answered in order at any moment of a command."""

import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import wait_for

TRAIN = ["--backbone", "test_vit", "--weights", "random", "--frames", "4", "--size", "32"]
TRAIN += ["--device", "cpu", "--precision", "float32", "--workers", "1"]


def start(*arguments):
    command = [sys.executable, "-m", "st_adapter", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def stopped(process):
    """As `timeout` does: the command, then its group."""
    os.kill(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    (line,) = (line for line in errors.splitlines() if "stopped" in line)
    return line


def test_while_a_run_is_prepared_nothing_is_left(folder_data, tmp_path):
    process = start("train", folder_data, "--out", tmp_path / "run", *TRAIN)
    wait_for((tmp_path / "run" / ".lock").exists, process)
    assert "stopped" in stopped(process)
    # In the middle of an import it ends at once, and leaves the file of its lock, which is free.
    assert {path.name for path in tmp_path.glob("run/*")} <= {".lock"}


def test_in_validation_the_run_says_how_to_go_on(folder_data, tmp_path):
    out = tmp_path / "run"
    given = [*TRAIN, "--epochs", "3", "--val", folder_data, "--views", "1x1", "--batch-size", "1"]
    process = start("train", folder_data, "--out", out, *given)
    wait_for((out / "adapter_last" / "adapter_config.json").exists, process)
    line = stopped(process)
    assert "continue with: st-adapter train" in line
    assert list((out / "state").glob("*.pt"))


@pytest.mark.parametrize("verb", ["predict", "check"])
def test_other_verbs_end_with_a_word(folder_data, trained_run, tmp_path, verb):
    many = tmp_path / "data" / "brightens"
    many.mkdir(parents=True)
    first = next(folder_data.rglob("clip 0.mp4"))
    for i in range(20000):  # more than can be done until then
        (many / f"{i}.mp4").symlink_to(first)
    given = {"predict": [trained_run, many.parent], "check": [many.parent, "--deep"]}
    process = start(verb, *given[verb])
    time.sleep(6)
    stopped(process)


def test_ctrl_c_while_the_command_starts_is_answered_with_a_word():
    """From 20 ms, when Python itself starts, to half a second, when modules are imported."""
    codes = []
    for moment in range(12):
        started = subprocess.Popen(
            [sys.executable, "-m", "st_adapter", "recipes"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(0.02 + 0.04 * moment)
        started.send_signal(signal.SIGINT)
        said = started.communicate(timeout=60)[1]
        codes.append(started.returncode)
        # Before our first line, Python itself may print a traceback; it names none of our modules.
        assert "Traceback" not in said or "st_adapter/cli" not in said
    assert codes.count(130) >= 6
