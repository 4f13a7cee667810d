"""What the page of a comparison shows, from what its cells left on disk."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.comparison.results import at_edge, read_skipped
from st_adapter.config import ClipConfig
from st_adapter.evaluation.metrics import METRICS
from st_adapter.report.figures import frontier, loss_curves
from st_adapter.report.film import film_strip
from st_adapter.report.run_page import (
    SHOWN_CLASSES,
    SHOWN_CLIPS,
    SHOWN_SKIPPED,
    class_score,
    frequent_mistakes,
    video_of,
)


def comparison_values(folder: Path) -> dict[str, Any]:
    """All that the template needs."""
    record = read_json(folder / "results.json")
    rows = record["results"]
    skipped = read_skipped(folder)
    plan = record["plan"]
    evaluations = {row["method"]: _evaluations(folder, row) for row in rows}
    measured = [row for row in rows if evaluations[row["method"]]]
    labels: list[str] = next((e["labels"] for found in evaluations.values() for e in found), [])
    best = evaluations[measured[0]["method"]] if measured else []
    return {
        "title": f"{len(rows)} transfer methods on {plan['config']['backbone']}",
        "plan": plan,
        "counts": _counts(folder),
        "metric": METRICS[rows[0]["metric"]] if rows else "top-1",
        "rows": [row | {"edge": at_edge(row["lr"], row["search"])} for row in rows],
        "measured": measured[0]["method"] if measured else "",
        "figure": _frontier(measured),
        "losses": _losses(folder, rows),
        "labels": labels if len(labels) <= SHOWN_CLASSES else [],
        "by_class": {row["method"]: _by_class(evaluations[row["method"]]) for row in measured},
        "confusions": frequent_mistakes(labels, _summed([e["confusion"] for e in best])),
        "matrix": _summed([e["confusion"] for e in best]) if len(labels) <= SHOWN_CLASSES else [],
        **_telling_clips(plan, evaluations, measured),
        "command": plan["command"],
        "versions": plan["versions"],
        "skipped": skipped[:SHOWN_SKIPPED],
        "num_skipped": len(skipped),
    }


def _counts(folder: Path) -> dict[str, int]:
    """Videos of each part, and those held out of the training part for trials."""
    videos = _splits(folder / "videos.csv")
    search = folder / "search.csv"
    held = _splits(search)["val"] if search.exists() else 0
    return {"train": videos["train"], "val": videos["val"], "held": held}


def _splits(file: Path) -> Counter[str]:
    with file.open(newline="", encoding="utf-8") as text:
        return Counter(row["split"] for row in csv.DictReader(text))


def _evaluations(folder: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured of a method, a seed each."""
    runs = (folder / "runs" / row["method"] / f"seed_{seed}" for seed in row["seeds"])
    return [read_json(run / "eval.json") for run in runs if (run / "eval.json").exists()]


def _frontier(rows: list[dict[str, Any]]) -> str:
    points = [
        (r["method"], r["trained_parameters"], r["score"], r["lowest"], r["highest"]) for r in rows
    ]
    return frontier(points, METRICS[rows[0]["metric"]]) if points else ""


def _losses(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Training losses of each method's first seed."""
    curves = {}
    for row in rows:
        run = folder / "runs" / row["method"] / f"seed_{next(iter(row['seeds']))}"
        lines = [line for line in read_json_lines(run / "metrics.jsonl") if "loss" in line]
        if lines:
            curves[row["method"]] = [(line["step"], line["loss"]) for line in lines]
    return loss_curves(curves) if curves else ""


def _by_class(evaluations: list[dict[str, Any]]) -> list[float | None]:
    """Mean accuracy of each class over seeds."""
    columns = zip(*(e["per_class"].values() for e in evaluations), strict=True)
    means: list[float | None] = []
    for column in columns:
        known = [score for value in column if (score := class_score(value)) is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def _summed(matrices: list[list[list[int]]]) -> list[list[int]]:
    return [
        [sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)
    ]


def _telling_clips(
    plan: dict[str, Any],
    evaluations: dict[str, list[dict[str, Any]]],
    rows: list[dict[str, Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Clips that the best method gets right and the others seldom do, and the other way round."""
    if len(rows) < 2:
        return {"best": [], "worst": []}
    share = {row["method"]: _share_right(evaluations[row["method"]]) for row in rows}
    first, *others = share.values()
    clip = ClipConfig(**{name: plan["config"][name] for name in ("frames", "stride", "size")})
    ranked: list[dict[str, Any]] = []
    for prediction in evaluations[rows[0]["method"]][0]["predictions"]:
        key = _key(prediction)
        rest = sum(other.get(key, 0.0) for other in others) / len(others)
        ranked.append(prediction | {"own": first[key], "rest": rest})
    ranked.sort(key=lambda item: item["rest"] - item["own"])
    lead = [item for item in ranked if item["own"] > item["rest"]][:SHOWN_CLIPS]
    lag = [item for item in reversed(ranked) if item["own"] < item["rest"]][:SHOWN_CLIPS]
    return {
        name: [item | {"strip": film_strip(video_of(item), clip)} for item in items]
        for name, items in (("best", lead), ("worst", lag))
    }


def _share_right(evaluations: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Each video to the share of seeds that got it right."""
    right: dict[tuple[Any, ...], list[bool]] = {}
    for evaluation in evaluations:
        for p in evaluation["predictions"]:
            right.setdefault(_key(p), []).append(p["label"] == p["predicted"])
    return {key: sum(answers) / len(answers) for key, answers in right.items()}


def _key(prediction: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one video or segment from another."""
    names = ("path", "start_seconds", "end_seconds")
    return *(prediction.get(name) for name in names), str(prediction["label"])
