"""Batches come whole and in order, whatever becomes of the processes that load them."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import Dataset

from st_adapter.data.loading import BatchLoader
from st_adapter.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# DataLoader opens files to see whether it can, and may be interrupted there.

KEYS = [[2 * i, 2 * i + 1] for i in range(12)]


class Numbers(Dataset):
    """Items that are their keys; `folder` keeps what has happened to whom, once each."""

    def __init__(self, folder, happens=None, at=()):
        self.folder, self.happens, self.at = folder, happens, at
        self.main = os.getpid()

    def name(self, key):
        return f"video {key}"

    def __getitem__(self, key):
        mark = self.folder / str(key)
        if key in self.at and os.getpid() != self.main and not mark.exists():
            mark.touch()
            self.happens()
        return torch.full((3,), key)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def ended():
    os.kill(os.getpid(), signal.SIGTERM)


def load(dataset, workers=2, keys=KEYS):
    loader = BatchLoader(dataset, torch.stack, workers, persistent=True)
    return [batch[:, 0].tolist() for batch in loader.batches(keys)]


@pytest.mark.parametrize("happens", [killed, ended])
@pytest.mark.parametrize("at", [(0,), (11,), (3, 4, 9, 18)])
def test_a_worker_that_ends_costs_no_batch(tmp_path, happens, at, capsys):
    assert load(Numbers(tmp_path, happens, at)) == KEYS
    said = capsys.readouterr().err  # SIGTERM reaches all, and the main process says what it means
    assert ("a dataloader worker died" in said) == (happens is killed)


def test_a_worker_that_dies_between_two_batches_in_the_middle_of_a_message_costs_none(tmp_path):
    class Large(Numbers):
        def __getitem__(self, key):
            return os.urandom(1 << 20)

    before = {*multiprocessing.active_children()}
    loaded = BatchLoader(Large(tmp_path), list, 1).batches(KEYS)
    sizes = [len(next(loaded))]
    time.sleep(0.5)  # the worker waits for room in the pipe
    (worker,) = {*multiprocessing.active_children()} - before
    worker.kill()
    sizes += [len(batch) for batch in loaded]
    assert sizes == [2] * len(KEYS)


def test_a_video_that_crashes_every_worker_is_named(tmp_path):
    class Crashing(Numbers):
        def __getitem__(self, key):
            if key == 9:
                os.kill(os.getpid(), signal.SIGSEGV)
            return torch.full((3,), key)

    with pytest.raises(DataError, match=r"crash \(signal 11\) on one of 2 videos: video 8"):
        load(Crashing(tmp_path))


def test_a_signal_to_all_processes_stops_the_main_one(tmp_path):
    """Both that and the deaths of the workers are noticed at once where it was not running."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
import torch
from test_loading import KEYS, Numbers
from st_adapter.data.loading import BatchLoader

signal.signal(signal.SIGTERM, signal.default_int_handler)
loaded = BatchLoader(Numbers(Path(sys.argv[1])), torch.stack, 2).batches(KEYS * 100000)
for batch in loaded:
    print(flush=True)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in errors.splitlines()[-1]


def test_deaths_of_workers_do_not_cut_off_what_an_interrupt_runs(tmp_path):
    released = []

    def interrupted_keys():
        yield from KEYS
        try:
            raise KeyboardInterrupt
        finally:
            for worker in {*multiprocessing.active_children()} - before:
                worker.kill()
            time.sleep(0.5)  # for the signals of their deaths
            released.append("a lock")

    before = {*multiprocessing.active_children()}
    with pytest.raises(KeyboardInterrupt):
        load(Numbers(tmp_path), keys=interrupted_keys())
    assert released == ["a lock"]


def test_in_another_thread_too(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.extend(load(Numbers(tmp_path, killed, (5,)))))
    thread.start()
    thread.join(timeout=60)
    assert found == KEYS


def test_workers_that_end_again_and_again_are_given_up(tmp_path, capsys):
    class Always(Numbers):
        def __getitem__(self, key):
            if os.getpid() != self.main:
                killed()
            return torch.full((3,), key)

    assert load(Always(tmp_path)) == KEYS
    assert (
        "the main process decodes the videos instead, as with workers=0" in capsys.readouterr().err
    )


def test_what_the_dataset_raises_is_raised(tmp_path):
    def fail():
        raise KeyError("of the dataset")

    with pytest.raises(KeyError, match="of the dataset"):
        load(Numbers(tmp_path, fail, (5,)))


def test_handlers_of_signals_are_left_as_they_were(tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)]
    load(Numbers(tmp_path))
    assert before == [signal.getsignal(n) for n in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)]


def test_epochs_share_their_workers(tmp_path):
    class Processes(Dataset):
        def __getitem__(self, key):
            return torch.tensor([os.getpid()])

    loader = BatchLoader(Processes(), torch.stack, 1, persistent=True)
    assert len({int(b[0]) for _ in range(2) for b in loader.batches([[0], [1]])}) == 1


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("unshare"), reason="only root mounts another /dev/shm"
)
@pytest.mark.parametrize("size", ["16m", "4k"])
def test_little_shared_memory_is_done_without(folder_data, tmp_path, size):
    arguments = ["train", folder_data, "--out", tmp_path / "run", "--backbone", "test_vit"]
    arguments += ["--weights", "random", "--size", "224", "--frames", "16", "--batch-size", "8"]
    arguments += ["--epochs", "1", "--method", "linear", "--workers", "2", "--device", "cpu"]
    command = " ".join(f"'{a}'" for a in (sys.executable, "-m", "st_adapter", *arguments))
    mounted = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && {command}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted], capture_output=True, text=True, timeout=120
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "too little for the batches of 2 dataloader workers" in done.stderr
