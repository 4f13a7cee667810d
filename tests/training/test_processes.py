import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain

import psutil
import pytest
import torch

from st_adapter.data.batches import EpochSampler
from st_adapter.errors import ArgumentError, DataError, TrainingError
from st_adapter.model.checkpoint import read_tensors
from st_adapter.training.launch import check_accelerate, launch
from st_adapter.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore:OMP_NUM_THREADS")


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def losses(run):
    return [x["loss"] for x in lines(run / "metrics.jsonl") if "loss" in x]


def flat(items):
    return list(chain.from_iterable(items))


def command(data, out, config, *flags):
    values = {"backbone": config.backbone, "weights": "random", "precision": "float32"}
    values |= {"size": 32, "frames": 4, "workers": 0, "device": "cpu"}
    values |= {"batch-size": config.batch_size, "epochs": config.epochs, "dropout": config.dropout}
    named = flat((f"--{name}", str(value)) for name, value in values.items())
    verb = [sys.executable, "-m", "st_adapter", "train", str(data), "--out", str(out)]
    return [*verb, *named, *flags]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("num_videos", [16, 10, 9, 1])
def test_a_step_has_the_same_videos_with_any_number_of_processes(num_videos, processes):
    def steps(process, count):
        sampler = EpochSampler(
            num_videos=num_videos,
            step_videos=8,
            batch_videos=3,
            seed=0,
            process=process,
            num_processes=count,
        )
        return list(sampler.steps())

    of_each = [steps(process, processes) for process in range(processes)]
    together = [flat(flat(step)) for step in zip(*of_each, strict=True)]
    assert together == [flat(step) for step in steps(0, 1)]
    assert all(len(batch) <= 3 for share in of_each for step in share for batch in step)


def test_two_processes_follow_one(folder_data, tmp_path, tiny):
    config = replace(tiny, epochs=4, dropout=0.0)
    one = train(folder_data, tmp_path / "one", config, temporal=True)
    two = train(
        folder_data, tmp_path / "two", replace(config, batch_size=2, processes=2), temporal=True
    )
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert len(lines(tmp_path / "two" / "metrics.jsonl")) == len(
        lines(tmp_path / "one" / "metrics.jsonl")
    )
    assert (two.top1, two.confusion, two.temporal) == (one.top1, one.confusion, one.temporal)
    assert [p["path"] for p in two.predictions] == [p["path"] for p in one.predictions]
    equal_adapters(tmp_path / "one", tmp_path / "two")


def test_accelerate_starts_processes_as_processes_does(folder_data, tmp_path, tiny):
    config = replace(tiny, epochs=2, dropout=0.0, batch_size=2)
    train(folder_data, tmp_path / "one", replace(config, batch_size=4))
    out, launcher = tmp_path / "out", [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    launcher += ["--mixed_precision", "bf16"]
    _, *rest = command(folder_data, out, config)
    done = subprocess.run([*launcher, *rest], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses(out) == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert done.stdout.count("top-1") == 1
    note = "accelerate's mixed precision (bf16) is ignored; --precision decides"
    assert done.stderr.count(note) == 1


def test_what_accelerate_is_set_to_and_is_not_used_here_is_told(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # of --num_processes 2 --cpu
    check_accelerate()
    assert "accelerate started only one process" in capsys.readouterr().err
    for setting, engine in (("DEEPSPEED", "DeepSpeed"), ("FSDP", "FSDP")):
        monkeypatch.setenv(f"ACCELERATE_USE_{setting}", "true")
        with pytest.raises(
            ArgumentError, match=f"{engine}, which st-adapter does not support; turn it off"
        ):
            check_accelerate()
        monkeypatch.delenv(f"ACCELERATE_USE_{setting}")


def test_stopped_in_two_processes_a_run_goes_on_in_one(folder_data, tmp_path, tiny, capsys):
    config = replace(tiny, epochs=25, dropout=0.0, batch_size=2)
    straight, out = tmp_path / "straight", tmp_path / "out"
    process = subprocess.Popen(
        command(folder_data, out, config, "--processes", "2"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_state(out, process)
    os.killpg(process.pid, signal.SIGTERM)  # reaches each process; the main one passes it on, too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.count("continue with: st-adapter train") == 1
    assert "Traceback" not in errors
    assert "elastic" not in errors

    train(folder_data, out, replace(config, processes=1), resume=True)
    assert (
        "note: 1 process instead of 2; a step still has the same 4 clips" in capsys.readouterr().err
    )
    train(folder_data, straight, replace(config, batch_size=4))
    assert losses(out)[-1] == pytest.approx(losses(straight)[-1], abs=1e-3)
    assert len(losses(out)) == len(losses(straight))


@pytest.mark.parametrize("which", ["main", "member"])
def test_when_one_is_killed_all_end(folder_data, tmp_path, tiny, which):
    out = tmp_path / "out"
    config = replace(tiny, epochs=500)
    process = subprocess.Popen(
        command(folder_data, out, config, "--processes", "2"), stderr=subprocess.PIPE, text=True
    )
    wait_for_state(out, process)
    children = psutil.Process(process.pid).children()
    members = [child for child in children if "spawn_main" in str(child.cmdline())]
    assert len(members) == 2
    os.kill(process.pid if which == "main" else members[1].pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(members, timeout=30)
    assert not alive
    if which == "member":
        assert process.returncode == 1
        assert "process 1 of 2 ended with code -9" in errors.splitlines()[-1]


def test_what_all_processes_find_is_raised_as_itself(tmp_path, tiny):
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / f"{name}.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="no training video could be read"):
        train(tmp_path / "data", tmp_path / "out", replace(tiny, processes=2))
    assert not (tmp_path / "out" / "config.json").exists()


def fail_in_the_second(key):
    """For `launch`: a fault of the program in one process while the other waits for it."""
    torch.distributed.init_process_group("gloo")
    return {}[key] if torch.distributed.get_rank() else torch.distributed.barrier()


def test_a_fault_is_told_with_its_process_and_launching_changes_nothing_here(capfd):
    before = state_of_this_process()
    with pytest.raises(TrainingError, match=r"process 1 of 2 ended with code 1 \(KeyError: 'key'"):
        launch(2, fail_in_the_second, "key")
    assert state_of_this_process() == before
    assert not capfd.readouterr().err


def state_of_this_process():
    loggers = [
        logging.getLogger(f"torch.{name}") for name in ("distributed.elastic", "multiprocessing")
    ]
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    logs = [(logger.propagate, logger.level, [*logger.handlers]) for logger in loggers]
    return handlers, logs, dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, [])


def equal_adapters(one, other, rtol=1e-4, atol=1e-5):
    ours, theirs = (read_tensors(run / "adapter_last") for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=rtol, atol=atol)


def wait_for_state(out, process, seconds=120):
    end = time.monotonic() + seconds
    while not list(out.glob("state/*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)
