"""What the page of a run shows, from what the run left on disk."""

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
    "frozen": "frozen to one",
}
_SINGLE_LABEL: dict[str, Any] = {"metric": "top1", "heads": {}, "mean_average_precision": None}
"""What files of versions that knew no other task leave out."""


def run_values(folder: Path) -> dict[str, Any]:
    """What the page of a run shows."""
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
    """Name, accuracy and number of videos, the worst class first; of many classes, the worst."""
    rows = [
        (name, class_score(values) or 0.0, f" of {values['num_videos']}")
        for name, values in evaluation["per_class"].items()
        if values["num_videos"]
    ]
    return sorted(rows, key=lambda row: row[1])[:SHOWN_CLASSES]


def _commands(folder: Path, record: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """The command that trained, and the one that measured where that was done later."""
    train = record.get("command", "")
    if not train and record["data"]:  # an older version trained it, and recorded no command
        config = shlex.quote(str(folder / "config.json"))
        train = f"st-adapter train {shlex.quote(record['data'])} --out NEW_RUN --config {config}"
    measure = evaluation.get("command", "")
    return train if measure in ("", train) else f"{train}\n{measure}"
