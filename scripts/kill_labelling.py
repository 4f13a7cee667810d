"""Kill `predict --out` at random moments (SIGKILL), start it again, compare with one left alone.

    python scripts/kill_labelling.py LIST RUN [--kills 20] [--processes 1] [--seed 0]

LIST names the videos, RUN is a run folder. The tables must end equal to the byte. Memory of the
command and its processes is printed while it grows, or does not.
"""

import argparse
import filecmp
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

_POLL_SECONDS = 0.5
_SHOWN = 8
"""Lines about memory to print for the command that is left alone."""


def main(listed: Path, run: Path, kills: int, processes: int, seed: int) -> int:
    """Label once undisturbed and once with kills; return 1 if the tables differ."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder, "alone.jsonl"), Path(folder, "killed.jsonl")
        began = time.monotonic()
        process = start(listed, run, alone, processes)
        starting = wait_for_parts(alone)
        memory = watch(process)
        seconds = time.monotonic() - began
        print(f"left alone: {count_lines(alone):,} rows in {seconds:.0f} s", flush=True)
        show(memory)
        done = tables = 0
        # Together, the lives of a killed command are about as long as the one left alone.
        longest = 2 * seconds / max(1, kills)
        began = time.monotonic()
        same = True
        while done < kills:
            killed.unlink(missing_ok=True)
            tables += 1
            while not killed.exists():
                process = start(listed, run, killed, processes)
                moment = time.monotonic() + starting + rng.uniform(0, longest)
                watch(process, until=moment if done < kills else float("inf"))
                if process.poll() is None:
                    end(process)
                    done += 1
                    print(f"kill {done}: {rows_done(killed):,} rows are kept", flush=True)
            same &= filecmp.cmp(alone, killed, shallow=False)
        print(
            f"{done} kills in {time.monotonic() - began:.0f} s, {tables} tables of "
            f"{count_lines(killed):,} rows: {'equal to the byte' if same else 'THE TABLES DIFFER'}"
        )
    return not same


def start(listed: Path, run: Path, out: Path, processes: int) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own."""
    command = [sys.executable, "-m", "st_adapter", "predict", str(run), str(listed)]
    command += ["--out", str(out), "--processes", str(processes), "--workers", "0"]
    command += ["--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def wait_for_parts(out: Path) -> float:
    """Wait until a command begins; return the seconds, before which a kill would hit nothing."""
    began = time.monotonic()
    while not out.with_name(f"{out.name}.parts").exists():
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - began


def watch(
    process: subprocess.Popen[bytes], until: float = float("inf")
) -> list[tuple[float, float]]:
    """Wait for the end of a process or of its time; return seconds and MB of memory."""
    began, found = time.monotonic(), []
    while process.poll() is None and time.monotonic() < until:
        found.append((time.monotonic() - began, megabytes(process.pid)))
        time.sleep(_POLL_SECONDS)
    if process.poll() not in (None, 0):
        raise SystemExit(f"the command ended with code {process.returncode}")
    return found


def megabytes(number: int) -> float:
    """Memory of a process and those it started, without what they share."""
    total = 0
    try:
        parent = psutil.Process(number)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().uss
    except psutil.Error:  # it has just ended
        pass
    return total / 1e6


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the command alone; its processes must end by themselves."""
    process.kill()
    process.wait()


def show(memory: list[tuple[float, float]]) -> None:
    """Print the highest memory in each part of the time."""
    size = max(1, len(memory) // _SHOWN)
    for first in range(0, len(memory), size):
        part = memory[first : first + size]
        print(f"  {part[0][0]:6.0f} s  {max(mb for _, mb in part):7.0f} MB", flush=True)


def rows_done(out: Path) -> int:
    """Count the rows of all parts."""
    return sum(count_lines(part) for part in out.with_name(f"{out.name}.parts").glob("0*.jsonl"))


def count_lines(file: Path) -> int:
    """Count the lines of a file."""
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("listed", type=Path, metavar="LIST")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.listed, given.run, given.kills, given.processes, given.seed))
