"""The subcommand that serves runs over HTTP."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from st_adapter.cli.imports import import_predictor
from st_adapter.cli.options import PATH, RUN_DEFAULTS, verb
from st_adapter.cli.use import THRESHOLD, UNCALIBRATED
from st_adapter.config import parse_views
from st_adapter.errors import ArgumentError
from st_adapter.serving.limits import Limits

_SETTINGS = ("weights", "frames", "size", "views", "batch_size", "precision", "device")
_DEFAULTS = {name: value for name, value in RUN_DEFAULTS.items() if name in _SETTINGS}


def _limit_options(function: Any) -> Any:
    for item in reversed(dataclasses.fields(Limits)):
        option = click.option(
            f"--{item.name.replace('_', '-')}",
            type=type(item.default),
            default=item.default,
            show_default=True,
            help=item.metadata["help"],
        )
        function = option(function)
    return function


@verb(*_SETTINGS, defaults=_DEFAULTS)
@click.argument("runs", type=PATH, nargs=-1, metavar="RUN...")
@click.option(
    "--runs",
    "runs_folder",
    type=PATH,
    metavar="DIR",
    help="Also serve the runs in this folder. Runs can be added and removed meanwhile.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--token-file",
    type=PATH,
    help="File with a token that requests must have. Needed if other machines can reach HOST.",
)
@click.option("--no-token", is_flag=True, help="Let everyone in who can reach HOST.")
@_limit_options
@THRESHOLD
@UNCALIBRATED
def serve(
    runs: tuple[Path, ...],
    runs_folder: Path | None,
    host: str,
    port: int,
    token_file: Path | None,
    no_token: bool,
    views: str | None,
    uncalibrated: bool,
    **options: Any,
) -> None:
    """Serve RUNs on a web page and as a REST interface.

    Runs that were trained on the same image model share it in memory. Serves until Ctrl-C or
    SIGTERM, which is a normal end: requests that are under way are still answered. This needs the
    extra `serve`.
    """
    limits = Limits(**{item.name: options.pop(item.name) for item in dataclasses.fields(Limits)})
    chosen = parse_views(views) if views else None
    try:
        import fastapi, prometheus_client, python_multipart, uvicorn  # noqa: E401, F401, I001
    except ImportError as error:
        raise ArgumentError(
            f"serving needs the package {error.name}: pip install 'st-adapter[serve]'"
        ) from error
    from st_adapter.serving.access import is_loopback, read_token
    from st_adapter.serving.app import make_app
    from st_adapter.serving.server import listen, run

    for place in (*runs, *([runs_folder] if runs_folder else [])):
        import_predictor(place)  # with torch, unless there are only exported files
    token = read_token(host, token_file, no_token)
    with listen(host, port) as listener:
        app = make_app(
            runs,
            runs_folder=runs_folder,
            token=token,
            only_loopback=is_loopback(host) and not no_token,
            limits=limits,
            views=chosen,
            calibrated=not uncalibrated,
            **options,
        )
        run(app, listener)
