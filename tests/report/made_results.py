"""Write the files of runs and comparisons as the program writes them, with results made up."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
from sklearn import metrics as sk

WHERE = {
    "data": "/videos",
    "command": "st-adapter train /videos --out run",
    "date": "2026-11-30T14:05:09+01:00",
    "machine": "AMD EPYC, 2 cores, 24 GB",
}
CLIP = {"views": [1, 1], "frames": 4, "stride": 0, "size": 112}


def interval(score, count, z=1.96):
    """Wilson's interval."""
    middle = (score + z * z / 2 / count) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(score * (1 - score) / count + (z / 2 / count) ** 2)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def write_run(folder, num_classes, num_videos, paths, skill=2.0, seed=0, names=None, epochs=12):
    """A run whose validation videos are `paths`, again and again, with made-up scores."""
    labels = names or [f"{verb} {i} with both hands" for i, verb in _verbs(num_classes)]
    rng = np.random.default_rng(seed)
    truth = np.sort(rng.integers(0, num_classes, num_videos))
    logits = rng.normal(size=(num_videos, num_classes))
    logits[np.arange(num_videos), truth] += skill * rng.uniform(0.2, 2.2, num_classes)[truth]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    evaluation = _evaluation(labels, truth, scores, paths)
    _write(folder / "eval.json", evaluation)
    config = {"method": "st-adapter", "backbone": "vit_tiny_patch16_224", **CLIP, "views": "1x1"}
    versions = {"python": "3.12.1", "st-adapter": "0.1.0", "torch": "2.15.0"}
    record = {**WHERE, "recipe": "default", "versions": versions, "num_train": 4 * num_videos}
    _write(folder / "config.json", record | {"config": config})
    lines = _metrics(evaluation["top1"], epochs, rng)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def write_folds(folder, scores):
    """The record of `train --folds`."""
    folds = [
        {"folder": f"fold_{i}", "num_videos": 14, "score": score}
        for i, score in enumerate(scores, 1)
    ]
    summary = {"mean": np.mean(scores), "spread": np.std(scores, ddof=1)}
    limits = {"lowest": min(scores), "highest": max(scores)}
    _write(folder / "folds.json", {"folds": folds, "metric": "top1", **summary, **limits})


def write_comparison(folder, source, methods, paths, num_classes=6, num_videos=60):
    """A comparison like `source`, a real one, with these methods and made-up scores."""
    record = json.loads((source / "results.json").read_text())
    template, plan = record["results"][0], record["plan"]
    for name in ("videos.csv", "search.csv"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, folder)
    rows = []
    for number, method in enumerate(methods):
        found = []
        for seed in (0, 1):
            run = folder / "runs" / method / f"seed_{seed}"
            write_run(run, num_classes, num_videos, paths, 1.8 - number * 0.12, seed, epochs=3)
            found.append(json.loads((run / "eval.json").read_text())["top1"])
        row = {
            "method": method,
            "trained_parameters": int(1e3 * 4 ** (number % 7)),
            "score": float(np.mean(found)),
            "seeds": {"0": found[0], "1": found[1]},
        }
        orders = dict.fromkeys(("in_order", "reversed", "shuffled", "frozen"), row["score"])
        rows.append(
            template | row | {"lowest": min(found), "highest": max(found), "temporal": orders}
        )
    rows.sort(key=lambda row: -row["score"])
    _write(folder / "results.json", {"plan": plan | {"seeds": [0, 1]}, "results": rows})
    return folder


def _verbs(count):
    verbs = ("Opening", "Closing", "Turning", "Throwing", "Catching", "Folding", "Pouring")
    return [(i, verbs[i % len(verbs)]) for i in range(count)]


