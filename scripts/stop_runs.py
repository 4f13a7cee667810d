"""Stop short runs with `timeout` at random moments of a busy machine, and resume them.

    python scripts/stop_runs.py DATA [--stops 50] [--seed 0]

`timeout` sends SIGTERM to the run and to all of its processes, at moments from the first second to
the last, while every core is busy with something else. Each time the run must end with code 130
and one line, without a traceback; resumed, it must come to the same adapter, to the bit.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file

TRAIN = ["--backbone", "test_vit", "--weights", "random", "--frames", "4", "--size", "64"]
TRAIN += ["--epochs", "4", "--batch-size", "2", "--dropout", "0.1", "--workers", "2"]
TRAIN += ["--precision", "float32", "--device", "cpu", "--save-steps", "2"]
LATEST_SECONDS = 60
"""From the signal to the end; the step under way is finished, on a core that others use, too."""


def main(data: Path, stops: int, seed: int) -> int:
    """Return 1 if any run did not end as it should."""
    rng = random.Random(seed)
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    outcomes: Counter[str] = Counter()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            began = time.monotonic()
            run(data, folder / "alone")
            seconds = time.monotonic() - began
            expected = adapter(folder / "alone")
            done = number = 0
            while done < stops:
                number += 1
                out = folder / f"run {number}"
                while done < stops and not (out / "eval.json").exists():
                    what = stop(data, out, rng.uniform(1.0, 0.8 * seconds))
                    if what is not None:
                        done += 1
                        outcomes[what] += 1
                        print(f"{done}: {what}", flush=True)
                if not (out / "eval.json").exists():
                    run(data, out)
                same = adapter(out).keys() == expected.keys() and all(
                    torch.equal(tensor, expected[n]) for n, tensor in adapter(out).items()
                )
                outcomes[f"run {'equal to the bit' if same else 'ANOTHER'}"] += 1
    finally:
        for process in busy:
            process.kill()
    for what, times in outcomes.items():
        print(f"{times:4} {what}")
    return any("ANOTHER" in what or "FAULT" in what for what in outcomes)


def command(data: Path, out: Path) -> list[str]:
    """The verb, which resumes what has begun."""
    resume = ["--resume"] if (out / "config.json").exists() else TRAIN
    return [sys.executable, "-m", "st_adapter", "train", str(data), "--out", str(out), *resume]


def run(data: Path, out: Path) -> None:
    """Train to the end."""
    subprocess.run(command(data, out), check=True, capture_output=True)


def stop(data: Path, out: Path, moment: float) -> str | None:
    """Train until a moment; what became of it, or None where it was done before."""
    timeout = ["timeout", "--preserve-status", f"--kill-after={LATEST_SECONDS}", f"{moment:.2f}"]
    began = time.monotonic()
    done = subprocess.run([*timeout, *command(data, out)], capture_output=True, text=True)
    took = time.monotonic() - began - moment
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if "stopped" in line]
    faults = [
        *([f"code {done.returncode}"] if done.returncode != 130 else []),
        *(["traceback"] if "Traceback" in done.stderr else []),
        *([f"{len(lines)} lines"] if len(lines) != 1 else []),
    ]
    if faults:
        print(done.stderr)
        return f"FAULT: {', '.join(faults)}"
    told = "with how to go on" if "continue with" in lines[0] else "while the run was prepared"
    return f"code 130, one line, {told}" + (f", after {took:.0f} s" if took > 10 else "")


def adapter(out: Path) -> dict[str, torch.Tensor]:
    """What a run came to."""
    return load_file(out / "adapter_last" / "adapter_model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.data, given.stops, given.seed))
