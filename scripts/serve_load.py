"""Send many videos to a server at once: are answers those of `predict`, and how fast do they come.

    python scripts/serve_load.py RUN VIDEO... [--clients 16] [--requests 500] [--processes 2]
    python scripts/serve_load.py --tasks 20 --backbone vit_base_patch16_224 VIDEO...

The first form labels the videos with `predict --out` and by uploads, compares the scores, and
prints the throughput of both, without their start, and the memory of the server while it answers.
The second form makes runs with random weights and compares the memory of a server that has one of
them with that of one that has all. The exit code is 1 if a request was lost or an answer differs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

_TOLERANCE = 2e-6
"""Two units of the last digit of a score: its last bits depend on which clips share a batch."""

_FEW = 16
"""Videos of the run of `predict` whose time is its start."""


class Server(NamedTuple):
    """A running server."""

    process: psutil.Process
    client: httpx.Client

    def memory(self) -> tuple[float, float]:
        """Return the resident memory of the server and of its decoders, in MB."""
        decoders = sum(child.memory_info().rss for child in self.process.children())
        return self.process.memory_info().rss / 2**20, decoders / 2**20


@contextmanager
def serving(*arguments: object, clients: int = 16) -> Iterator[Server]:
    """Run `st-adapter serve` in this block."""
    command = [sys.executable, "-m", "st_adapter", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.match(r"(http://\S+) serves", line):
            address = found[1]
            break
    else:
        sys.exit("".join(said))
    limits = httpx.Limits(max_connections=clients)
    try:
        with httpx.Client(base_url=address, timeout=300, limits=limits) as client:
            yield Server(psutil.Process(process.pid), client)
    finally:
        process.terminate()
        print(f"the server ended with code {process.wait(timeout=60)}")


def predict(run: Path, videos: Sequence[Path], processes: int) -> tuple[float, dict[str, list]]:
    """Label videos with the command; return its seconds, and labels with scores by path."""
    with tempfile.TemporaryDirectory() as folder:
        out, listed = Path(folder, "labels.jsonl"), Path(folder, "list.txt")
        listed.write_text("".join(f"{path.absolute()}\n" for path in videos))
        command = [sys.executable, "-m", "st_adapter", "predict", run, listed, "--out", out]
        began = time.monotonic()
        subprocess.run(
            [*map(str, command), "--top", "5", "--processes", str(processes), "--workers", "1"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.monotonic() - began
        rows = map(json.loads, out.read_text().splitlines())
        return seconds, {
            row["path"]: [*zip(row["labels"], row["scores"], strict=True)] for row in rows
        }


def send(server: Server, path: Path) -> tuple[int, dict, float]:
    """Upload a video; return status, answer and seconds."""
    began = time.monotonic()
    with path.open("rb") as file:
        answer = server.client.post("/v1/predict", files={"file": file})
    return answer.status_code, answer.json(), time.monotonic() - began


def differs(answer: dict, expected: list) -> bool:
    """Return whether an answer has other labels or scores than a row of the table."""
    (result,) = answer["results"].values()
    given = {pair["label"]: pair["score"] for pair in result["scores"]}
    return given.keys() != {label for label, _ in expected} or any(
        abs(given[label] - score) > _TOLERANCE for label, score in expected
    )


def load(run: Path, videos: Sequence[Path], clients: int, requests: int, processes: int) -> int:
    """Compare a server with `predict`."""
    sent = [*islice(cycle(videos), requests)]
    # The start takes as long as many videos, so that it is taken twice: the shorter one counts.
    starts = [predict(run, sent[:_FEW], processes)[0]]
    seconds, table = predict(run, [*dict.fromkeys(sent)], processes)
    starts.append(predict(run, sent[:_FEW], processes)[0])
    start = min(starts)
    labelled = len(table)
    by_command = (labelled - _FEW) / max(1e-9, seconds - start)
    print(
        f"predict --processes {processes}: {labelled} videos in {seconds:.1f} s, {_FEW} in "
        f"{start:.1f} s, so {by_command:.1f} videos/s; give enough videos for a minute"
    )
    with serving(run, clients=clients) as server, ThreadPoolExecutor(clients) as pool:
        for answered in pool.map(lambda path: send(server, path), sent[:_FEW]):
            assert answered[0] == 200, answered
        began = time.monotonic()
        memory, answers = [], []
        for number, answer in enumerate(pool.map(lambda path: send(server, path), sent)):
            answers.append(answer)
            if number % max(1, requests // 10) == 0:
                memory.append((number, *server.memory()))
        by_server = requests / (time.monotonic() - began)
        text = server.client.get("/metrics").text
    lost = sum(status != 200 for status, _, _ in answers)
    wrong = sum(
        status == 200 and differs(answer, table[str(path.absolute())])
        for path, (status, answer, _) in zip(sent, answers, strict=True)
    )
    waits = sorted(seconds for _, _, seconds in answers)
    print(
        f"{clients} clients, {requests} uploads: {lost} lost, {wrong} other answers, "
        f"{by_server:.1f} videos/s ({by_server / by_command:.2f} of predict), "
        f"median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s"
    )
    for number, own, decoders in memory:
        print(f"after {number:5} requests: server {own:.0f} MB, decoders {decoders:.0f} MB")
    for name in ("batch_videos", "decode_seconds", "model_seconds"):
        total, count = (
            float(re.search(rf"^st_adapter_{name}_{part} (\S+)", text, re.M)[1])
            for part in ("sum", "count")
        )
        print(f"mean {name}: {total / count:.3f}")
    return int(bool(lost or wrong))


def many_tasks(videos: Sequence[Path], count: int, backbone: str) -> int:
    """Compare the memory of a server with one task and with many."""
    import torch

    from st_adapter import create_model

    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for seed in range(count):
            torch.manual_seed(seed)
            model = create_model(backbone, [f"label {i}" for i in range(10)], weights="random")
            model.save_adapter(Path(folder, f"task{seed}"), model.spec.clip)
            runs.append(Path(folder, f"task{seed}"))
        adapters = model.num_parameters(only_trainable=True) * 4 / 2**20
        whole = model.num_parameters() * 4 / 2**20
        del model
        for given in (runs[:1], runs):
            with serving(*given, "--deadline", 600) as server:
                for path in videos[:2]:
                    status, answer, _ = send(server, path)
                    assert status == 200, answer
                measured[len(given)] = server.memory()[0]
                print(f"{len(given)} tasks: server {measured[len(given)]:.0f} MB")
    allowed = measured[1] + (count - 1) * adapters + 0.1 * whole
    print(
        f"an adapter has {adapters:.0f} MB, the model with one {whole:.0f} MB; one task and "
        f"{count - 1} adapters and 10 %: {allowed:.0f} MB"
    )
    return int(measured[count] > allowed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN VIDEO...")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=0)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    given = parser.parse_args()
    if given.tasks:
        sys.exit(many_tasks(given.paths, given.tasks, given.backbone))
    run, *videos = given.paths
    sys.exit(load(run, videos, given.clients, given.requests, given.processes))
