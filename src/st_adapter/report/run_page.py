"""Collect the values that the page of a run shows from the files of the run."""

import shlex
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.diagnosis.facts import read_facts
from st_adapter.diagnosis.warnings import RunWarning, run_warnings
from st_adapter.evaluation.metrics import METRICS
from st_adapter.report.answers import answer_values
from st_adapter.report.parts import (
    baselines_of,
    class_score,
    confusion_values,
    duration,
    interval_text,
    moment,
    percent,
    size,
    skipped_values,
    track,
)
from st_adapter.report.run_plots import kept_epoch, plots

ORDER_NAMES = {
    "in_order": "In order",
    "reversed": "Reversed",
    "shuffled": "Shuffled",
    "frozen": "One frame only",
}
"""Names of the orders of frames on the pages."""

_EARLIER: dict[str, Any] = {
    "metric": "top1",
    "heads": {},
    "mean_average_precision": None,
    "intervals": {},
    "num_groups": None,
    "calibration": None,
    "binary": None,
    "threshold": None,
}
"""Values of an `eval.json` from a version that did not write them."""


def run_values(folder: Path) -> dict[str, Any]:
    """Collect the values for the template `run.html` from a run folder."""
    evaluation = _EARLIER | read_json(folder / "eval.json")
    record = read_json(folder / "config.json")
    metrics = read_json_lines(folder / "metrics.jsonl")
    metric = METRICS[evaluation["metric"]]
    config, score = record["config"], evaluation[evaluation["metric"]]
    interval = (evaluation["intervals"] or {}).get(evaluation["metric"])
    baselines = baselines_of(evaluation)
    skipped = {line["path"]: line for line in read_json_lines(folder / "skipped.jsonl")}
    curves = plots(metrics, evaluation, baselines)
    by_order = (evaluation["temporal"] or {}).items()
    return {
        "title": f"{config['method']} on {config['backbone']}",
        "meta": _meta(record, evaluation),
        "evaluation": evaluation,
        "multi_label": evaluation["metric"] != "top1",
        "metric": metric[0].upper() + metric[1:] if metric.islower() else metric,
        "score": score,
        "interval": interval,
        "part": "validation" if _same_data(record, evaluation) else "evaluation",
        "verdict": _verdict(score, interval, baselines),
        "against": [
            track("This classifier", score, interval, own=True),
            *(track(name, value) for name, value in baselines.items()),
        ],
        "warnings": _warnings(folder),
        "counts": _counts(folder, record, evaluation, metrics),
        "plots": curves,
        "by_order": [track(ORDER_NAMES[order], value) for order, value in by_order],
        "heads": _heads(evaluation),
        "command": _commands(folder, record, evaluation),
        "versions": record.get("versions", {}),
        "num_labels": len(evaluation["labels"]),
        **_folds(folder),
        **_classes(evaluation),
        **answer_values(evaluation, folder),
        **confusion_values(evaluation["labels"], evaluation["confusion"]),
        **skipped_values(list(skipped.values())),
    }


def _same_data(record: dict[str, Any], evaluation: dict[str, Any]) -> bool:
    return evaluation.get("data", "") in ("", record["data"])


def _meta(record: dict[str, Any], evaluation: dict[str, Any]) -> list[tuple[str, Any]]:
    config, views = record["config"], evaluation["views"]
    measured_on = "" if _same_data(record, evaluation) else evaluation["data"]
    clips = f"{config['frames']} frames of {config['size']} px, {views[0]} x {views[1]} views"
    return [
        ("Trained on", record["data"]),
        ("Evaluated on", measured_on),
        ("Recipe", record["recipe"]),
        ("Clips", clips),
        ("Date", moment(record.get("date") or evaluation.get("date"))),
        ("Evaluated", moment(evaluation.get("date")) if measured_on else ""),
        ("Machine", evaluation.get("machine") or record.get("machine")),
    ]


def _verdict(score: float, interval: list[float] | None, baselines: dict[str, float]) -> str:
    """Say in a sentence how the score compares with the best baseline."""
    if not baselines:
        return ""
    name, value = next(iter(baselines.items()))
    against = f"{name[0].lower()}{name[1:]} ({percent(value)})"
    if not interval:
        word = "Above" if score > value else "Not above"
        return (
            f"{word} the baseline: {against}. No interval was recorded; evaluate again to get it."
        )
    if interval[0] > value:
        return f"Better than the best baseline, {against}: the whole interval is above it."
    if interval[1] < value:
        return f"Worse than a baseline, {against}: the whole interval is below it."
    return f"Not clearly better than a baseline, {against}: the interval includes it."


