"""Threads of one process use classifiers side by side, and all of them end."""

import os
import shutil
import subprocess
import sys

import pytest

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
    assert len(compiled(video)) == 2
finally:
    done.set()
    scoring.join()
"""


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_a_thread_that_compiles_and_a_thread_that_scores_both_end(
    trained_run, folder_data, tmp_path
):
    """Autocast's cache of weights could make each wait for a lock of the other, for ever."""
    video = next(folder_data.rglob("*.mp4"))
    for attempt in range(2):  # no blank in the path: torch gives it to the compiler as it is
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"cache_{attempt}")}
        command = [sys.executable, "-c", PROGRAM, str(trained_run), str(video)]
        done = subprocess.run(command, env=os.environ | caches, timeout=240)
        assert done.returncode == 0
