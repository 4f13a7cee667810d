"""Collect the values that the page of a comparison shows from the files of its runs."""

import csv
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.comparison.results import at_edge, interval_of, read_skipped
from st_adapter.evaluation.metrics import METRICS
from st_adapter.report.answers import is_right, with_strips
from st_adapter.report.figures import MethodPoint, frontier, small_loss_curves
from st_adapter.report.parts import (
    baselines_of,
    class_score,
    confusion_values,
    duration,
    moment,
    percent,
    skipped_values,
    track,
)

_SHOWN_CLIPS = 4
"""Most clips in each list of clips that methods disagree about."""

_EARLIER: dict[str, Any] = {"metric": "top1", "heads": {}, "intervals": {}}
"""Values of an `eval.json` from a version that did not write them."""

_Evaluations = dict[str, list[dict[str, Any]]]
"""The evaluations of each method, one per seed; the best method first.

A method is left out if every seed diverged.
"""


def comparison_values(folder: Path) -> dict[str, Any]:
    """Collect the values for the template `comparison.html` from the folder of a comparison."""
    record = read_json(folder / "results.json")
    plan = record["plan"]
    measured = _read_evaluations(folder, record["results"])
    intervals = {method: interval_of(found) for method, found in measured.items()}
    rows = [
        row | {"edge": at_edge(row["lr"], row["search"]), "interval": intervals.get(row["method"])}
        for row in record["results"]
    ]
    known = [row for row in rows if row["method"] in measured]
    best = known[0]["method"] if known else ""
    metric = METRICS[rows[0]["metric"]] if rows else "top-1"
    labels: list[str] = measured[best][0]["labels"] if best else []
    baselines = baselines_of(measured[best][0]) if best else {}
    counts = _counts(folder)
    return {
        "title": f"{len(rows)} transfer {'method' if len(rows) == 1 else 'methods'} "
        f"on {plan['config']['backbone']}",
        "meta": _meta(plan, rows, measured),
        "plan": plan,
        "metric": metric[0].upper() + metric[1:] if metric.islower() else metric,
        "rows": rows,
        "best": best,
        "verdict": _verdict(known, baselines),
        "has_intervals": any(intervals.values()),
        "ranking": _ranking(known, baselines),
        "tiles": _tiles(counts, plan, rows, len(labels)),
        "warnings": _warnings(rows, plan),
        "lead": _lead(counts, plan),
        "figures": _figures(known, metric),
        "losses": _losses(folder, rows),
        "labels": labels,
        "by_class": {method: _by_class(found) for method, found in measured.items()},
        "by_order": [row for row in rows if row["temporal"]],
        "command": plan["command"],
        "versions": plan["versions"],
        **_contrasting_clips(folder, plan["config"], measured),
        **confusion_values(labels, _summed([e["confusion"] for e in measured.get(best, [])])),
        **skipped_values(read_skipped(folder)),
    }


def _read_evaluations(folder: Path, rows: list[dict[str, Any]]) -> _Evaluations:
    evaluations = {}
    for row in rows:
        files = [_run(folder, row["method"], seed) / "eval.json" for seed in row["seeds"]]
        if found := [_EARLIER | read_json(file) for file in files if file.exists()]:
            evaluations[row["method"]] = found
    return evaluations


def _run(folder: Path, method: str, seed: str) -> Path:
    return folder / "runs" / method / f"seed_{seed}"


def _meta(
    plan: dict[str, Any], rows: list[dict[str, Any]], measured: _Evaluations
) -> list[tuple[str, str | None]]:
    config = plan["config"]
    last = [found[-1] for found in measured.values()]
    seconds = sum(row["train_seconds"] * len(row["seeds"]) for row in rows)
    return [
        ("Data", plan["data"]),
        ("Clips", f"{config['frames']} frames of {config['size']} px"),
        ("Epochs", f"{config['epochs']}"),
        ("Seeds", ", ".join(map(str, plan["seeds"]))),
        ("Date", moment(max((e.get("date", "") for e in last), default=""))),
        ("Training time of all runs", duration(seconds)),
        ("Machine", ", ".join(dict.fromkeys(e["machine"] for e in last if e.get("machine")))),
    ]


