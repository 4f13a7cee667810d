"""The code blocks of the README, the tutorial and the how-to guides run as tests, in order.

Each page has a folder of its own with `my_videos/`, clips of two classes. Blocks that cannot run
here (they need the model hub, or several GPUs) have `<!-- skip: next "why" -->` before them.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models are so small that threads only wait

import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser


@cache
def _my_videos() -> Path:
    """Write the clips once: a folder of two classes, eight clips each."""
    from st_adapter.demo.clips import TRAIN_PHOTOS, write_clips

    folder = Path(tempfile.mkdtemp(prefix="st-adapter-docs-"))
    for _ in write_clips(folder / "all", TRAIN_PHOTOS[:4], scenes_per_pair=8, seed=0):
        pass
    for label in ("approaches", "recedes"):
        shutil.copytree(folder / "all" / label, folder / "my_videos" / label)
    return folder / "my_videos"


def _enter_folder(namespace: dict[str, object]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="st-adapter-page-"))
    shutil.copytree(_my_videos(), folder / "my_videos")
    shutil.copy(_my_videos() / "recedes" / "0000.mp4", folder / "new.mp4")
    namespace["_came_from"] = os.getcwd()
    os.chdir(folder)


def _leave_folder(namespace: dict[str, object]) -> None:
    for file in Path().glob("*.pid"):  # a server that a failed block has not stopped
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
    os.chdir(str(namespace["_came_from"]))


def _run_shell(example: Example) -> None:
    """Run the lines of a block; those of our own command in this process, which is quicker."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        command = shlex.split(line, comments=True)
        # Checks of shapes, which are switched on in tests, cannot be exported.
        elsewhere = {">", "|", "&&", "&", "export"} & set(command)
        if command[:1] == ["st-adapter"] and not elsewhere:
            from st_adapter.cli.main import main

            code = main(command[1:])
        elif command:
            environment = {
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            code = subprocess.run(["bash", "-c", line], env=environment, check=False).returncode
        else:
            code = 0
        assert code == 0, f"{line!r} ended with code {code}"


pytest_collect_file: Callable[..., object] = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser(language="sh", evaluator=_run_shell),
        SkipParser(),
    ],
    patterns=["README.md", "docs/tutorial.md", "docs/how-to/*.md"],
    setup=_enter_folder,
    teardown=_leave_folder,
).pytest()
