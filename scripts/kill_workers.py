"""Kill loading workers of the real command at random moments; what it writes must stay the same.

    python scripts/kill_workers.py DATA [--kills 30] [--seed 0]

DATA is a folder of class folders. For each of train, evaluate, predict, check and compare, in
turns: the verb is run with two workers, one of which is killed (SIGKILL) at a random moment of its
life. The verb must end with its usual code and result, without a traceback, at most 20 seconds
later than it does undisturbed.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from safetensors.torch import load_file

TINY = ["--backbone", "test_vit", "--weights", "random", "--frames", "4", "--size", "64"]
TRAIN = [*TINY, "--epochs", "2", "--batch-size", "4", "--precision", "float32", "--device", "cpu"]
PATIENCE_SECONDS = 20


def main(data: Path, kills: int, seed: int) -> int:
    """Return 1 if any run was not as it should be."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(["train", data, "--out", folder / "run", *TRAIN], None)
        verbs = commands(data, folder)
        usual = {}
        for verb, (command, result) in verbs.items():
            began = time.monotonic()
            code, _, said, _ = run(command, None)
            usual[verb] = (code, result(said), time.monotonic() - began)
            shutil.rmtree(folder / "out", ignore_errors=True)
        outcomes: Counter[str] = Counter()
        done = 0
        spread = {verb: seconds for verb, (_, _, seconds) in usual.items()}
        while done < kills:
            verb = list(verbs)[done % len(verbs)]
            command, result = verbs[verb]
            code, expected, seconds = usual[verb]
            began = time.monotonic()
            found = run(command, rng.uniform(0, spread[verb]), seconds + PATIENCE_SECONDS)
            took = time.monotonic() - began
            if not found[1]:  # the workers had ended by then
                spread[verb] *= 0.6
                shutil.rmtree(folder / "out", ignore_errors=True)
                continue
            done += 1
            faults = [
                *([f"code {found[0]}, not {code}"] if found[0] != code else []),
                *(["a traceback"] if "Traceback" in found[3] else []),
                *(["another result"] if result(found[2]) != expected else []),
            ]
            noted = "dataloader worker" in found[3]
            what = "; ".join(faults) or ("went on with a note" if noted else "was not disturbed")
            outcomes[f"{verb}: {what}"] += 1
            print(f"{verb}: {what}, {took:.0f} s for {seconds:.0f}", flush=True)
            if faults:
                print(found[3])
            shutil.rmtree(folder / "out", ignore_errors=True)
    for what, times in sorted(outcomes.items()):
        print(f"{times:4} {what}")
    return any("went on" not in what and "not disturbed" not in what for what in outcomes)


def commands(data, folder):
    """Each verb with its arguments, and what of its outcome must be the same."""

    def adapter(_said):
        file = folder / "out" / "adapter_last" / "adapter_model.safetensors"
        return {n: t.tolist() for n, t in load_file(file).items()} if file.exists() else None

    def evaluation(_said):
        file = folder / "out.json"
        record = json.loads(file.read_text()) if file.exists() else {}
        file.unlink(missing_ok=True)
        return {k: v for k, v in record.items() if k not in ("command", "date", "seconds")}

    def table(_said):
        file = folder / "out" / "results.json"
        rows = json.loads(file.read_text())["results"] if file.exists() else []
        return [{k: row[k] for k in ("method", "seeds", "score", "temporal")} for row in rows]

    workers = ["--workers", "2"]
    compare = ["--methods", "linear", "--seeds", "0", "--lrs", "1e-3", *TRAIN]
    return {
        "train": (["train", data, "--out", folder / "out", *TRAIN, *workers], adapter),
        "evaluate": (
            ["evaluate", folder / "run", data, "--out", folder / "out.json", *workers],
            evaluation,
        ),
        "predict": (["predict", folder / "run", data, *workers], str.strip),
        "check": (["check", data, "--deep", *workers], str.strip),
        "compare": (["compare", data, "--out", folder / "out", *compare, *workers], table),
    }


def run(arguments, moment, limit=600.0):
    """Run a verb and kill a worker: code, whether one was killed, what was said.

    The moment is in seconds after the first worker appeared; None kills none.
    """
    command = [sys.executable, "-m", "st_adapter", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed = False
    if moment is not None:
        while process.poll() is None and not workers_of(process.pid):
            time.sleep(0.02)
        time.sleep(moment)
        workers = workers_of(process.pid)
        if workers:
            random.choice(workers).kill()
            killed = True
    try:
        said, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        said, errors = process.communicate()
        errors += "\nhung"
        return "hung", killed, said, errors
    return process.returncode, killed, said, errors


def workers_of(pid):
    """Processes below that were forked, as loading workers are: their command is their parent's."""
    found = []
    try:
        for process in psutil.Process(pid).children(recursive=True):
            if process.cmdline() and process.cmdline() == process.parent().cmdline():
                found.append(process)
    except psutil.Error:
        pass
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.data, given.kills, given.seed))