def _counts(folder: Path) -> dict[str, int]:
    """Count training and test videos, and those held out of the training videos for trials."""
    videos = _splits(folder / "videos.csv")
    search = folder / "search.csv"
    held_out = _splits(search)["val"] if search.exists() else 0
    return {"train": videos["train"], "val": videos["val"], "held_out": held_out}


def _splits(file: Path) -> Counter[str]:
    with file.open(newline="", encoding="utf-8") as text:
        return Counter(row["split"] for row in csv.DictReader(text))


def _verdict(known: list[dict[str, Any]], baselines: dict[str, float]) -> str:
    """Say which methods cannot be told apart from the best, and whether it beats the baselines."""
    if not known:
        return "Every run diverged."
    best, *others = known
    low = (best["interval"] or [best["lowest"]])[0]
    close = [row for row in others if (row["interval"] or [0, row["highest"]])[1] >= low]
    text = ""
    if others:
        by = "intervals" if best["interval"] else "ranges of seeds"
        text = (
            f"The {by} of {len(close)} of {len(others)} other methods overlap with that of "
            f"{best['method']}, though on the same videos small differences can be real. "
            if close
            else f"The {by} of all other methods are below that of {best['method']}. "
        )
    if baselines:
        name, value = next(iter(baselines.items()))
        word = "above" if low > value else "not clearly above"
        text += f"{best['method']} is {word} the best baseline, {name[0].lower()}{name[1:]} "
        text += f"({percent(value)})."
    return text


def _ranking(known: list[dict[str, Any]], baselines: dict[str, float]) -> list[dict[str, Any]]:
    rows = [
        track(
            row["method"],
            row["score"],
            row["interval"],
            seeds=(row["lowest"], row["highest"]),
            own=row["method"] == "st-adapter",
        )
        for row in sorted(known, key=lambda row: -row["score"])
    ]
    return rows + [track(name, value) for name, value in baselines.items()]


def _tiles(
    counts: dict[str, int], plan: dict[str, Any], rows: list[dict[str, Any]], num_classes: int
) -> list[tuple[str, str, str]]:
    held_out = f"{counts['held_out']} held out to choose learning rates"
    seeds = len(plan["seeds"])
    return [
        ("Training videos", f"{counts['train']}", held_out if counts["held_out"] else ""),
        ("Test videos", f"{counts['val']}", f"one video is {percent(1 / max(1, counts['val']))}"),
        ("Classes", f"{num_classes}", ""),
        ("Methods", f"{len(rows)}", f"{seeds} {'seed' if seeds == 1 else 'seeds'} each"),
    ]


def _warnings(rows: list[dict[str, Any]], plan: dict[str, Any]) -> list[dict[str, str]]:
    """List what makes the comparison less certain, each with what to do."""
    found = []
    for row in rows:
        if row["diverged"]:
            reasons = "; ".join(f"seed {seed}: {text}" for seed, text in row["diverged"].items())
            counted = f"The mean is over {len(row['seeds']) - len(row['diverged'])} seeds."
            found.append({"rule": f"{row['method']} diverged", "text": f"{reasons}. {counted}"})
    if edges := [row["method"] for row in rows if row["edge"] and len(plan["rates"]) > 1]:
        text = (
            f"{', '.join(edges)}: the best rate tried is the lowest or highest of the list, so one "
            "outside of it may be better. Repeat with a wider --lrs."
        )
        found.append({"rule": "learning rate at the edge", "text": text})
    if len(plan["seeds"]) == 1:
        text = "The spread between seeds is unknown. Repeat with several, such as --seeds 0,1,2."
        found.append({"rule": "a single seed", "text": text})
    for method, reason in plan["refused"].items():
        found.append({"rule": f"{method} was left out", "text": reason})
    return found


