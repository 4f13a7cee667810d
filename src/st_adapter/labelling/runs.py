"""The runs that label videos together: which arguments they are, their names, and their models."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any

from st_adapter.common.hub import is_hub_name
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.predict import Predictor
from st_adapter.methods import METHODS
from st_adapter.model import checkpoint
from st_adapter.model.build import load
from st_adapter.model.exported import is_exported
from st_adapter.model.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained run whose model has not been built yet.

    Attributes:
        name: Name of its folder, with as many parent folders as tell it from other runs.
        folder: Its adapter folder.
        spec: Record of its classifier.
    """

    name: str
    folder: Path
    spec: ModelSpec

    def digest(self) -> str:
        """Return the SHA-256 of the files of the adapter."""
        sha = sha256()
        for name in (checkpoint.CONFIG_FILE, checkpoint.TENSOR_FILE):
            sha.update((self.folder / name).read_bytes())
        return sha.hexdigest()


def leading_runs(paths: Sequence[Path]) -> int:
    """Return how many of the first paths are run folders, adapter folders or names on the hub."""
    return len([*takewhile(_is_run, paths)])


def _is_run(path: Path) -> bool:
    if is_hub_name(path):
        return True
    return any((path / part / checkpoint.CONFIG_FILE).is_file() for part in ("", "adapter"))


def find_runs(paths: Sequence[str | Path]) -> tuple[Run, ...]:
    """Read the records of runs that are to share one image model.

    Args:
        paths: Run folders, adapter folders, or names on the hub such as hf:user/name; one or more.

    Raises:
        CheckpointError: A folder cannot be read, or a download failed.
        ArgumentError: The runs cannot share an image model, or one is given twice.
    """
    runs = read_runs(paths)
    _check_backbones(runs)
    return runs


def read_runs(paths: Sequence[str | Path]) -> tuple[Run, ...]:
    """Read the records of runs, which can have been trained on different image models.

    Args:
        paths: Run folders or adapter folders, one or more.

    Raises:
        CheckpointError: A folder cannot be read.
        ArgumentError: No run is given, or one is given twice.
    """
    if not paths:
        raise ArgumentError("no run was given; give one or more run folders")
    exported = [path for path in paths if is_exported(path)]
    if exported:
        raise ArgumentError(
            f"{exported[0]} is an exported file; a table needs the run that it was made from"
        )
    places = [Path(path) if is_hub_name(path) else Path(path).absolute() for path in paths]
    folders = [checkpoint.find(place) for place in places]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ArgumentError(f"a run is given twice: {', '.join(map(str, paths))}")
    return tuple(
        Run(name=name, folder=folder, spec=checkpoint.read_spec(folder))
        for name, folder in zip(_names(places), folders, strict=True)
    )


def _names(places: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that differ from each other."""
    for length in range(1, 1 + max(len(place.parts) for place in places)):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len({*names}) == len(names):
            return names
    return [str(place) for place in places]


def _check_backbones(runs: Sequence[Run]) -> None:
    """Raise ArgumentError unless all runs can share one frozen image model."""
    if len(runs) == 1:
        return
    for run in runs:
        if METHODS[run.spec.method].changes_backbone:
            raise ArgumentError(
                f"{run.name} was trained with method {run.spec.method}, which changes the image "
                "model, so it cannot share one with other runs; label with it alone"
            )
    first = runs[0]
    for run in runs[1:]:
        if (run.spec.backbone, run.spec.digest) != (first.spec.backbone, first.spec.digest):
            raise ArgumentError(
                f"{first.name} was trained on {_described(first, run)} and {run.name} on "
                f"{_described(run, first)}; runs that label together must share one image model, "
                "so use one command for each"
            )


def _described(run: Run, other: Run) -> str:
    """Name the image model of a run; if names are equal, the weights differ."""
    if run.spec.backbone != other.spec.backbone:
        return run.spec.backbone or "an image model of your own"
    return f"{run.spec.backbone} with weights {run.spec.digest.removeprefix('sha256:')[:12]}"


def load_predictors(runs: Sequence[Run], settings: dict[str, Any]) -> list[Predictor]:
    """Build the predictors of runs on one image model, which is in memory once.

    Args:
        runs: The runs.
        settings: Keyword arguments of `Predictor`.

    Raises:
        CheckpointError, ArgumentError, MemoryShortError: As for `Predictor`.
    """
    settings = dict(settings)
    weights = settings.pop("weights", None)
    models = [load(runs[0].folder, weights)]
    # Before the first predictor: half precision would change the weights that `load` compares.
    models += [load(run.folder, backbone=models[0].backbone) for run in runs[1:]]
    first = Predictor(models[0], **settings)
    # "auto" measures once. Half precision has changed the weights that the others share.
    precision = first.model.precision
    for model in models[1:]:
        model.set_precision(precision)
    rest = settings | {"precision": precision}
    return [first, *(Predictor(model, **rest) for model in models[1:])]
