"""The subcommand that serves runs over HTTP."""

from pathlib import Path
from typing import Any

import click

from st_adapter.cli.imports import quick_imports
from st_adapter.cli.options import PATH, RUN_DEFAULTS, verb
from st_adapter.config import parse_views

_SETTINGS = ("weights", "views", "batch_size", "precision", "device")
_DEFAULTS = {name: value for name, value in RUN_DEFAULTS.items() if name in _SETTINGS}


@verb(*_SETTINGS, defaults=_DEFAULTS)
@click.argument("runs", type=PATH, nargs=-1, metavar="RUN...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port."
)
def serve(runs: tuple[Path, ...], host: str, port: int, views: str | None, **settings: Any) -> None:
    """Serve runs over HTTP: a web page and a REST interface."""
    chosen = parse_views(views) if views else None
    with quick_imports():
        import uvicorn

        from st_adapter.serving.app import make_app

    uvicorn.run(make_app(runs, views=chosen, **settings), host=host, port=port)
