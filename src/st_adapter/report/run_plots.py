"""Choose and describe the plots on the page of a run."""

from typing import Any

from st_adapter.evaluation.metrics import METRICS
from st_adapter.report.figures import loss_curves, rate_curve, reliability, score_curve
from st_adapter.report.parts import percent

_WIDTHS = {1: ["w6"], 2: ["w6"] * 2, 3: ["w4"] * 3, 4: ["w6", "w6", "w4", "w4"], 5: ["w4"] * 5}
"""Widths of the plots by their number, so that rows are full.

The curves of two classes are followed by the confusion matrix, which has the width w4 too.
"""


def plots(
    metrics: list[dict[str, Any]], evaluation: dict[str, Any], baselines: dict[str, float]
) -> list[dict[str, str]]:
    """Return title, SVG, caption and width of each plot that the records allow."""
    found = [*_learning(metrics, evaluation["metric"], baselines)]
    calibration = evaluation["calibration"]
    if calibration and calibration["bins"]:
        found.append(_calibration(calibration))
    if evaluation["binary"]:
        found += _binary(evaluation)
    widths = _WIDTHS.get(len(found), [])
    return [plot | {"width": width} for plot, width in zip(found, widths, strict=True)]


def kept_epoch(metrics: list[dict[str, Any]], metric: str) -> int:
    """Return the number of the epoch that a run kept; 0 if it is not known."""
    kept: list[int] = [line["epoch"] for line in metrics if line.get("kept")]
    if kept:
        return max(kept)
    # Earlier versions kept the first epoch with the highest score, and did not record it.
    scores = [(line[metric], -line["epoch"]) for line in metrics if metric in line]
    return -max(scores)[1] if scores else 0


def _learning(
    metrics: list[dict[str, Any]], metric: str, baselines: dict[str, float]
) -> list[dict[str, str]]:
    steps = max((line["step"] for line in metrics), default=0)
    epochs = max((line["epoch"] for line in metrics), default=1)
    training = [
        (line["step"] / steps * epochs, line["loss"])
        for line in metrics
        if line.get("loss") is not None
    ]
    validation = [
        (line["epoch"], line["val_loss"]) for line in metrics if line.get("val_loss") is not None
    ]
    scores = [(line["epoch"], line[metric]) for line in metrics if metric in line]
    kept = kept_epoch(metrics, metric)
    found = []
    if training:
        found.append(
            _plot(
                "Loss",
                loss_curves(training, validation, kept),
                "Pale line: the training loss as logged.",
            )
        )
    if scores:
        caption = f"Kept: epoch {kept}, {percent(dict(scores)[kept])}. One view per video."
        svg = score_curve(scores, list(baselines.items()), kept, METRICS[metric])
        found.append(_plot(f"Validation {METRICS[metric]}", svg, caption))
    return found


def _calibration(calibration: dict[str, Any]) -> dict[str, str]:
    error, before = calibration["error"], calibration.get("error_uncalibrated")
    text = "On the dashed line, scores are honest. Larger points are more videos. "
    text += f"Expected calibration error {percent(error)}"
    temperatures = calibration["temperatures"]
    changes = any(value != 1 for value in temperatures)
    if changes:
        text += f" with temperature {', '.join(f'{value:.2f}' for value in temperatures)}"
        text += f", {percent(before)} without" if before is not None else ""
    text += "."
    if temperatures and not changes:
        text += " The temperature is 1, because the held-out videos do not call for another."
    elif calibration.get("fitted_here"):
        text += " Fitted on these videos: new ones have a larger error."
    return _plot("Calibration", reliability(calibration["bins"]), text)


def _binary(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    """Return the ROC and precision-recall curves, with the threshold in use marked."""
    binary, confusion = evaluation["binary"], evaluation["confusion"]
    (true_negative, false_positive), (false_negative, true_positive) = confusion
    negatives, positives = true_negative + false_positive, false_negative + true_positive
    predicted = true_positive + false_positive
    recall = true_positive / max(1, positives)
    prevalence = positives / max(1, positives + negatives)
    name = (
        f"Positive class: {binary['positive']}. "
        f"The point is the threshold {evaluation['threshold']:g}."
    )
    roc = rate_curve(
        binary["roc"],
        (false_positive / max(1, negatives), recall),
        [(0, 0), (1, 1)],
        ("false positive rate", "true positive rate"),
    )
    precision_recall = rate_curve(
        binary["precision_recall"],
        (recall, true_positive / predicted) if predicted else None,
        [(0, prevalence), (1, prevalence)],
        ("recall", "precision"),
    )
    return [
        _plot(f"ROC curve, area {binary['roc_auc']:.3f}", roc, name),
        _plot(
            f"Precision and recall, average precision {binary['average_precision']:.3f}",
            precision_recall,
            name,
        ),
    ]


def _plot(title: str, svg: str, caption: str) -> dict[str, str]:
    return {"title": title, "svg": svg, "caption": caption}
