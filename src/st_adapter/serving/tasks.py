"""The classifiers that are served, each under a name of its own."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.timeline import window_seconds
from st_adapter.labelling.runs import Run, load_predictors, read_runs
from st_adapter.methods import METHODS
from st_adapter.serving.answers import TaskRecord


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classifier under its name.

    Attributes:
        run: Its run.
        predictor: Scores videos. Predictors of tasks on one image model share it.
    """

    run: Run
    predictor: Predictor

    @property
    def name(self) -> str:
        """The name by which requests ask for it."""
        return self.run.name

    def record(self) -> TaskRecord:
        """Describe it to clients."""
        spec, clip = self.predictor.spec, self.predictor.clip
        heads = {
            name: [label.removeprefix(f"{name}/") for label in spec.labels[own]]
            for name, own in (spec.task.slices(len(spec.labels)) if spec.task.heads else ())
        }
        window = None
        with suppress(ArgumentError):  # how long training clips were is not recorded
            window = window_seconds(None, clip, spec)
        return TaskRecord(
            name=self.name,
            labels=list(spec.labels),
            kind="heads" if heads else "multi" if spec.task.multi_label else "single",
            heads=heads,
            method=spec.method,
            backbone=spec.backbone,
            frames=clip.frames,
            stride=clip.stride,
            size=clip.size,
            views=clip.views,
            threshold=spec.threshold,
            window_seconds=window,
            top1=_top1(self.run.folder.parent),
        )


def _top1(run: Path) -> float | None:
    """Return the accuracy that the last evaluation of a run measured, in 0..1."""
    with suppress(ArgumentError, KeyError, TypeError, ValueError):
        return float(read_json(run / "eval.json")["top1"])
    return None


def load_tasks(paths: Sequence[str | Path], settings: dict[str, Any]) -> list[Task]:
    """Load runs. Each image model is in memory once.

    Args:
        paths: Run folders or adapter folders.
        settings: Keyword arguments of `Predictor`.

    Raises:
        CheckpointError, ArgumentError, MemoryShortError: As for `Predictor`.
    """
    runs = read_runs(paths)
    tasks = []
    for _, group in groupby(sorted(runs, key=_backbone), key=_backbone):
        together = [*group]
        predictors = load_predictors(together, settings)
        tasks += [
            Task(run=run, predictor=predictor)
            for run, predictor in zip(together, predictors, strict=True)
        ]
    order = {run.name: place for place, run in enumerate(runs)}
    return sorted(tasks, key=lambda task: order[task.name])


def _backbone(run: Run) -> tuple[str, str, str]:
    """Return what runs must have in common to share an image model."""
    own = run.name if METHODS[run.spec.method].changes_backbone else ""
    return run.spec.backbone, run.spec.digest, own