def _lead(counts: dict[str, int], plan: dict[str, Any]) -> str:
    """Say how the comparison was made."""
    rates = ", ".join(map(str, plan["rates"]))
    epochs = f"{plan['search_epochs']} {'epoch' if plan['search_epochs'] == 1 else 'epochs'}"
    chosen = (
        f"The learning rate of each was chosen from {rates} by trials of {epochs} on "
        f"{counts['held_out']} videos held out of the training videos."
        if len(plan["rates"]) > 1
        else f"All were trained with the learning rate {rates}."
    )
    return (
        f"All methods saw the same clips in the same order. {chosen} Results are those of the "
        "last epoch: the test videos were used once, after training."
    )


def _figures(known: list[dict[str, Any]], metric: str) -> str:
    """Draw the scores against parameters, for a phone and for a wide screen."""
    points = [
        MethodPoint(
            method=row["method"],
            parameters=row["trained_parameters"],
            score=row["score"],
            seeds=(row["lowest"], row["highest"]),
            interval=tuple(row["interval"]) if row["interval"] else None,
        )
        for row in known
    ]
    return "".join(frontier(points, metric, narrow=narrow) for narrow in (True, False) if points)


def _losses(folder: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Draw the training loss of each method with every seed."""
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    for row in rows:
        for seed in row["seeds"]:
            lines = read_json_lines(_run(folder, row["method"], seed) / "metrics.jsonl")
            if losses := [(x["step"], x["loss"]) for x in lines if x.get("loss") is not None]:
                curves.setdefault(row["method"], []).append(losses)
    return small_loss_curves(curves) if curves else {}


def _by_class(evaluations: list[dict[str, Any]]) -> list[float | None]:
    """Average the score of each class over seeds; None for a class that does not occur."""
    metric = evaluations[0]["metric"]
    columns = zip(*(e["per_class"].values() for e in evaluations), strict=True)
    scores = [
        [s for v in column if (s := class_score(v, metric)) is not None] for column in columns
    ]
    return [fmean(known) if known else None for known in scores]


def _summed(matrices: list[list[list[int]]]) -> list[list[int]]:
    return [
        [sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)
    ]


def _contrasting_clips(
    folder: Path, config: dict[str, Any], measured: _Evaluations
) -> dict[str, list[dict[str, Any]]]:
    """Find clips that the best method gets right more often than the others, and less often."""
    if len(measured) < 2:
        return {"ahead": [], "behind": []}
    own, *others = (_share_correct(evaluations) for evaluations in measured.values())
    ranked = []
    for prediction in next(iter(measured.values()))[0]["predictions"]:
        key = _key(prediction)
        rest = fmean(other.get(key, 0.0) for other in others)
        name = "/".join(prediction["path"].replace("\\", "/").split("/")[-2:])
        ranked.append(prediction | {"own": own[key], "rest": rest, "name": name})
    ranked.sort(key=lambda item: item["rest"] - item["own"])
    ahead = [item for item in ranked if item["own"] > item["rest"]][:_SHOWN_CLIPS]
    behind = [item for item in reversed(ranked) if item["own"] < item["rest"]][:_SHOWN_CLIPS]
    return {
        "ahead": with_strips(ahead, config, folder),
        "behind": with_strips(behind, config, folder),
    }


def _share_correct(evaluations: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Map each video to the share of seeds that predicted it correctly."""
    correct: dict[tuple[Any, ...], list[bool]] = {}
    for evaluation in evaluations:
        for p in evaluation["predictions"]:
            correct.setdefault(_key(p), []).append(is_right(p))
    return {key: fmean(answers) for key, answers in correct.items()}


def _key(prediction: dict[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a video or segment in all evaluations."""
    names = ("path", "start_seconds", "end_seconds")
    return *(prediction.get(name) for name in names), str(prediction["label"])
