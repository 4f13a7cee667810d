"""Labelling on Ray. `scripts/ray_nodes.py` shows that it survives the loss of a node."""

import subprocess
import sys

import pytest

from st_adapter.errors import ArgumentError
from st_adapter.labelling.label import label_videos


def test_ray_writes_the_table_of_one_process(label_runs, label_clips, tmp_path):
    """A Ray of its own on this machine. Most of the time is that of two starts."""
    pytest.importorskip("ray")
    alone, out = tmp_path / "alone.jsonl", tmp_path / "l.jsonl"
    label_videos(label_runs["light"], label_clips, alone, device="cpu", workers=0)
    command = [sys.executable, "-m", "st_adapter", "predict", str(label_runs["light"])]
    command += [str(label_clips), "--out", str(out), "--ray", "local", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # one of the videos is broken
    assert done.stdout == f"{out}: 20 videos, of which 1 failed\n"
    assert "Ray: 1 machine, up to " in done.stderr
    assert f"skipped {label_clips}/07.mp4: " in done.stderr
    assert out.read_bytes() == alone.read_bytes()


def test_without_the_package_the_extra_is_named(label_runs, label_clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ArgumentError, match=r"needs the package ray; pip install 'st-adapter\[ray"):
        label_videos(label_runs["light"], label_clips, tmp_path / "l.jsonl", ray="auto")
