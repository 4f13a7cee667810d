"""Run a comparison: trials of learning rates, training runs, costs, results.

Each step writes its result to the folder, and is skipped if the result exists. An interrupted
comparison therefore continues where it stopped.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from st_adapter.catalogue.costs import inspect_spec, spec_of
from st_adapter.common.files import check_writable, read_json, write_json
from st_adapter.common.lock import alone_in
from st_adapter.common.paths import absolute
from st_adapter.common.provenance import command, versions
from st_adapter.common.remarks import say
from st_adapter.comparison.costs import measure_costs
from st_adapter.comparison.jobs import run_jobs
from st_adapter.comparison.plan import Cell, Plan, read_plan, write_plan
from st_adapter.comparison.results import COSTS_FILE, MethodRow, choose_rates, is_done, read_rows
from st_adapter.config import DataConfig, TrainConfig, check_method
from st_adapter.data.annotations import Annotations, read_annotations, read_parts
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.model.build import build_model
from st_adapter.runtime.device import choose_device, choose_precision
from st_adapter.training.batches import class_maps
from st_adapter.training.kept.make import can_keep
from st_adapter.training.run_folder import absolute_paths

_FEATURES_FOLDER = "features"
"""Folder of the features that cells keep if the configuration does not name another one. It is
removed when all cells are finished: the features serve the cells, and can take much room.
"""

DEFAULT_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
"""Peak learning rates to choose from by default."""


def compare(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    methods: Sequence[str] = tuple(METHODS),
    seeds: Sequence[int] = (0, 1, 2),
    rates: Sequence[float] = DEFAULT_RATES,
    search_epochs: int | None = None,
    processes: int = 1,
) -> list[MethodRow]:
    """Train every method with every seed on the same videos, and tabulate the results.

    All methods see the same clips in the same order. Short trials choose the learning rate of each
    method from `rates`, on a part held out of the training videos. The last epoch of each run
    counts, so the validation videos of DATA are used only once, after training.

    Args:
        data: Labelled videos, in any form that `read_annotations` takes.
        out: Folder to create, or the folder of a comparison with the same settings to continue.
        config: Settings that all runs share. `keep` is always "last" and `compile` always off. With
            `keep_features`, methods that leave the image model frozen read its features from
            `config.features`, by default a folder in `out` that is removed at the end.
        methods: Keys of METHODS. Those that do not fit the backbone are left out, with a note.
        seeds: Seeds of initialisation, order and augmentation; one run per method and seed.
        rates: Peak learning rates to choose from. A single rate is used without trials.
        search_epochs: Epochs of each trial. By default, half of `config.epochs`.
        processes: Number of runs to train at the same time.

    Returns:
        The results of each method, best first, as in `results.json`.

    Raises:
        ArgumentError, DataError: A setting or the data cannot be used. Nothing has been written.
        TrainingError: A run failed.
        Interrupted: Ctrl-C or SIGTERM came. The same call continues the comparison.
    """
    folder = Path(out)
    if processes < 1:
        raise ArgumentError(f"processes must be at least 1, not {processes}")
    check_writable(folder)
    for method in methods:
        check_method(method)
    config = _shared_config(config or TrainConfig())
    videos = read_parts(Path(data), config)
    class_maps(config, videos)  # raises for names that are not classes
    refused = _refused(config, methods, videos.labels)
    fitting = tuple(method for method in methods if method not in refused)
    if not fitting:
        raise ArgumentError("; ".join(f"{m}: {reason}" for m, reason in refused.items()))
    plan = Plan(
        data=absolute(data),
        methods=fitting,
        refused=refused,
        seeds=tuple(seeds),
        rates=tuple(sorted(rates)),
        search_epochs=search_epochs or max(1, config.epochs // 2),
        config=_settle(folder, replace(config, columns=_columns(videos)), fitting, videos.labels),
        command=command(),
        versions=versions(),
    )
    return _carry_out(folder, plan, videos, processes)


def _carry_out(folder: Path, plan: Plan, videos: Annotations, processes: int) -> list[MethodRow]:
    write_plan(folder, plan, videos)
    used = read_annotations(folder / "videos.csv", options=DataConfig(columns=plan.config.columns))
    _announce(plan)
    with alone_in(folder):
        _run_cells(folder, plan.trials(), "choosing learning rates", processes)
        _run_cells(folder, plan.runs(choose_rates(folder, plan)), "training", processes)
        if plan.config.features is None:  # made for this comparison, which is over
            shutil.rmtree(folder / _FEATURES_FOLDER, ignore_errors=True)
        # As in the runs, the head has only the classes that occur in videos.csv.
        _measure_costs(folder, plan, used.labels)
    rows = read_rows(folder, plan)
    write_json(
        folder / "results.json",
        {"plan": read_plan(folder), "results": [row.to_json() for row in rows]},
    )
    return rows


def _shared_config(config: TrainConfig) -> TrainConfig:
    """Return the settings that all cells share: one process each, and the last epoch is kept.

    Nothing is fitted to the test videos. A step has as many clips as in `config`: accumulation
    replaces further processes.
    """
    accumulate = config.accumulate * (config.processes or 1)
    return replace(
        config,
        keep="last",
        calibrate=False,
        head_lr=None,
        accumulate=accumulate,
        processes=1,
        compile=False,
    )


def _columns(videos: Annotations) -> str | None:
    """Name the columns of the lists of videos: one per head, whatever DATA calls its columns."""
    heads = "+".join(name for name, _ in videos.task.heads)
    return f"label={heads}" if heads else None


def _refused(config: TrainConfig, methods: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Build each method without data, to find those that do not fit, with the reason."""
    refused = {}
    for method in methods:
        try:
            inspect_spec(spec_of(replace(config, method=method), labels), 1, config.size)
        except ArgumentError as error:
            say(f"{method} is left out: {error}")
            refused[method] = str(error)
    return refused


