"""The subcommand that uploads a run to the Hugging Face hub."""

from pathlib import Path

import click

from st_adapter.cli.imports import quick_imports
from st_adapter.cli.options import PATH, verb


@verb()
@click.argument("run", type=PATH)
@click.argument("name", metavar="USER/NAME")
@click.option(
    "--private/--public",
    default=None,
    help="Whether only you can see a new repository.  [default: private; an existing repository "
    "keeps its visibility]",
)
@click.option(
    "--license",
    metavar="ID",
    help="Licence of the adapter, by its identifier on the hub, such as apache-2.0 or cc-by-4.0.  "
    "[default: none is stated]",
)
@click.option(
    "--message", default="Upload st-adapter", show_default=True, help="Message of the commit."
)
@click.option(
    "--out",
    type=PATH,
    help="Folder to create and to write the files to, instead of uploading them.",
)
def push(
    run: Path,
    name: str,
    private: bool | None,
    license: str | None,
    message: str,
    out: Path | None,
) -> None:
    """Upload RUN to the Hugging Face hub as USER/NAME, with a model card.

    Afterwards, hf:USER/NAME can be given wherever a RUN is taken. USER/NAME@BRANCH uploads to a
    branch. Uploads the adapter, the names of the classes, the measures of eval.json and a picture
    of them. Does not upload videos, their names, or the weights of the image model.
    """
    with quick_imports():
        from st_adapter.hub.push import push as upload

    place = upload(run, name, out=out, private=private, license=license, message=message)
    click.echo(place)
    if out is None:
        click.echo(f"use it: st-adapter predict hf:{name.removeprefix('hf:')} VIDEO")
