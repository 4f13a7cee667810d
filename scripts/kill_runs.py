"""Kill short runs at random moments (SIGKILL), resume each, and compare with one left alone.

    python scripts/kill_runs.py DATA [--kills 50] [--seed 0]

All the while, every file of the run that is killed is read again and again. Weights, optimizer
and counters must end equal to the bit.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from st_adapter.config import TrainConfig
from st_adapter.evaluation.run_record import recorded_run
from st_adapter.training.loop import train

CONFIG = TrainConfig(
    backbone="test_vit",
    weights="random",
    frames=4,
    size=32,
    epochs=6,
    batch_size=4,
    dropout=0.1,
    average=0.9,
    mixup=0.2,
    workers=1,
    save_steps=2,
    precision="float32",
    device="cpu",
)


def main(data: Path, kills: int, seed: int) -> int:
    """Kill until there were so many kills, in as many runs as that takes."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder, "alone")
        began = time.monotonic()
        wait(start(data, alone), alone)
        seconds = time.monotonic() - began
        done = run = reads = 0
        while done < kills:
            run += 1
            out = Path(folder, f"run {run}")
            in_this = lives = 0
            while True:
                lives += 1
                process = start(data, out)
                moment = rng.uniform(0, 0.6 * seconds) if done < kills else None
                killed, count = wait(process, out, moment)
                reads += count
                if not killed:
                    break
                done += 1
                in_this += 1
            compare(alone, out)
            print(f"run {run}: killed {in_this} times, equal to the bit", flush=True)
        print(
            f"{done} kills in {run} runs of {seconds:.1f} s; files were read {reads} times, "
            "none was damaged"
        )
    return 0


def start(data: Path, out: Path) -> int:
    """A process that begins or resumes the run."""
    process = os.fork()
    if process:
        return process
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    resume = (out / "config.json").exists()
    train(data, out, None if resume else CONFIG, resume=resume)
    os._exit(0)


def wait(process: int, out: Path, seconds: float | None = None) -> tuple[bool, int]:
    """Read the run's files until it ends or its time is up; whether it was killed, and reads."""
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    reads = 0
    while True:
        reads += read_all(out)
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            if os.waitstatus_to_exitcode(status):
                raise SystemExit(f"a run ended by itself with {os.waitstatus_to_exitcode(status)}")
            return False, reads
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return True, reads + read_all(out)
        time.sleep(0.002)


def read_all(out: Path) -> int:
    """Read every file that a run has given its name; those that vanish are older states."""
    count = 0
    for path in out.rglob("[!.]*"):
        try:
            count += read(path)
        except FileNotFoundError:
            continue
    if (out / "config.json").exists():
        recorded_run(out)
    return count


def read(path: Path) -> int:
    """Raise unless the file can be read as what its name says."""
    if path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            json.loads(line)
    elif path.suffix == ".pt":
        with path.open("rb") as file:
            torch.load(file, weights_only=True)
    elif path.suffix == ".safetensors":
        load_file(path)
    elif path.suffix == ".sqlite3":
        sqlite3.connect(path).execute("pragma integrity_check").fetchone()
    else:
        return 0
    return 1


def compare(one: Path, other: Path) -> None:
    """Raise unless two runs have the same last state, but for times, and the same adapters."""
    last = [max((run / "state").glob("*.pt")) for run in (one, other)]
    states = [torch.load(file, weights_only=True) for file in last]
    for state in states:
        del state["train_seconds"]
    if not same(*states):
        raise SystemExit(f"{other} ended with another state")
    for name in ("adapter", "adapter_last"):
        file = f"{name}/adapter_model.safetensors"
        if not same(load_file(one / file), load_file(other / file)):
            raise SystemExit(f"{other / file} differs")


def same(one: object, other: object) -> bool:
    """Whether nested values are equal, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(main(arguments.data, arguments.kills, arguments.seed))
