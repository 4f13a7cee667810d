"""Make the table of a comparison from the files of its runs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.comparison.plan import Cell, Plan
from st_adapter.methods import METHODS

COSTS_FILE = "costs.json"
"""Name of the file with what `measure_costs` returned."""

TENSORS = "adapter/adapter_model.safetensors"
"""Path of the trained tensors in a run folder."""


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """The results of one method.

    Scores are between 0 and 1. A run diverged if its loss stayed NaN or infinite.

    Attributes:
        method: Name of the method.
        summary: What the method trains, in a few words.
        source: Where the method was published.
        metric: The metric that is compared, a key of METRICS. `to_json` also gives the score under
            this name.
        lr: The chosen peak learning rate.
        search: Score by learning rate that was tried; None for a trial that diverged.
        score: Mean score over the seeds that did not diverge, or None if all did.
        lowest: Lowest score of a seed.
        highest: Highest score of a seed.
        interval: Lower and upper end of the 95 % interval of a seed's score, which the number of
            videos determines; None if all seeds diverged.
        temporal: Mean score by order of frames.
        trained_parameters: Number of trained parameters, including the head's.
        share: Ratio of trained parameters to the parameters of the image model.
        stored_bytes: Size of the trained tensors on disk.
        train_seconds: Mean time of a training run, with decoding.
        step_seconds: Median time of a training step; the methods are timed alternately.
        memory_gb: Most memory that a training process used, in units of 2^30 bytes.
        gmacs: Multiply-adds of one view, in 10^9.
        seeds: Score by seed; None for a seed that diverged.
        diverged: From each seed that diverged to the reason.
    """

    method: str
    summary: str
    source: str
    metric: str
    lr: float
    search: dict[str, float | None]
    score: float | None
    lowest: float | None
    highest: float | None
    interval: tuple[float, float] | None
    temporal: dict[str, float]
    trained_parameters: int
    share: float
    stored_bytes: int
    train_seconds: float
    step_seconds: float
    memory_gb: float
    gmacs: float
    seeds: dict[str, float | None]
    diverged: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain values."""
        return asdict(self) | {self.metric: self.score}


def choose_rates(folder: Path, plan: Plan) -> dict[str, float]:
    """Choose the learning rate of each method by the score of its trials.

    Of trials with equal scores, the one with the lower loss wins, then the lower learning rate.
    """
    if len(plan.rates) == 1:
        return dict.fromkeys(plan.methods, plan.rates[0])
    chosen: dict[str, tuple[float, float, float]] = {}
    for cell in plan.trials():
        result = read_result(folder, cell) or {"score": -1.0, "loss": math.inf}
        loss = math.inf if result["loss"] is None else result["loss"]  # JSON has no NaN
        score = (result["score"], -loss, -cell.config.peak_lr())
        chosen[cell.config.method] = max(chosen.get(cell.config.method, score), score)
    return {method: -score[2] for method, score in chosen.items()}


def read_result(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """Read the evaluation of a finished cell, with its `score`; None if the cell diverged."""
    file = folder / cell.name / "eval.json"
    if not file.exists():
        return None
    result = {"metric": "top1"} | read_json(file)
    return result | {"score": result[result["metric"]]}


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether a cell has finished, with a result or because it diverged."""
    return any((folder / cell.name / name).exists() for name in ("eval.json", "diverged.json"))


def read_rows(folder: Path, plan: Plan) -> list[MethodRow]:
    """Make one row per method, best score first; methods with a diverged seed come last."""
    rates = choose_rates(folder, plan)
    costs = read_json(folder / COSTS_FILE)
    rows = [_row(folder, plan, method, rates, costs) for method in plan.methods]
    return sorted(rows, key=lambda row: (len(row.diverged), -(row.score or 0.0)))


def at_edge(lr: float, search: dict[str, Any]) -> bool:
    """Whether the chosen learning rate is the lowest or highest that was tried.

    A rate outside of those that were tried might then be better.
    """
    tried = sorted(map(float, search))
    return bool(tried) and lr in (tried[0], tried[-1])


def read_skipped(folder: Path) -> list[dict[str, Any]]:
    """Read the files that any cell could not use, each once, with the reason."""
    files = sorted(folder.glob("*/*/*/skipped.jsonl"))
    lines = [line for file in files for line in read_json_lines(file)]
    return list({line["path"]: line for line in lines}.values())


def _row(
    folder: Path, plan: Plan, method: str, rates: dict[str, float], costs: dict[str, Any]
) -> MethodRow:
    cells = [cell for cell in plan.runs(rates) if cell.config.method == method]
    results = {str(cell.config.seed): read_result(folder, cell) for cell in cells}
    found = [result for result in results.values() if result]
    scores = [result["score"] for result in found]
    metrics = [read_json_lines(folder / cell.name / "metrics.jsonl") for cell in cells]
    orders = found[0]["temporal"] if found else {}
    tensors = [folder / cell.name / TENSORS for cell in cells]
    trials = [cell for cell in plan.trials() if cell.config.method == method]
    return MethodRow(
        method=method,
        summary=METHODS[method].summary,
        source=METHODS[method].source,
        metric=found[0]["metric"] if found else "top1",
        lr=rates[method],
        search={
            str(cell.config.lr): result["score"] if result else None
            for cell, result in ((cell, read_result(folder, cell)) for cell in trials)
        },
        score=statistics.fmean(scores) if scores else None,
        lowest=min(scores, default=None),
        highest=max(scores, default=None),
        interval=interval_of(found),
        temporal={o: statistics.fmean(r["temporal"][o] for r in found) for o in orders},
        stored_bytes=max((file.stat().st_size for file in tensors if file.exists()), default=0),
        train_seconds=statistics.fmean(_highest("train_seconds", lines) for lines in metrics),
        memory_gb=max(_highest("memory_gb", lines) for lines in metrics),
        seeds={s: result["score"] if result else None for s, result in results.items()},
        diverged={
            str(cell.config.seed): read_json(folder / cell.name / "diverged.json")["reason"]
            for cell in cells
            if not results[str(cell.config.seed)]
        },
        **costs[method],
    )


def interval_of(evaluations: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """Return the 95 % interval of the score: the mean of those of the seeds.

    Returns:
        Its lower and upper end, or None without evaluations, or if earlier versions wrote
        them without intervals.
    """
    ends = [(found.get("intervals") or {}).get(found["metric"]) for found in evaluations]
    if not ends or not all(ends):
        return None
    low, high = zip(*ends, strict=True)
    return statistics.fmean(low), statistics.fmean(high)


def _highest(name: str, lines: list[dict[str, Any]]) -> float:
    return max((line.get(name, 0.0) for line in lines), default=0.0)
