"""The table of a comparison, from what its cells left on disk."""

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.comparison.plan import Cell, Plan
from st_adapter.methods import METHODS

COSTS_FILE = "costs.json"
TENSORS = "adapter/adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method.

    Attributes:
        metric: what is compared, one of METRICS; `to_json` gives the score by this name, too.
        lr: the peak learning rate that was chosen; `search` has the score of each that was tried,
            None where the loss was no number.
        score: mean over seeds; `lowest` and `highest` are its spread.
        temporal: mean score with the frames in each order.
        trained_parameters: numbers that are trained, head included; `share` of the image model's.
        stored_bytes: size of the trained tensors on disk.
        train_seconds: mean time of a training run, decoding included.
        step_seconds: median time of a step, measured side by side with the other methods'.
        memory_gb: most memory that a training process held.
        gmacs: multiply-adds of one view, in 10^9.
        seeds: score by seed; None where the loss was no number, which `diverged` explains and the
            mean leaves out.
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
        """The record as plain values."""
        return asdict(self) | {self.metric: self.score}


def choose_rates(folder: Path, plan: Plan) -> dict[str, float]:
    """The learning rate of each method: best score of its trials, lowest loss, lowest rate."""
    if len(plan.rates) == 1:
        return dict.fromkeys(plan.methods, plan.rates[0])
    chosen: dict[str, tuple[float, float, float]] = {}
    for cell in plan.trials():
        result = read_result(folder, cell) or {"score": -1.0, "loss": math.inf}
        loss = math.inf if result["loss"] is None else result["loss"]  # which was NaN
        score = (result["score"], -loss, -cell.config.peak_lr())
        chosen[cell.config.method] = max(chosen.get(cell.config.method, score), score)
    return {method: -score[2] for method, score in chosen.items()}


def read_result(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """What a finished cell reached, with its `score`; None where its loss was no number."""
    file = folder / cell.name / "eval.json"
    if not file.exists():
        return None
    result = {"metric": "top1"} | read_json(file)
    return result | {"score": result[result["metric"]]}


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether a cell has nothing left to do."""
    return any((folder / cell.name / name).exists() for name in ("eval.json", "diverged.json"))


def read_rows(folder: Path, plan: Plan) -> list[MethodRow]:
    """One row a method, from finished cells, the best first; those with failures come last."""
    rates = choose_rates(folder, plan)
    costs = read_json(folder / COSTS_FILE)
    rows = [_row(folder, plan, method, rates, costs) for method in plan.methods]
    return sorted(rows, key=lambda row: (len(row.diverged), -(row.score or 0.0)))


def at_edge(lr: float, search: dict[str, Any]) -> bool:
    """Whether the chosen learning rate is the lowest or highest that was tried."""
    tried = sorted(map(float, search))
    return bool(tried) and lr in (tried[0], tried[-1])


def read_skipped(folder: Path) -> list[dict[str, Any]]:
    """Each file that any cell could not use, once, with the reason."""
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


def _highest(name: str, lines: list[dict[str, Any]]) -> float:
    return max((line.get(name, 0.0) for line in lines), default=0.0)
