"""The subcommands that use a trained run, and those that convert one from or to other code."""

import json
import shlex
from pathlib import Path
from typing import Any

import click

from st_adapter.cli import DONE, SOME_FAILED
from st_adapter.cli.imports import import_predictor, quick_imports
from st_adapter.cli.options import DATA_SETTINGS, PATH, RUN_DEFAULTS, RUN_SETTINGS, PartOf, verb
from st_adapter.common.hub import is_hub_name
from st_adapter.config import DataConfig, parse_views
from st_adapter.errors import ArgumentError

_NEED_OUT = (".txt", ".csv", ".tsv", ".parquet", ".tar")
"""Suffixes of lists, tables and shards, whose videos are only labelled into a table."""

THRESHOLD = click.option(
    "--threshold",
    type=float,
    help="Score from which the second of two classes, or each of any number of labels, is "
    "predicted.  [default: chosen by training, or 0.5]",
)
UNCALIBRATED = click.option(
    "--uncalibrated",
    is_flag=True,
    help="Leave out the temperatures that training fitted so that scores tell how often answers "
    "are right.",
)


@verb(*DATA_SETTINGS, *RUN_SETTINGS, defaults=RUN_DEFAULTS)
@click.argument("run", type=PATH)
@click.argument("data", type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="File to write.  [default: eval.json in RUN, or no file if RUN is an adapter folder or on "
    "the hub]",
)
@click.option(
    "--temporal",
    is_flag=True,
    help="Also evaluate with frames reversed, shuffled and frozen, to see how much order matters.",
)
@THRESHOLD
@UNCALIBRATED
def evaluate(
    run: Path,
    data: Path,
    out: Path | None,
    temporal: bool,
    views: str | None,
    uncalibrated: bool,
    **options: Any,
) -> int:
    """Measure the accuracy of RUN on labelled videos.

    Uses the validation part of DATA, or all of DATA if it has none. If RUN was trained on DATA,
    uses only the videos that were held out from training.
    """
    chosen = parse_views(views) if views else None
    with quick_imports():
        from st_adapter.cli.tables import print_evaluation
        from st_adapter.common.remarks import note
        from st_adapter.diagnosis.warnings import result_warnings
        from st_adapter.evaluation.run import evaluate as run_evaluation

    given = {name: options.pop(name) for name in DATA_SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    where = DataConfig(**given) if given else None
    result = run_evaluation(
        run,
        data,
        out=out,
        options=where,
        temporal=temporal,
        views=chosen,
        calibrated=not uncalibrated,
        **options,
    )
    for skip in result.skipped:
        click.echo(f"skipped {skip.reason}", err=True)
    record = result.to_json()
    print_evaluation(record)
    for warning in result_warnings(record):
        note(warning.text)
    return SOME_FAILED if result.num_skipped else DONE


@verb(*RUN_SETTINGS, "videos", defaults=RUN_DEFAULTS)
@click.argument("run", type=PATH)
@click.argument("inputs", type=PATH, nargs=-1, required=True, metavar="[RUN]... VIDEO...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "--top", type=click.IntRange(1), default=3, show_default=True, help="Labels per video."
)
@THRESHOLD
@UNCALIBRATED
@click.option(
    "--out",
    type=PATH,
    help="Write a table to this .jsonl, .csv or .parquet file instead of printing. If the command "
    "is interrupted, run it again to continue.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="With --out: processes that label, each with a model of its own.",
)
@click.option(
    "--shard",
    type=PartOf(),
    help="With --out: label only part I of N, such as 1/4. Its table is FILE with "
    "-00001-of-00004 before the ending.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="With --out: label on the Ray cluster at this address; auto is the one that this machine "
    "belongs to, and local starts one.",
)
def predict(
    run: Path,
    inputs: tuple[Path, ...],
    as_json: bool,
    top: int,
    views: str | None,
    uncalibrated: bool,
    out: Path | None,
    processes: int,
    shard: tuple[int, int] | None,
    ray: str | None,
    videos: str | None,
    **options: Any,
) -> int:
    """Label videos with the classifier in RUN.

    VIDEOs are video files, URLs of such files, or folders that contain them. RUN can also be a
    file that `export` wrote, such as model.onnx.

    With --out, the labels go to a table. VIDEOs can then also be lists of paths (.txt), tables with
    a column `path` (.csv, .tsv, .parquet) and WebDataset shards (.tar), and several RUNs that were
    trained on the same image model label the videos together.
    """
    settings = options | {
        "views": parse_views(views) if views else None,
        "calibrated": not uncalibrated,
    }
    if out is None:
        _check_needs_out(processes=processes > 1, shard=shard, ray=ray, videos=videos)
        return _print_labels(run, inputs, as_json, top, settings)
    if as_json:
        raise ArgumentError(
            "--json prints labels, and --out writes them to a file; use one of them"
        )
    with quick_imports():
        from st_adapter.data.formats.listing import counted
        from st_adapter.labelling.label import label_videos
        from st_adapter.labelling.runs import leading_runs

    count = leading_runs(inputs)
    if count == len(inputs):
        raise ArgumentError("no videos were given, only runs; give videos, folders or a list")
    result = label_videos(
        [run, *inputs[:count]],
        inputs[count:],
        out,
        top=top,
        processes=processes,
        shard=shard,
        ray=ray,
        videos=videos,
        **settings,
    )
    if not result.was_complete:
        failed = f", of which {result.num_failed:,} failed" if result.num_failed else ""
        click.echo(f"{result.file}: {counted(result.num_videos, 'video')}{failed}")
    return SOME_FAILED if result.num_failed else DONE


def _check_needs_out(**flags: Any) -> None:
    """Raise ArgumentError if a flag was given that has an effect only with --out."""
    for name, given in flags.items():
        if given:
            raise ArgumentError(f"--{name} is for tables; give the table to write with --out FILE")


def _print_labels(
    run: Path, videos: tuple[Path, ...], as_json: bool, top: int, settings: dict[str, Any]
) -> int:
    """Label videos and print one line for each."""
    if runs := [path for path in videos if is_hub_name(path)]:
        raise ArgumentError(f"{runs[0]} is another run; add --out FILE to label with several runs")
    lists = [path for path in videos if path.suffix.lower() in _NEED_OUT]
    if lists:
        raise ArgumentError(
            f"{lists[0]} is a list of videos; add --out FILE to label them into a table"
        )
    from st_adapter.common.progress import bar
    from st_adapter.data.videos import Skipped
    from st_adapter.evaluation.predict import expand

    paths = expand(videos)
    workers = settings.pop("workers")
    if len(paths) <= 8:
        workers = 0  # starting workers takes longer than decoding so few videos
    predictor = import_predictor(run)(run, **settings)
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
                    "predicted": result.predicted,
                    "predictions": records(result.scores[:top]),
                }
                if result.heads:
                    record["heads"] = {n: records(s[:top]) for n, s in result.heads.items()}
            if as_json:
                click.echo(json.dumps(record))
            elif not isinstance(result, Skipped):
                parts = {"": result.scores} | result.heads
                text = (f"{n} {_shares(scores[:top])}".strip() for n, scores in parts.items())
                click.echo(f"{result.path}: {'; '.join(text)}")
            progress.advance()
    return SOME_FAILED if failed else DONE


