"""What the page of a run shows, from what the run left on disk."""

import shlex
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.config import ClipConfig
from st_adapter.data.videos import Video
from st_adapter.evaluation.metrics import METRICS
from st_adapter.report.figures import learning_curves
from st_adapter.report.film import film_strip

SHOWN_CLASSES = 30
SHOWN_CLIPS = 4
SHOWN_SKIPPED = 50
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
    clip = ClipConfig(
        frames=evaluation["frames"], stride=evaluation["stride"], size=evaluation["size"]
    )
    skipped = {line["path"]: line for line in read_json_lines(folder / "skipped.jsonl")}
    metrics = read_json_lines(folder / "metrics.jsonl")
    tensors = folder / "adapter" / "adapter_model.safetensors"
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
        "by_order": [
            (ORDER_NAMES[order], score, "")
            for order, score in (evaluation["temporal"] or {}).items()
        ],
        "classes": _classes(evaluation),
        "confusions": frequent_mistakes(evaluation["labels"], evaluation["confusion"]),
        "num_classes": sum(bool(v["num_videos"]) for v in evaluation["per_class"].values()),
        "matrix": evaluation["confusion"] if len(evaluation["labels"]) <= SHOWN_CLASSES else None,
        "best": _surest(evaluation, clip, right=True),
        "worst": _surest(evaluation, clip, right=False),
        "skipped": list(skipped.values())[:SHOWN_SKIPPED],
        "num_skipped": len(skipped),
    }


def _curves(metrics: list[dict[str, Any]], metric: str) -> str:
    steps = max((line["step"] for line in metrics), default=0)
    epochs = max((line["epoch"] for line in metrics), default=1)
    losses = [(line["step"] / steps * epochs, line["loss"]) for line in metrics if "loss" in line]
    scores = [(line["epoch"], line[metric]) for line in metrics if metric in line]
    return learning_curves(losses, scores, METRICS[metric]) if losses else ""


def _classes(evaluation: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Name, accuracy and how many videos, the worst class first; of many classes, the worst."""
    rows = [
        (name, class_score(values) or 0.0, f" of {values['num_videos']}")
        for name, values in evaluation["per_class"].items()
        if values["num_videos"]
    ]
    return sorted(rows, key=lambda row: row[1])[:SHOWN_CLASSES]


def class_score(values: dict[str, Any]) -> float | None:
    """Accuracy of a class, or average precision with many labels; None where it does not occur."""
    score: float | None = values.get("accuracy", values.get("average_precision"))
    return score


def frequent_mistakes(labels: list[str], confusion: list[list[int]]) -> list[tuple[str, str, int]]:
    """True class, predicted class and number of videos, the most frequent mistakes first."""
    found = [
        (labels[i], labels[j], count)
        for i, row in enumerate(confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(found, key=lambda item: -item[2])[:10]


def _surest(evaluation: dict[str, Any], clip: ClipConfig, *, right: bool) -> list[dict[str, Any]]:
    """The right, or wrong, answers that the classifier is surest of, with film strips."""
    rows = [p for p in evaluation["predictions"] if (p["label"] == p["predicted"]) == right]
    rows = sorted(rows, key=lambda row: -row["score"])[:SHOWN_CLIPS]
    return [row | {"strip": film_strip(video_of(row), clip)} for row in rows]


def video_of(prediction: dict[str, Any]) -> Video:
    """The video, or segment, that a prediction is of."""
    start, end = prediction.get("start_seconds"), prediction.get("end_seconds")
    return Video(path=Path(prediction["path"]), start_seconds=start, end_seconds=end)


def _commands(folder: Path, record: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """What trained, and what measured where that was done later."""
    train = record.get("command") or _command(folder, record)
    measure = evaluation.get("command", "")
    return train if measure in ("", train) else f"{train}\n{measure}"


def _command(folder: Path, record: dict[str, Any]) -> str:
    """How to train the same again, for a run whose command is not recorded."""
    if not record["data"]:
        return ""
    config = shlex.quote(str(folder / "config.json"))
    return f"st-adapter train {shlex.quote(record['data'])} --out NEW_RUN --config {config}"
