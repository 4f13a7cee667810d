"""The command `st-adapter`: flags in, one call into the library, an exit code out.

Nothing heavy is imported before a verb runs, so that help answers at once.
"""

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any

import click

from st_adapter import __version__
from st_adapter.cli import DONE, INVALID, SOME_FAILED, STOPPED, look, train, use
from st_adapter.cli.options import Verbs, debug_option
from st_adapter.common.remarks import show_remarks
from st_adapter.errors import MemoryShortError, StAdapterError, TrainingError


@click.group(
    cls=Verbs,
    params=[debug_option()],
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
    noted: dict[str, Any] = {}
    show_remarks()
    try:
        return int(app.main(arguments, standalone_mode=False, obj=noted) or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return INVALID
    except click.Abort as error:
        return _stopped(str(error.__cause__ or ""))
    except (click.ClickException, StAdapterError, OSError) as error:
        # OSError: a disk is full, or a folder may not be written.
        if noted.get("debug"):
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
    signal.signal(signal.SIGINT, _on_interrupt)
    sys.exit(main())


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C: native modules abort when an exception comes while they are being imported."""
    outer = frame
    while outer is not None:
        if outer.f_code.co_filename.startswith("<frozen importlib"):
            _stopped()
            sys.stderr.flush()
            os._exit(STOPPED)
        outer = outer.f_back
    signal.default_int_handler(number, frame)