def records(scores: list[tuple[str, float]]) -> list[dict[str, Any]]:
    """Return pairs of label and score in the form of the JSON output."""
    return [{"label": name, "score": round(score, 6)} for name, score in scores]


def _shares(scores: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {score:.1%}" for name, score in scores)


@verb()
@click.argument("run", type=PATH)
def report(run: Path) -> None:
    """Write an HTML report of a run or a comparison.

    Writes report.html into RUN, the folder of a run or of a comparison. The report of a run has its
    accuracy next to baselines, warnings, learning curves, a confusion matrix, a table of all
    predictions with film strips (mistakes first), and the command that reproduces it. The page is
    self-contained and works offline.
    """
    from st_adapter.report.page import write_report

    click.echo(f"{write_report(run)}")


@verb()
@click.argument("run", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def advise(run: Path, as_json: bool) -> None:
    """Propose what to try next after a training run.

    Prints what is likely to limit the result of RUN, most important first, with the numbers that
    show it and a command to run. Looks at the evaluation, the losses, the settings, and what
    `train` found out about the videos; opens no video.
    """
    from dataclasses import asdict

    from st_adapter.cli.tables import print_advice
    from st_adapter.diagnosis.advice import advise as find

    found = find(run)
    if as_json:
        click.echo(json.dumps([asdict(advice) for advice in found], indent=2))
    else:
        print_advice(found)


@verb(name="import-official")
@click.argument("checkpoint", type=PATH, metavar="CKPT")
@click.option("--out", type=PATH, required=True, help="Run folder to create.")
@click.option(
    "--labels", type=PATH, help="File of class names, one per line.  [default: 0, 1, 2 ...]"
)
@click.option(
    "--weights",
    default="hub",
    show_default=True,
    help="Backbone weights: hub, package, random, or a file such as OpenAI's ViT-B-16.pt.",
)
@click.option("--backbone", help="Any timm model.  [default: the CLIP model of the same size]")
@click.option(
    "--heads",
    type=click.IntRange(1),
    help="Attention heads.  [default: those of the backbone, or width / 64]",
)
@click.option("--frames", type=click.IntRange(1), help="Frames per clip.  [default: from --recipe]")
@click.option(
    "--recipe",
    help="Recipe that sets how clips are taken.  [default: k400 or ssv2, whichever fits]",
)
def import_official(checkpoint: Path, out: Path, **options: Any) -> None:
    """Convert a checkpoint of the authors' code to a run.

    CKPT is a file checkpoint-N.pth that was written by the code of the ST-Adapter paper. `evaluate`
    and `predict` use the new run like any other.

    A checkpoint does not record class names, clip settings or the number of attention heads. Use
    the options to set them if the defaults are wrong.
    """
    from st_adapter.official.importer import import_official as run_import

    click.echo(run_import(checkpoint, out, **options))
    click.echo(f"try: st-adapter predict {shlex.quote(str(out))} VIDEO")


@verb(name="export-official")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="The .pth file to write.")
def export_official(run: Path, out: Path) -> None:
    """Convert a run to a checkpoint of the authors' code.

    The checkpoint has no optimizer state. The authors' code can evaluate it, or train from it with
    its option --pretrain.
    """
    from st_adapter.official.exporter import export_official as run_export

    count = run_export(run, out)
    click.echo(f"{out}: {count} tensors")
