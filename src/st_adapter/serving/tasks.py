"""The classifiers that are served, each under a name of its own."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_adapter.common.files import read_json
from st_adapter.data.formats.listing import counted
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.timeline import window_seconds
from st_adapter.methods import METHODS
from st_adapter.model.exported import is_exported
from st_adapter.model.spec import ModelSpec
from st_adapter.serving.answers import TaskError, TaskList, TaskRecord
from st_adapter.serving.model_thread import ModelThread
from st_adapter.serving.refusals import Refusal

if TYPE_CHECKING:
    from st_adapter.labelling.runs import Run


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A classifier under its name.

    Attributes:
        name: The name by which requests ask for it.
        place: Its adapter folder, or its exported file.
        predictor: The classifier. Those of tasks on one image model share it.
        thread: Scores videos of all tasks on that image model.
    """

    name: str
    place: Path
    predictor: Predictor
    thread: ModelThread

    @property
    def window_seconds(self) -> float | None:
        """Length of a window of a timeline; None if the run does not record it."""
        with suppress(ArgumentError):
            return window_seconds(None, self.predictor.clip, self.predictor.spec)
        return None

    def record(self) -> TaskRecord:
        """Describe it to clients."""
        spec, clip = self.predictor.spec, self.predictor.clip
        heads = {
            name: [label.removeprefix(f"{name}/") for label in spec.labels[own]]
            for name, own in (spec.task.slices(len(spec.labels)) if spec.task.heads else ())
        }
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
            window_seconds=self.window_seconds,
            top1=_top1(self.place.parent),
        )


def _top1(run: Path) -> float | None:
    """Return the accuracy that the last evaluation of a run measured, in 0..1."""
    with suppress(ArgumentError, KeyError, TypeError, ValueError):
        return float(read_json(run / "eval.json")["top1"])
    return None


class Tasks:
    """The tasks of a server. They can be added and removed while others are used.

    Args:
        settings: Keyword arguments of `Predictor`.
        observe: As for `ModelThread`.
    """

    def __init__(self, settings: dict[str, Any], observe: Callable[[int, float], None]) -> None:
        self._settings, self._observe = settings, observe
        self._tasks: dict[str, Task] = {}
        self._errors: dict[str, str] = {}
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return len(self._tasks)

    def names(self) -> frozenset[str]:
        """Return the names of the tasks."""
        return frozenset(self._tasks)

    def summary(self) -> str:
        """Name the tasks in a line."""
        names = ", ".join(self._tasks)
        return f"{counted(len(self._tasks), 'task')}: {names}" if names else "no task yet"

    def describe(self) -> TaskList:
        """Describe all tasks, and the runs that could not be loaded."""
        return TaskList(
            tasks=[task.record() for task in self._tasks.values()],
            errors=[TaskError(name=name, error=text) for name, text in self._errors.items()],
        )

    def choose(self, names: list[str]) -> list[Task]:
        """Return the tasks with these names, or all.

        Raises:
            Refusal: A name is unknown, or no task is served yet.
        """
        tasks = self._tasks  # replaced, never changed, so that it stays the same meanwhile
        for name in names:
            if name not in tasks:
                known = ", ".join(tasks) or "none"
                raise Refusal(404, f"unknown task {name[:100]!r}; tasks are: {known}")
        if not tasks:
            raise Refusal(503, "there are no tasks yet", retry_seconds=5)
        return [tasks[name] for name in dict.fromkeys(names or tasks)]

    def add_all(self, paths: Sequence[str | Path]) -> None:
        """Load runs and exported files.

        Args:
            paths: Run folders, adapter folders or exported files.

        Raises:
            CheckpointError, ArgumentError, MemoryShortError: As for `Predictor`.
        """
        folders = [path for path in paths if not is_exported(path)]
        if folders:
            from st_adapter.labelling.runs import read_runs

            for run in read_runs(folders):
                self.add(run)
        for path in paths:
            if is_exported(path):
                self._add_file(Path(path))

    def _add_file(self, file: Path) -> None:
        """Open an exported file, which needs no torch. Its name is that of the file."""
        if file.stem in self._tasks:
            raise ArgumentError(f"{file}: another run of the name {file.stem} is given")
        predictor, thread = Predictor(file, **self._settings), ModelThread(self._observe)
        task = Task(name=file.stem, place=file, predictor=predictor, thread=thread)
        self._put(self._tasks | {task.name: task})

    def add(self, run: "Run") -> None:
        """Load a run. It takes the place of a task of its name.

        Raises:
            CheckpointError, ArgumentError, MemoryShortError: As for `Predictor`.
        """
        from st_adapter.model.build import load_beside  # imports torch, unlike exported files

        with self._changing:
            beside = next((t for t in self._tasks.values() if _share(t, run.spec)), None)
            if beside is None:
                predictor = Predictor(run.folder, **self._settings)
                thread = ModelThread(self._observe)
            else:
                own = {"precision": beside.predictor.model.precision, "weights": None}
                model = load_beside(run.folder, beside.predictor.model)
                predictor, thread = Predictor(model, **self._settings | own), beside.thread
            task = Task(name=run.name, place=run.folder, predictor=predictor, thread=thread)
            self._put(self._tasks | {run.name: task})
            self._errors = {n: text for n, text in self._errors.items() if n != run.name}

    def remove(self, name: str) -> None:
        """Remove a task, or its error. Requests that use it are still answered."""
        with self._changing:
            self._put({n: task for n, task in self._tasks.items() if n != name})
        self.report(name, None)

    def report(self, name: str, error: str | None) -> None:
        """Record why a run cannot be loaded; None forgets it. A task of its name stays."""
        with self._changing:
            errors = {n: text for n, text in self._errors.items() if n != name}
            self._errors = errors | ({name: error} if error else {})

    def close(self) -> None:
        """End the threads of all models."""
        with self._changing:
            self._put({})

    def _put(self, tasks: dict[str, Task]) -> None:
        unused = {t.thread for t in self._tasks.values()} - {t.thread for t in tasks.values()}
        self._tasks = tasks
        for thread in unused:
            thread.close()


def _share(task: Task, second: ModelSpec) -> bool:
    """Return whether a classifier can share the image model of a task."""
    if is_exported(task.place) or second.method not in METHODS:  # loading it will say what to do
        return False
    first = task.predictor.spec
    own = METHODS[first.method].changes_backbone or METHODS[second.method].changes_backbone
    return not own and (first.backbone, first.digest) == (second.backbone, second.digest)
