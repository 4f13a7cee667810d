"""The entry point: read the arguments, make one call into the library, return an exit code.

Heavy modules are imported only when a subcommand runs, so that `--help` answers at once.
"""

import os
import shlex
import signal
import sys
import time
import traceback
from types import FrameType

import click

from st_adapter import __version__
from st_adapter.cli import (
    DONE,
    INVALID,
    SOME_FAILED,
    STOPPED,
    export,
    features,
    labels,
    live,
    look,
    serve,
    share,
    timeline,
    train,
    use,
)
from st_adapter.cli.options import DEBUG, Verbs
from st_adapter.common.interrupt import SAME_SECONDS, STOP_SIGNALS, leave
from st_adapter.common.provenance import as_command
from st_adapter.common.remarks import show_remarks
from st_adapter.errors import (
    ExportError,
    LabellingError,
    MemoryShortError,
    StAdapterError,
    TrainingError,
)

_EPILOG = """\b
Exit codes:
  0    success
  1    some videos failed, `check` found problems, or training, labelling or export failed
  2    invalid arguments or data
  130  stopped by Ctrl-C or SIGTERM

A RUN is a run folder, an adapter folder, or hf:USER/NAME on the Hugging Face hub.

Run `st-adapter COMMAND --help` for the options of a command.
"""
"""Shown below the list of subcommands. \\b keeps click from joining the lines."""


@click.group(
    cls=Verbs,
    params=[DEBUG],
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="st-adapter")
def app() -> None:
    """Turn an image model into a video classifier.

    By default, the image model stays frozen, and only small adapters inside it are trained.
    """


for _command in (
    *(train.demo, train.train, features.features, use.evaluate, use.predict),
    *(timeline.timeline, live.watch, serve.serve),
    *(look.check, train.compare),
    *(use.report, use.advise, export.export, share.push),
    labels.labels,
    *(look.inspect, train.bench, look.recipes, look.backbones),
    *(use.import_official, use.export_official),
):
    app.add_command(_command)


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand.

    An error that the user can fix is printed on stderr as one line, without a traceback.

    Args:
        arguments: The command line without the program's name. By default, `sys.argv[1:]`.

    Returns:
        The exit code: 0, 1, 2 or 130, as `st-adapter --help` explains them.
    """
    show_remarks()
    given = sys.argv[1:] if arguments is None else arguments
    with as_command(shlex.join(["st-adapter", *given])):
        return _run(arguments, debug="--debug" in given)


def _run(arguments: list[str] | None, debug: bool) -> int:
    """Run one subcommand, print its error if there is one, and return the exit code."""
    try:
        return int(app.main(arguments, standalone_mode=False) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return INVALID
    except click.Abort as error:
        return _stopped(str(error.__cause__ or ""))
    except (click.ClickException, StAdapterError, OSError) as error:
        # OSError: for example, the disk is full or a folder is not writable.
        if debug:
            traceback.print_exc()
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"st-adapter: error: {' '.join(message.split())}", file=sys.stderr)
        gave_up = isinstance(error, TrainingError | LabellingError | ExportError | MemoryShortError)
        return SOME_FAILED if gave_up else INVALID


def _stopped(message: str = "") -> int:
    print(f"\nst-adapter: {message or 'stopped'}", file=sys.stderr)
    return STOPPED


def entry() -> None:
    """Run the command in a process of its own, and exit with its exit code."""
    interrupts = _Interrupts()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and some shells ignore them
            signal.signal(number, interrupts)
    code = main()
    for number in STOP_SIGNALS:  # the work is done; a late signal must not change the exit code
        signal.signal(number, signal.SIG_IGN)
    leave(code)


class _Interrupts:
    """A signal handler that raises KeyboardInterrupt first, and then ends the process.

    A second signal within a second of the first is ignored: `timeout` sends SIGTERM twice.
    """

    def __init__(self) -> None:
        self._first: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            _interrupt(frame)
        elif now - self._first > SAME_SECONDS:
            os._exit(STOPPED)


def _interrupt(frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or end the process if it is importing a module.

    An exception in the middle of an import makes some native modules abort.
    """
    outer = frame
    while outer is not None:
        if outer.f_code.co_filename.startswith("<frozen importlib"):
            _stopped()
            sys.stderr.flush()
            os._exit(STOPPED)
        outer = outer.f_back
    raise KeyboardInterrupt
