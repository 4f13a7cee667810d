"""A server in a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil


class Server:
    """A running `st-adapter serve`.

    Attributes:
        process: Its process.
        address: Such as http://127.0.0.1:41234.
        client: Sends requests to it.
    """

    def __init__(self, *arguments: object, temporary: Path | None = None) -> None:
        command = [sys.executable, "-m", "st_adapter", "serve", *map(str, arguments)]
        environment = os.environ | ({"TMPDIR": str(temporary)} if temporary else {})
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--device", "cpu"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if match := re.match(r"(http://\S+) serves", line):
                break
        else:
            raise AssertionError("".join(said))
        self.address = match[1]
        self.client = httpx.Client(base_url=self.address, timeout=120)

    def predict(self, path: Path, **fields: object) -> httpx.Response:
        """Send a video."""
        with path.open("rb") as file:
            return self.client.post("/v1/predict", files={"file": file}, data=fields)

    def decoders(self) -> list[psutil.Process]:
        """Return the processes that decode."""
        return psutil.Process(self.process.pid).children()


@contextmanager
def serving(*arguments: object, temporary: Path | None = None) -> Iterator[Server]:
    """Run a server in this block, with a folder for temporary files, and end it."""
    server = Server(*arguments, temporary=temporary)
    try:
        yield server
    finally:
        server.client.close()
        server.process.kill()
        server.process.communicate()
