"""The command `st-adapter`: flags in, one call into the library, an exit code out.

Nothing heavy is imported before a verb runs, so that help answers at once.
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
from st_adapter.cli import DONE, INVALID, SOME_FAILED, STOPPED, look, train, use
from st_adapter.cli.options import DEBUG, Verbs
from st_adapter.common.interrupt import SAME_SECONDS, STOP_SIGNALS
from st_adapter.common.provenance import as_command
from st_adapter.common.remarks import show_remarks
from st_adapter.errors import MemoryShortError, StAdapterError, TrainingError


@click.group(
    cls=Verbs,
    params=[DEBUG],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="st-adapter")
def app() -> None:
    """Turn an image model into a video classifier by training a fraction of its parameters.

    Exit codes: 0 done; 1 done, but some inputs failed; 2 invalid arguments or data; 130 stopped.
    """


for _command in (
    *(train.demo, train.train, use.evaluate, use.predict, look.check, train.compare, use.report),
    *(look.inspect, train.bench, look.recipes, look.backbones),
    *(use.import_official, use.export_official),
):
    app.add_command(_command)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return its exit code; an error a user can mend is one line on stderr."""
    show_remarks()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with as_command(shlex.join(["st-adapter", *given])):
            return int(app.main(arguments, standalone_mode=False) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return INVALID
    except click.Abort as error:
        return _stopped(str(error.__cause__ or ""))
    except (click.ClickException, StAdapterError, OSError) as error:
        # OSError: a disk is full, or a folder may not be written.
        if "--debug" in given:
            traceback.print_exc()
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"st-adapter: error: {' '.join(message.split())}", file=sys.stderr)
        gave_up = isinstance(error, TrainingError | MemoryShortError)
        return SOME_FAILED if gave_up else INVALID


def _stopped(what: str = "") -> int:
    print(f"\nst-adapter: {what or 'stopped'}", file=sys.stderr)
    return STOPPED


def entry() -> None:
    """Run the console script."""
    interrupts = _Interrupts()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells set it
            signal.signal(number, interrupts)
    code = main()
    for number in STOP_SIGNALS:  # it is done
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


class _Interrupts:
    """Answers Ctrl-C and SIGTERM by KeyboardInterrupt; later ones, by ending the process.

    What follows the first within a second is the same: `timeout` sends its signal twice.
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
    """Native modules abort when an exception comes while they are being imported."""
    outer = frame
    while outer is not None:
        if outer.f_code.co_filename.startswith("<frozen importlib"):
            _stopped()
            sys.stderr.flush()
            os._exit(STOPPED)
        outer = outer.f_back
    raise KeyboardInterrupt
