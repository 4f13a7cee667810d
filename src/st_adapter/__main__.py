"""Start the command line: as `st-adapter`, or as `python -m st_adapter`."""

import os
import signal


def entry() -> None:
    """Run the command in a process of its own, and exit with its exit code."""
    # A KeyboardInterrupt in the middle of an import can abort native modules or become another
    # error. So a signal ends the process at once until the command handles signals itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and some shells ignore them
            signal.signal(number, _stop)
    from st_adapter.cli.main import entry as run

    run()


def _stop(*_: object) -> None:
    os.write(2, b"\nst-adapter: stopped\n")
    os._exit(130)


if __name__ == "__main__":  # the worker processes of `compare` import this file
    entry()
