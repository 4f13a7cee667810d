"""Print the results of subcommands as tables and lines of text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from st_adapter.cli.table import print_table
from st_adapter.comparison.results import MethodRow, at_edge
from st_adapter.data.audit import FAULTS, Check, Finding, remarks
from st_adapter.data.formats.listing import SHOWN, counted
from st_adapter.evaluation.metrics import METRICS
from st_adapter.recipes import ALIASES, Recipe

if TYPE_CHECKING:  # importing these imports triton, which `evaluate` does not need
    from st_adapter.catalogue.backbone_table import BackboneRow
    from st_adapter.catalogue.costs import RecipeCost
    from st_adapter.diagnosis.advice import Advice
    from st_adapter.exporting.run import Exported

_MEASURES = {
    "mean_average_precision": "mAP",
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean class accuracy",
}

_BASELINES = {
    "largest_class": "the largest class alone",
    "one_frame": "a linear probe on one frame",
    "prevalence": "mAP of uninformative scores",
}


def print_evaluation(result: dict[str, Any]) -> None:
    """Print how good a classifier is, how sure that is, and what a simple one would reach.

    Args:
        result: An evaluation as plain values, as in `eval.json`.
    """
    temporal, spatial = result["views"]
    skipped = f", {result['num_skipped']} skipped" if result["num_skipped"] else ""
    groups = result["num_groups"]
    counted_as = "" if groups is None else f" in {counted(groups, 'group')}"
    rows = {f"{name} ": values for name, values in result["heads"].items()}
    rows["all heads " if rows else ""] = result
    lines = [name + "  ".join(_with_intervals(values)) for name, values in rows.items()]
    lines.append(
        f"{counted(result['num_videos'], 'video')}{counted_as}{skipped}, {temporal}x{spatial} "
        "views; in brackets: 95% intervals"
    )
    baselines = (f"{_BASELINES[name]} {value:.1%}" for name, value in result["baselines"].items())
    lines.append(f"for comparison: {', '.join(baselines)}")
    lines += _decisions(result)
    if result["temporal"]:
        orders = (f"{n.replace('_', ' ')} {a:.1%}" for n, a in result["temporal"].items())
        lines.append(f"frames {', '.join(orders)}")
    click.echo("\n".join(lines))


def _with_intervals(values: dict[str, Any]) -> list[str]:
    """Format each measure that there is, with its interval."""
    texts = []
    for key, words in _MEASURES.items():
        if values.get(key) is not None:
            low, high = values["intervals"][key]
            texts.append(f"{words} {values[key]:.1%} ({100 * low:.0f} to {100 * high:.0f})")
    return texts


def _decisions(result: dict[str, Any]) -> list[str]:
    """Say how far scores can be trusted, and where the line between two classes is."""
    lines, calibration = [], result["calibration"]
    if set(calibration["temperatures"]) - {1.0}:
        temperatures = ", ".join(f"{value:.2f}" for value in calibration["temperatures"])
        lines.append(
            f"calibration error {calibration['error']:.3f} with temperature {temperatures}, "
            f"{calibration['error_uncalibrated']:.3f} without"
        )
    else:
        lines.append(f"calibration error {calibration['error']:.3f}")
    if result["binary"]:
        lines.append(
            f"{result['binary']['positive']}: area under ROC curve "
            f"{result['binary']['roc_auc']:.3f}, predicted from a score of {result['threshold']}"
        )
    return lines


def print_export(exported: "Exported", runtime: str) -> None:
    """Print what was written, how its scores differ, and how fast it is.

    Args:
        exported: the exported file.
        runtime: name of the software that runs it.
    """
    size = exported.fixed_size
    accepts = f"only frames of {size} x {size} px" if size else "frames of any size"
    click.echo(
        f"{exported.path}: {exported.num_bytes / 1e6:,.1f} MB, {exported.precision}, {accepts}"
    )
    compared = {"noise": exported.noise, "videos": exported.videos}
    print_table(
        ("scores", ">compared", ">largest difference", ">same labels"),
        (
            (name, f"{one.num:,}", f"{one.difference:.1e}", f"{one.same_labels:.1%}")
            for name, one in compared.items()
            if one is not None
        ),
    )
    ours, theirs = exported.model_seconds, exported.seconds
    print_table(
        ("speed", ">seconds per clip", ">times as fast"),
        (
            ("PyTorch, float32", f"{ours:.3f}", "1.00"),
            (runtime, f"{theirs:.3f}", f"{ours / theirs:.2f}"),
        ),
    )


def print_advice(found: "Sequence[Advice]") -> None:
    """Print numbered pieces of advice, each with its reason and its command."""
    if not found:
        click.echo("nothing to propose: the run has not been evaluated")
    for number, advice in enumerate(found, start=1):
        click.echo(f"{number}. {advice.action}")
        click.echo(f"   {advice.cause}: {advice.reason}\n   {advice.command}")


def print_folds(folds: dict[str, Any], pooled: dict[str, Any]) -> None:
    """Print how much the scores of folds differ, in one line.

    Args:
        folds: The summary in `folds.json`.
        pooled: The evaluation of all folds together, as plain values.
    """
    metric, interval = folds["metric"], pooled.get("intervals", {}).get(folds["metric"])
    sure = "" if interval is None else f" ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
    click.echo(
        f"{counted(len(folds['folds']), 'fold')}: mean {METRICS[metric]} {folds['mean']:.1%} ± "
        f"{100 * folds['spread']:.1f}, lowest {folds['lowest']:.1%}, highest "
        f"{folds['highest']:.1%}; all videos {pooled[metric]:.1%}{sure}"
    )


def print_comparison(rows: Sequence[MethodRow]) -> None:
    """Print a table of accuracy and one of costs, each with one line per method."""
    metric = METRICS[rows[0].metric] if rows else METRICS["top1"]
    numbers = (metric, "95%", "seeds", "reversed", "shuffled", "frozen", "lr")
    print_table(("method", *(f">{name}" for name in numbers)), map(accuracy_cells, rows))
    click.echo(
        f"{metric}: mean over seeds in %. 95%: interval of a seed, by the number of videos.\n"
        "seeds: lowest to highest; 2/3 after a mean says that one of three diverged.\n"
        f"reversed, shuffled, frozen: {metric} with frames in that order, or all equal.\n"
        "lr: learning rate that the trials chose; * marks the lowest or highest tried.\n"
    )
    costs = ("trained", "stored", "step", "peak", "GMACs")
    print_table(("method", *(f">{name}" for name in costs)), map(cost_cells, rows))
    click.echo(
        "step: ms per training step, methods measured in alternation.\n"
        "peak: memory of the training process in GB."
    )


def accuracy_cells(row: MethodRow) -> list[str]:
    """Format how accurate a method is, in the order of the columns."""
    percent = "–" if row.score is None else f"{100 * row.score:.1f}"
    if row.diverged:
        percent += f" {len(row.seeds) - len(row.diverged)}/{len(row.seeds)}"
    interval = "" if row.interval is None else "–".join(f"{100 * end:.0f}" for end in row.interval)
    spread = "" if row.lowest is None else f"{100 * row.lowest:.0f}–{100 * (row.highest or 0):.0f}"
    return [
        row.method,
        percent,
        interval,
        spread,
        *(
            f"{100 * row.temporal[order]:.1f}" if row.temporal else "–"
            for order in ("reversed", "shuffled", "frozen")
        ),
        f"{row.lr}{'*' if at_edge(row.lr, row.search) else ''}",
    ]


def cost_cells(row: MethodRow) -> list[str]:
    """Format what a method costs, in the order of the columns."""
    return [
        row.method,
        f"{row.trained_parameters / 1e6:.3f} M ({row.share:.1%})",
        f"{row.stored_bytes / 1e6:.2f} MB",
        f"{1000 * row.step_seconds:.0f}",
        f"{row.memory_gb:.2f}",
        f"{row.gmacs:.3g}",
    ]


def print_check(check: Check) -> None:
    """Print the size of the data, then the count and a few examples of each kind of finding."""
    train, val = check.videos["train"], check.videos["val"]
    click.echo(
        f"{counted(train, 'training video')} and {counted(val, 'validation video')} of "
        f"{counted(len(check.classes), 'class', 'classes')} in {counted(check.files, 'file')}"
    )
    for name, unit, spread in (
        ("length", " s", check.durations_seconds),
        ("frames", "", check.frames),
        ("short side", " px", check.short_sides),
    ):
        if spread:
            low, median, high = (f"{value:.4g}" for value in spread)
            click.echo(f"{name}: {low} to {high}{unit}, median {median}")
    counts = {label: count for label, (count, _) in check.classes.items()}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    line = f"training videos per class: {counts[least]}"
    if counts[least] < counts[most]:
        line += f" ({least}) to {counts[most]} ({most})"
        line += ", very uneven" if counts[most] > 10 * max(1, counts[least]) else ""
    click.echo(line)
    _print_findings("problems", FAULTS, check.findings)
    _print_findings("worth knowing", remarks(), check.findings)
    if not check.faults:
        click.echo("\nno problems found")


def _print_findings(
    title: str, kinds: Mapping[str, tuple[str, str]], findings: Sequence[Finding]
) -> None:
    by_kind = {kind: [f for f in findings if f.kind == kind] for kind in kinds}
    if any(by_kind.values()):
        click.echo(f"\n{title}:")
    for kind, found in by_kind.items():
        if found:
            click.echo(f"  {counted(len(found), *kinds[kind])}")
        for finding in found[:SHOWN]:
            click.echo(f"    {finding.path}{f': {finding.detail}' if finding.detail else ''}")
        if len(found) > SHOWN:
            click.echo(f"    ... and {len(found) - SHOWN} more; use --out FOLDER to list them all")


def print_recipes(costs: "Sequence[RecipeCost]") -> None:
    """Print the published recipes with their cost and accuracy."""
    print_table(
        ("recipe", "adapters", ">trained", ">GMACs", "views", "*", "top-1, %", "source"),
        (
            (
                cost.name,
                cost.adapters,
                f"{cost.trained / 1e6:.3f} M",
                f"{cost.gmacs:.1f}",
                cost.config.views,
                "*" if cost.recipe.chosen else "",
                cost.recipe.published or "-",
                cost.recipe.source,
            )
            for cost in costs
        ),
    )
    aliases = ", ".join(f"{alias} is {name}" for alias, name in ALIASES.items())
    click.echo(
        f"\nShort names: {aliases}.\n"
        "Trained parameters include the head. GMACs are those of one view at 224 px.\n"
        "-: no published accuracy was found.\n"
        "*: the paper and its code leave some values open; `st-adapter recipes NAME`\n"
        "   explains the choice."
    )


def print_recipe(recipe: Recipe, values: dict[str, Any]) -> None:
    """Print one recipe.

    Prints the values that differ from the defaults, the published accuracy, and the reasons for
    values that the paper and its code do not give.

    Args:
        recipe: The recipe.
        values: The values of all settings under this recipe.
    """
    lines = [f"{key} = {values[key]}" for key in recipe.values] or [
        "all settings have their default values"
    ]
    if recipe.published:
        lines += ["", f"published top-1, %: {recipe.published} ({recipe.source})"]
    if recipe.chosen:
        lines += ["", "chosen here, because neither the paper nor its code gives a value:"]
        lines += [f"  {topic}: {reason}" for topic, reason in recipe.chosen.items()]
    click.echo("\n".join(lines))


def print_backbones(found: "Mapping[BackboneRow, Sequence[str]]", refused: bool) -> None:
    """Print image models with the tags of their weights, or the reasons why adapters do not fit."""
    if refused:
        rows = ((row.model, row.refused) for row in found)
        print_table(("model", "why adapters do not fit"), rows)
        return
    print_table(
        ("model", ">params", ">px", ">adapters", "weights"),
        (
            (
                row.model,
                f"{row.parameters / 1e6:.1f} M",
                f"{row.size}{'+' if row.any_size else ' '}",
                str(row.adapters),
                " ".join(tags),
            )
            for row, tags in found.items()
        ),
    )
    click.echo(
        "\npx: height and width of the frames; + means that other sizes fit, too.\n"
        "`st-adapter inspect --backbone MODEL` shows where the adapters sit."
    )


def print_bench(result: dict[str, Any]) -> None:
    """Print the results of `bench`."""
    device, kind = result["device"], result["processor"]
    click.echo(
        f"{result['method']} on {result['backbone']}, {counted(result['batch_size'], 'clip')} of "
        f"{counted(result['frames'], 'frame')}, {result['size']} px, {result['precision']}, "
        f"{device}{f' with {kind}' if kind and kind != device else ''}, "
        f"{counted(result['threads'], 'thread')}\n"
    )
    print_table(
        ("", ">ms", ">clips/s", ">peak, GB"),
        (
            (
                row["what"],
                f"{1000 * row['seconds']:.1f}",
                f"{row['clips_per_second']:.2f}",
                "" if row["peak_gb"] is None else f"{row['peak_gb']:.2f}",
            )
            for row in result["rows"]
        ),
    )
