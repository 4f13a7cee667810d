"""Threads of one process use classifiers side by side, and all of them end."""

import os
import shutil
import subprocess
import sys

import pytest

from conftest import save_one_block

PROGRAM = """
import sys, threading
from st_adapter import Predictor

run, video = sys.argv[1:]
done = threading.Event()

def score():
    predictor = Predictor(run, device="cpu", precision="bfloat16")
    while not done.is_set():
        predictor(video)

scoring = threading.Thread(target=score)
scoring.start()
try:
    compiled = Predictor(run, device="cpu", precision="bfloat16", compile=True)
    scores = dict(compiled(video))
finally:
    done.set()
    scoring.join()
for label, score in Predictor(run, device="cpu", precision="bfloat16")(video):
    assert abs(scores[label] - score) < 0.01, (label, score, scores)
"""


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_a_thread_that_compiles_and_a_thread_that_scores_both_end(folder_data, tmp_path):
    """Autocast's cache of weights could make each wait for a lock of the other, for ever."""
    save_one_block(tmp_path / "adapter")
    video = next(folder_data.rglob("*.mp4"))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "adapter"), str(video)]
    done = subprocess.run(command, timeout=240)
    assert done.returncode == 0
