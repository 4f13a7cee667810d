"""Collect the values that the page of a run shows from the files of the run."""

import shlex
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.evaluation.metrics import METRICS
from st_adapter.report.figures import learning_curves
from st_adapter.report.parts import (
    SHOWN_CLASSES,
    class_score,
    confusion_values,
    skipped_values,
    with_strips,
)

ORDER_NAMES = {
    "in_order": "in order",
    "reversed": "reversed",
    "shuffled": "shuffled",
    "frozen": "one frame only",
}
"""Names of the orders of frames on the pages."""

_SINGLE_LABEL: dict[str, Any] = {"metric": "top1", "heads": {}, "mean_average_precision": None}
"""Values of an `eval.json` from a version that supported a single label per video only."""


def run_values(folder: Path) -> dict[str, Any]:
    """Collect the values for the template `run.html` from a run folder."""
    evaluation = _SINGLE_LABEL | read_json(folder / "eval.json")
    record = read_json(folder / "config.json")
    config = record["config"]
    skipped = {line["path"]: line for line in read_json_lines(folder / "skipped.jsonl")}
    metrics = read_json_lines(folder / "metrics.jsonl")
    tensors = folder / "adapter" / "adapter_model.safetensors"
    by_order = (evaluation["temporal"] or {}).items()
    surest = sorted(evaluation["predictions"], key=lambda row: -row["score"])
    return {
        "title": f"{config['method']} on {config['backbone']}",
        "evaluation": evaluation,
        "metric": METRICS[evaluation["metric"]],
        "config": config,
        "recipe": record["recipe"],
        "data": record["data"],
        "measured_on": evaluation.get("data", ""),
        "command": _commands(folder, record, evaluation),
        "versions": record.get("versions", {}),
        "stored_megabytes": tensors.stat().st_size / 1e6 if tensors.exists() else None,
        "curves": _curves(metrics, evaluation["metric"]),
        "by_order": [(ORDER_NAMES[order], score, "") for order, score in by_order],
        "classes": _classes(evaluation),
        "num_classes": sum(bool(v["num_videos"]) for v in evaluation["per_class"].values()),
        "best": with_strips((r for r in surest if r["label"] == r["predicted"]), evaluation),
        "worst": with_strips((r for r in surest if r["label"] != r["predicted"]), evaluation),
        **confusion_values(evaluation["labels"], evaluation["confusion"]),
        **skipped_values(list(skipped.values())),
    }


def _curves(metrics: list[dict[str, Any]], metric: str) -> str:
    steps = max((line["step"] for line in metrics), default=0)
    epochs = max((line["epoch"] for line in metrics), default=1)
    losses = [(line["step"] / steps * epochs, line["loss"]) for line in metrics if "loss" in line]
    scores = [(line["epoch"], line[metric]) for line in metrics if metric in line]
    return learning_curves(losses, scores, METRICS[metric]) if losses else ""


def _classes(evaluation: dict[str, Any]) -> list[tuple[str, float, str]]:
    """List name, accuracy and number of videos of the classes with the lowest accuracy first."""
    rows = [
        (name, class_score(values) or 0.0, f" of {values['num_videos']}")
        for name, values in evaluation["per_class"].items()
        if values["num_videos"]
    ]
    return sorted(rows, key=lambda row: row[1])[:SHOWN_CLASSES]


def _commands(folder: Path, record: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """Return the command that trained the run, and the one of a later evaluation, if any."""
    train = record.get("command", "")
    if not train and record["data"]:  # earlier versions did not record the command
        config = shlex.quote(str(folder / "config.json"))
        train = f"st-adapter train {shlex.quote(record['data'])} --out NEW_RUN --config {config}"
    measure = evaluation.get("command", "")
    return train if measure in ("", train) else f"{train}\n{measure}"