def _settle(
    folder: Path, config: TrainConfig, methods: Sequence[str], labels: Sequence[str]
) -> TrainConfig:
    """Make paths absolute and choose the precision, once for all runs.

    This builds a model with its weights, so that settings that cannot work raise an error before
    anything is written.
    """
    # Each cell sets its own method. Here it must be one that fits, so that a model can be built.
    config = replace(config, **absolute_paths(config), method=methods[0])
    device = choose_device(config.device)
    before = read_plan(folder)
    if before is not None and config.precision == "auto":
        return replace(config, precision=before["config"]["precision"])
    model = build_model(config, labels).to(device)
    precision, _ = choose_precision(
        config.precision, model, clip_frames=config.frames, size=config.size
    )
    return replace(config, precision=precision)


def _announce(plan: Plan) -> None:
    trials, runs = len(plan.trials()), len(plan.methods) * len(plan.seeds)
    rates = ", ".join(f"{rate:g}" for rate in plan.rates)
    steps = [f"learning rate {rates}"]
    if trials:
        epochs = _count(plan.search_epochs, "epoch")
        steps = [f"{trials} trials of {epochs} to choose from the learning rates {rates}"]
    steps.append(f"{_count(runs, 'run')} of {_count(plan.config.epochs, 'epoch')}")
    say(f"{_count(len(plan.methods), 'method')} on {plan.config.backbone}: {', then '.join(steps)}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _run_cells(folder: Path, cells: Sequence[Cell], title: str, processes: int) -> None:
    """Train the cells that are not finished yet."""
    settings = _keep_features(folder, cells)
    jobs = {
        cell.name: {
            "folder": str(folder / cell.name),
            "config": settings[cell.name].to_json(),
            "videos": str(folder / cell.videos),
            "temporal": cell.temporal,
        }
        for cell in cells
        if not is_done(folder, cell)
    }
    run_jobs(folder, jobs, title, processes, done=len(cells) - len(jobs))


def _keep_features(folder: Path, cells: Sequence[Cell]) -> dict[str, TrainConfig]:
    """Return the settings of each cell by its name, with a folder of features that all share.

    Cells of a method that has nothing to keep are trained as usual.
    """
    of_method = {cell.config.method: cell.config for cell in cells}
    keep = {method for method, one in of_method.items() if one.keep_features and can_keep(one)}
    return {
        cell.name: replace(
            cell.config, features=cell.config.features or str(folder / _FEATURES_FOLDER)
        )
        if cell.config.method in keep
        else replace(cell.config, keep_features=0.0, features=None)
        for cell in cells
    }


def _measure_costs(folder: Path, plan: Plan, labels: Sequence[str]) -> None:
    file = folder / COSTS_FILE
    try:
        measured = set(read_json(file)) >= set(plan.methods)
    except ArgumentError:  # missing or damaged
        measured = False
    if not measured:
        write_json(file, measure_costs(plan.config, plan.methods, labels))
