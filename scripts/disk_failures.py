"""Let a disk fail under runs, mend it, resume them, and compare with one left alone. Needs root.

    python scripts/disk_failures.py DATA

Each run is the real command. The small tmpfs that it writes to is filled up or made read-only in
mid-run, or the folder of the videos is renamed. It must end with the right code and one line that
names what failed; its last state must load; resumed, it must end equal to the bit.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kill_runs import CONFIG, compare, read_all

MEGABYTES = 64


def main(data: Path) -> int:
    """Go through the cases, a line each."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder, "disk")
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(disk)]
        subprocess.run(mount, check=True)
        try:
            videos = Path(folder, "videos")
            shutil.copytree(data, videos)
            alone, settings = Path(folder, "alone"), Path(folder, "settings.json")
            settings.write_text(json.dumps(CONFIG.to_json()))
            finish(start(videos, alone, settings), 0)
            for name, (break_it, mend_it, code) in cases(disk, videos).items():
                out = disk / name.replace(" ", "-")
                outcome = try_case(videos, out, alone, settings, break_it, mend_it, code)
                print(f"{name}: {outcome}", flush=True)
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
    return 0


def cases(
    disk: Path, videos: Path
) -> dict[str, tuple[Callable[[], object], Callable[[], object], int]]:
    """What fails: how to break it, how to mend it, the exit code that is due."""
    filler, gone = disk / "filler", videos.with_name("gone")

    def remount(how: str) -> None:
        command = ["mount", "-o", f"remount,{how}", str(disk)]
        while subprocess.run(command, capture_output=True).returncode:  # a file is being written
            time.sleep(0.001)

    return {
        "disk full": (lambda: fill(filler), filler.unlink, 1),
        "disk read-only": (lambda: remount("ro"), lambda: remount("rw"), 1),
        "videos gone": (lambda: videos.rename(gone), lambda: gone.rename(videos), 2),
    }


def fill(file: Path) -> None:
    """Take all that is left of a disk."""
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return


def try_case(
    videos: Path,
    out: Path,
    alone: Path,
    settings: Path,
    break_it: Callable[[], object],
    mend_it: Callable[[], object],
    code: int,
) -> str:
    """Break a run once it has saved a state; return the line that it ended with."""
    process = start(videos, out, settings)
    while not list(out.glob("state/*.pt")):
        if process.poll() is not None:
            raise SystemExit(f"ended by itself: {process.communicate()[1]}")
        time.sleep(0.005)
    break_it()
    if process.poll() is not None:
        raise SystemExit("the run was over before anything failed; give more videos")
    line = finish(process, code)
    if not any(str(place) in line for place in (out, videos)):
        raise SystemExit(f"names no file: {line}")
    read_all(out)
    mend_it()
    finish(start(videos, out, settings), 0)
    compare(alone, out)
    return f"code {code}, the last state loads, resumed equal to the bit: {line}"


def start(videos: Path, out: Path, settings: Path) -> "subprocess.Popen[str]":
    """The command that begins or resumes the run."""
    command = [sys.executable, "-m", "st_adapter", "train", str(videos), "--out", str(out)]
    if (out / "config.json").exists():
        command.append("--resume")
    else:
        command += ["--config", str(settings)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]", code: int) -> str:
    """Wait for the end; return the last line of stderr, or raise where it is another end."""
    _, errors = process.communicate(timeout=300)
    if process.returncode != code or "Traceback" in errors:
        raise SystemExit(f"ended with {process.returncode} instead of {code}:\n{errors}")
    said = [line for line in errors.splitlines() if line.startswith("st-adapter: error:")]
    if len(said) != (code != 0):
        raise SystemExit(f"{len(said)} lines of error:\n{errors}")
    return said[0] if said else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    sys.exit(main(parser.parse_args().data))
