"""The subcommand features."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from st_adapter.cli import DONE, SOME_FAILED
from st_adapter.cli.options import DATA_SETTINGS, PATH, PartOf, given_settings, verb
from st_adapter.recipes import ALIASES, resolve
from st_adapter.wording import as_flags

_DECIDE = (
    *("backbone", "weights", "method", "positions", "adapter_layers", "trained_blocks"),
    *("side_every", "head_init"),
    *("frames", "stride", "size", "crop", "crop_range", "views", "square_pixels"),
    *("flip", "mirror", "reversal", "randaugment", "color_jitter", "erasing", "repeats", "draws"),
    *(*DATA_SETTINGS, "val", "val_fraction", "seed"),
    *("workers", "decoder", "keep_features", "precision", "device", "processes"),
)
"""Settings of training that decide which clips there are, and what is kept of them."""


@verb(*_DECIDE)
@click.argument("data", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder for the features.")
@click.option(
    "--shard",
    type=PartOf(),
    default="1/1",
    help="Compute only part I of N, such as 1/4. Parts can be computed at the same time, by "
    "several machines that share the folder.",
)
@click.option(
    "--recipe",
    help=f"Named configuration: default, {', '.join(ALIASES)} or another that `recipes` lists. "
    "Flags override it.  [default: default]",
)
@click.option("--config", "config_file", type=PATH, help="Settings file: a run's config.json.")
def features(
    data: Path,
    out: Path,
    shard: tuple[int, int],
    recipe: str | None,
    config_file: Path | None,
    **flags: Any,
) -> int:
    """Compute the features of the videos in DATA before training.

    What a frozen image model makes of a clip is the same in every epoch, and for every learning
    rate, seed and method that leaves it frozen. This command computes it for all training and
    validation clips. `train` and `compare` then read it with --features and the same settings, and
    need no decoding.

    Features that are in --out already are not computed again. To continue an interrupted command,
    run it again. --keep-features limits the size of the folder; by default, that is the disk.

    The defaults below are those of --recipe default, except that --draws is at least 1.
    """
    given = given_settings(flags)
    # With a limit, settings must have draws, which are known only when all others are.
    limit = {"keep_features": given.pop("keep_features")} if "keep_features" in given else {}
    config = resolve(recipe or "default", config_file, given)
    config = replace(config, draws=config.draws or 1, **limit)
    from st_adapter.training.features import compute_features

    done = compute_features(data, out, config, shard=shard)
    for skip in done.skipped:
        click.echo(f"skipped {skip.reason}", err=True)
    present = f", {done.num_present:,} of which were there" if done.num_present else ""
    missing = f"; {done.num_missing:,} could not be kept" if done.num_missing else ""
    click.echo(
        f"{out}: {done.num_computed + done.num_present:,} draws and views of "
        f"{done.num_videos:,} videos{present}{missing}; {done.gigabytes:.2f} GB in all"
    )
    same = {name: value for name, value in given.items() if name != "processes"}
    same |= {"draws": config.draws, "precision": done.precision}
    same |= {"keep_features": math.ceil(1.1 * done.gigabytes) or 1, "features": out}
    named = {"recipe": recipe, "config": config_file}
    words = ["st-adapter", "train", str(data), "--out", "RUN"]
    words += as_flags({name: value for name, value in named.items() if value is not None} | same)
    click.echo(f"train with: {shlex.join(words)}")
    return SOME_FAILED if done.num_missing else DONE