def _warnings(folder: Path) -> list[RunWarning]:
    """Return the warnings about the result that the page shows."""
    return run_warnings(read_facts(folder))


def _counts(
    folder: Path,
    record: dict[str, Any],
    evaluation: dict[str, Any],
    metrics: list[dict[str, Any]],
) -> list[tuple[str, str, str]]:
    """List what the tiles show: name, value and note."""
    intervals, tensors = (
        evaluation["intervals"] or {},
        folder / "adapter/adapter_model.safetensors",
    )
    groups, labels = evaluation["num_groups"], evaluation["labels"]
    rows: list[tuple[str, str, str]] = []
    if record.get("num_train"):
        rows.append(("Training videos", f"{record['num_train']:,}", ""))
    part = "Validation videos" if _same_data(record, evaluation) else "Evaluated videos"
    rows.append((part, f"{evaluation['num_videos']:,}", f"in {groups} groups" if groups else ""))
    rows.append(("Classes", f"{len(labels)}", ""))
    for key, name in (
        ("top1", "Top-1"),
        ("mean_class_accuracy", "Balanced accuracy"),
        ("top5", "Top-5"),
    ):
        value = evaluation[key]
        shown = key != evaluation["metric"] and not (key == "top5" and len(labels) <= 5)
        if value is not None and shown:
            rows.append((name, percent(value), interval_text(intervals.get(key))))
    rows.append(("Loss", f"{evaluation['loss']:.3f}", part.split()[0].lower()))
    kept, epochs = kept_epoch(metrics, evaluation["metric"]), _last_epoch(metrics)
    if epochs:
        rows.append(("Epochs", f"{epochs}", f"kept: {kept or epochs}"))
    seconds = max((line.get("train_seconds", 0.0) for line in metrics), default=0.0)
    if seconds:
        note = evaluation.get("seconds")
        rows.append(("Training", duration(seconds), f"evaluation {duration(note)}" if note else ""))
    if tensors.exists():
        rows.append(("Adapter on disk", size(tensors.stat().st_size), ""))
    return rows


def _last_epoch(metrics: list[dict[str, Any]]) -> int:
    return max((line["epoch"] for line in metrics), default=0)


def _heads(evaluation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    empty: dict[str, Any] = {"top5": None, "mean_class_accuracy": None, "intervals": {}}
    rows = [*evaluation["heads"].items(), ("all heads", evaluation)]
    return [(name, empty | values) for name, values in rows]


def _classes(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of the table of classes, the class with the lowest score first."""
    metric = evaluation["metric"]
    empty = {"interval": None, "precision": None, "f1": None, "average_precision": None}
    rows = [
        empty | values | {"name": name, "score": class_score(values, metric)}
        for name, values in evaluation["per_class"].items()
    ]
    rows.sort(key=lambda row: 2.0 if row["score"] is None else row["score"])
    columns = (
        ("Precision", "precision"),
        ("F1", "f1"),
        ("AP", "average_precision"),
    )
    return {
        "classes": rows,
        "class_columns": [c for c in columns if any(row[c[1]] is not None for row in rows)],
        "has_intervals": any(row["interval"] for row in rows),
        "weakest": rows[0] if rows and rows[0]["score"] not in (None, 1.0) else None,
    }


def _folds(folder: Path) -> dict[str, Any]:
    """Return the scores of the folds, if the run has any."""
    file = folder / "folds.json"
    folds = read_json(file) if file.exists() else None
    rows = folds["folds"] if folds else []
    return {
        "folds": folds,
        "folds_metric": METRICS[folds["metric"]] if folds else "",
        "fold_rows": [
            track(
                fold["folder"],
                fold["score"],
                note=f"{fold['num_videos']} videos",
            )
            for fold in rows
        ],
    }


def _commands(folder: Path, record: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """Return the command that trained the run, and the one of a later evaluation, if any."""
    train = record.get("command", "")
    if not train and record["data"]:  # earlier versions did not record the command
        config = shlex.quote(str(folder / "config.json"))
        train = f"st-adapter train {shlex.quote(record['data'])} --out NEW_RUN --config {config}"
    measure = evaluation.get("command", "")
    return train if measure in ("", train) else f"{train}\n{measure}"