def _evaluation(labels, truth, scores, paths):
    predicted, count = scores.argmax(1), len(truth)
    top1 = float((predicted == truth).mean())
    balanced = float(sk.balanced_accuracy_score(truth, predicted))
    confusion = sk.confusion_matrix(truth, predicted, labels=range(len(labels)))
    largest = float(np.bincount(truth).max() / count)
    return {
        "metric": "top1",
        "top1": top1,
        "top5": float((scores.argsort(1)[:, -5:] == truth[:, None]).any(1).mean())
        if len(labels) > 5
        else None,
        "mean_class_accuracy": balanced,
        "mean_average_precision": None,
        "intervals": {
            "top1": interval(top1, count),
            "mean_class_accuracy": interval(balanced, count),
        },
        "num_groups": None,
        "loss": float(sk.log_loss(truth, scores, labels=range(len(labels)))),
        "heads": {},
        "per_class": _per_class(labels, truth, predicted, scores),
        "baselines": {"largest_class": largest, "one_frame": 0.8 * top1},
        "calibration": _calibration(truth, predicted, scores),
        "binary": _binary(labels, truth, scores) if len(labels) == 2 else None,
        "threshold": 0.5 if len(labels) == 2 else None,
        "confusion": confusion.tolist(),
        "num_videos": count,
        "num_skipped": 0,
        **CLIP,
        "labels": labels,
        "predictions": [
            {
                "path": str(paths[i % len(paths)]),
                "label": labels[truth[i]],
                "predicted": labels[predicted[i]],
                "score": float(scores[i].max()),
            }
            for i in range(count)
        ],
        "skipped": [],
        "temporal": {
            "in_order": top1,
            "reversed": 0.7 * top1,
            "shuffled": 0.6 * top1,
            "frozen": 0.5,
        },
        "seconds": 21.5,
        **WHERE,
    }


def _per_class(labels, truth, predicted, scores):
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth, predicted, labels=range(len(labels)), zero_division=0
    )
    found = {}
    for i, label in enumerate(labels):
        count = int(support[i])
        measures = {
            "accuracy": float(recall[i]),
            "interval": interval(recall[i], count) if count else None,
            "precision": float(precision[i]),
            "f1": float(f1[i]),
            "average_precision": float(sk.average_precision_score(truth == i, scores[:, i]))
            if count and len(labels) <= 20
            else float(recall[i]),
        }
        found[label] = {"num_videos": count} | (measures if count else dict.fromkeys(measures))
    return found


def _calibration(truth, predicted, scores):
    score, right = scores.max(1), truth == predicted
    bins = []
    for low in np.arange(0, 1, 0.1):
        own = (score > low) & (score <= low + 0.1)
        if own.any():
            bins.append([float(score[own].mean()), float(right[own].mean()), int(own.sum())])
    error = sum(abs(a - b) * n for a, b, n in bins) / len(truth)
    return {
        "error": error,
        "error_uncalibrated": 1.6 * error,
        "temperatures": [1.31],
        "fitted_here": True,
        "bins": bins,
    }


def _binary(labels, truth, scores):
    false, true, _ = sk.roc_curve(truth, scores[:, 1])
    precision, recall, _ = sk.precision_recall_curve(truth, scores[:, 1])
    return {
        "positive": labels[1],
        "roc_auc": float(sk.roc_auc_score(truth, scores[:, 1])),
        "average_precision": float(sk.average_precision_score(truth, scores[:, 1])),
        "roc": np.stack([false, true], 1).tolist(),
        "precision_recall": np.stack([recall, precision], 1).tolist(),
    }


def _metrics(top1, epochs, rng):
    lines = []
    for step in range(1, 10 * epochs + 1):
        epoch = (step - 1) // 10 + 1
        loss = 0.2 + 1.5 * math.exp(-step / 30) + abs(rng.normal()) * 0.15
        lines.append({"step": step, "epoch": epoch, "loss": round(loss, 5)})
        if step % 10 == 0:
            best = epoch == max(1, epochs - 3)
            lines.append(
                {
                    "step": step,
                    "epoch": epoch,
                    "top1": top1 if best else top1 * (1 - 0.4 * math.exp(-epoch / 4) - 0.02),
                    "val_loss": 0.5 + 1.1 * math.exp(-epoch / 3) + 0.02 * epoch,
                    "train_seconds": 31.2 * epoch,
                }
            )
    return lines


def _write(file: Path, record):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, default=float))
