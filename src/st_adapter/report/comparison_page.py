"""Collect the values that the page of a comparison shows from the files of its runs."""

import csv
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.comparison.results import at_edge, read_skipped
from st_adapter.evaluation.metrics import METRICS
from st_adapter.report.figures import frontier, loss_curves
from st_adapter.report.parts import (
    SHOWN_CLASSES,
    class_score,
    confusion_values,
    skipped_values,
    with_strips,
)

_Evaluations = dict[str, list[dict[str, Any]]]
"""The evaluations of each method, one per seed; the best method first.

A method is left out if every seed diverged.
"""


def comparison_values(folder: Path) -> dict[str, Any]:
    """Collect the values for the template `comparison.html` from the folder of a comparison."""
    record = read_json(folder / "results.json")
    rows, plan = record["results"], record["plan"]
    measured = _read_evaluations(folder, rows)
    best = next(iter(measured), "")
    metric = METRICS[rows[0]["metric"]] if rows else "top-1"
    labels: list[str] = measured[best][0]["labels"] if best else []
    points = [
        (r["method"], r["trained_parameters"], r["score"], r["lowest"], r["highest"])
        for r in rows
        if r["method"] in measured
    ]
    return {
        "title": f"{len(rows)} transfer methods on {plan['config']['backbone']}",
        "plan": plan,
        "counts": _counts(folder),
        "metric": metric,
        "rows": [row | {"edge": at_edge(row["lr"], row["search"])} for row in rows],
        "measured": best,
        "figure": frontier(points, metric) if points else "",
        "losses": _losses(folder, rows),
        "labels": labels if len(labels) <= SHOWN_CLASSES else [],
        "by_class": {method: _by_class(found) for method, found in measured.items()},
        "command": plan["command"],
        "versions": plan["versions"],
        **_contrasting_clips(plan["config"], measured),
        **confusion_values(labels, _summed([e["confusion"] for e in measured.get(best, [])])),
        **skipped_values(read_skipped(folder)),
    }


def _read_evaluations(folder: Path, rows: list[dict[str, Any]]) -> _Evaluations:
    evaluations = {}
    for row in rows:
        files = [_run(folder, row["method"], seed) / "eval.json" for seed in row["seeds"]]
        if found := [read_json(file) for file in files if file.exists()]:
            evaluations[row["method"]] = found
    return evaluations


def _run(folder: Path, method: str, seed: str) -> Path:
    return folder / "runs" / method / f"seed_{seed}"


def _counts(folder: Path) -> dict[str, int]:
    """Count training and test videos, and those held out of the training videos for trials."""
    videos = _splits(folder / "videos.csv")
    search = folder / "search.csv"
    held_out = _splits(search)["val"] if search.exists() else 0
    return {"train": videos["train"], "val": videos["val"], "held_out": held_out}


def _splits(file: Path) -> Counter[str]:
    with file.open(newline="", encoding="utf-8") as text:
        return Counter(row["split"] for row in csv.DictReader(text))


def _losses(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Draw the training loss of each method with the first seed."""
    curves = {}
    for row in rows:
        metrics = _run(folder, row["method"], next(iter(row["seeds"]))) / "metrics.jsonl"
        if lines := [line for line in read_json_lines(metrics) if "loss" in line]:
            curves[row["method"]] = [(line["step"], line["loss"]) for line in lines]
    return loss_curves(curves) if curves else ""


def _by_class(evaluations: list[dict[str, Any]]) -> list[float | None]:
    """Average the score of each class over seeds; None for a class that does not occur."""
    columns = zip(*(e["per_class"].values() for e in evaluations), strict=True)
    scores = [[s for v in column if (s := class_score(v)) is not None] for column in columns]
    return [fmean(known) if known else None for known in scores]


def _summed(matrices: list[list[list[int]]]) -> list[list[int]]:
    return [
        [sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)
    ]


def _contrasting_clips(
    config: dict[str, Any], measured: _Evaluations
) -> dict[str, list[dict[str, Any]]]:
    """Find clips that the best method gets right more often than the others, and less often."""
    if len(measured) < 2:
        return {"best": [], "worst": []}
    own, *others = (_share_correct(evaluations) for evaluations in measured.values())
    ranked = []
    for prediction in next(iter(measured.values()))[0]["predictions"]:
        key = _key(prediction)
        rest = fmean(other.get(key, 0.0) for other in others)
        ranked.append(prediction | {"own": own[key], "rest": rest})
    ranked.sort(key=lambda item: item["rest"] - item["own"])
    lead = (item for item in ranked if item["own"] > item["rest"])
    lag = (item for item in reversed(ranked) if item["own"] < item["rest"])
    return {"best": with_strips(lead, config), "worst": with_strips(lag, config)}


def _share_correct(evaluations: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Map each video to the share of seeds that predicted it correctly."""
    correct: dict[tuple[Any, ...], list[bool]] = {}
    for evaluation in evaluations:
        for p in evaluation["predictions"]:
            correct.setdefault(_key(p), []).append(p["label"] == p["predicted"])
    return {key: fmean(answers) for key, answers in correct.items()}


def _key(prediction: dict[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a video or segment in all evaluations."""
    names = ("path", "start_seconds", "end_seconds")
    return *(prediction.get(name) for name in names), str(prediction["label"])
