"""The subcommands of `labels`, which embed class names and add classes to a run."""

import shlex
from pathlib import Path

import click

from st_adapter.cli.options import DEBUG, PATH, RUN_DEFAULTS, Verbs, verb


@click.group(cls=Verbs, params=[DEBUG])
def labels() -> None:
    """Embed class names, and add classes to a run."""


@verb()
@click.argument("names", nargs=-1, required=True, metavar="NAMES...|DATA")
@click.option("--out", type=PATH, required=True, help="The .safetensors file to write.")
@click.option(
    "--model",
    default="ViT-B-16-quickgelu",
    show_default=True,
    help="Name of a CLIP model in open_clip. Its image encoder must be the --backbone of training.",
)
@click.option(
    "--pretrained",
    default="openai",
    show_default=True,
    help="Its weights: a name in open_clip, a file, or random.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="Prompt with {} for the class name; repeat it to average several.  [default: a video of "
    "{}. | a photo of {}. | a clip that shows {}.]",
)
@click.option(
    "--joint-space",
    is_flag=True,
    help="Write CLIP's text vectors themselves, without mapping them to the features that the "
    "classifier reads.",
)
def embed(
    names: tuple[str, ...],
    out: Path,
    model: str,
    pretrained: str,
    templates: tuple[str, ...],
    joint_space: bool,
) -> None:
    """Embed class names with CLIP's text encoder.

    The classes are NAMES, or those of a data set if the only argument is the path of one. Use the
    file with `train --head-init`. This needs the extra `open-clip`.
    """
    from st_adapter.data.annotations import read_annotations
    from st_adapter.model.class_vectors import check_vector_file, write_vectors
    from st_adapter.model.text import TEMPLATES, embed_labels

    check_vector_file(out)
    classes = names
    if len(names) == 1 and Path(names[0]).exists():
        classes = read_annotations(Path(names[0])).labels
    vectors = embed_labels(
        classes,
        model=model,
        pretrained=pretrained,
        templates=templates or TEMPLATES,
        joint_space=joint_space,
    )
    write_vectors(out, vectors)
    width = len(next(iter(vectors.values())))
    click.echo(f"{out}: {len(vectors)} classes, width {width}")


@verb("weights", "device", defaults={"device": RUN_DEFAULTS["device"]})
@click.argument("run", type=PATH)
@click.argument("name")
@click.option("--out", type=PATH, required=True, help="Run folder to create.")
@click.option(
    "--vectors",
    type=PATH,
    help="File with a vector of the class, for a run that did not start from class means.",
)
@click.option(
    "--videos",
    type=PATH,
    help="Folder with a few videos of the class, for a run with --head-init prototype.",
)
def add(
    run: Path,
    name: str,
    out: Path,
    vectors: Path | None,
    videos: Path | None,
    weights: str | None,
    device: str,
) -> None:
    """Add the class NAME to a RUN that was trained with --head cosine.

    Writes a new run. Nothing is trained, and the logits of the other classes do not change.
    """
    from st_adapter.evaluation.add_label import add_label

    count = add_label(
        run, name, out, vectors=vectors, videos=videos, weights=weights, device=device
    )
    hint = f"try: st-adapter predict {shlex.quote(str(out))} VIDEO"
    click.echo(f"{out / 'adapter'}: {count} classes; {hint}")


labels.add_command(embed)
labels.add_command(add)
