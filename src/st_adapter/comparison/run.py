"""Run a comparison: trials, runs, costs, table. Interrupted anywhere, it goes on where it was."""

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
from st_adapter.training.run_folder import absolute_paths

DEFAULT_RATES = (1e-4, 3e-4, 1e-3, 3e-3)


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
    """Train every method with every seed on the same videos, and tabulate what came of it.

    All methods see the same clips in the same order. The learning rate of each is chosen from
    `rates` by short trials on a part held out of the training part. The last epoch's result
    counts: the validation part of DATA is looked at once, after training.

    Args:
        data: anything `read_annotations` takes.
        out: folder to make, or one of an interrupted comparison with the same settings.
        config: what all runs share; `keep` is "last" and nothing is compiled, whatever it says.
        methods: names in METHODS.
        seeds: of initialisation, order and augmentation.
        rates: peak learning rates to choose from; one rate needs no search.
        search_epochs: of a trial; unset is half of a run's.
        processes: cells trained at the same time.

    Raises:
        ArgumentError, DataError: before anything is written.
        TrainingError: a cell failed.
        Interrupted: Ctrl-C or SIGTERM came; calling it again goes on.
    """
    folder = Path(out)
    if processes < 1:
        raise ArgumentError(f"processes must be at least 1, not {processes}")
    check_writable(folder)
    for method in methods:
        check_method(method)
    config = _of_cells(config or TrainConfig())
    videos = read_parts(Path(data), config)
    class_maps(config, videos)  # refuses names that are none
    heads = "+".join(name for name, _ in videos.task.heads)
    columns = f"label={heads}" if heads else None  # as cells read them
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
        config=_settle(folder, replace(config, columns=columns), fitting, videos.labels),
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
        _measure_costs(folder, plan, used.labels)  # those that occur
    rows = read_rows(folder, plan)
    write_json(
        folder / "results.json",
        {"plan": read_plan(folder), "results": [row.to_json() for row in rows]},
    )
    return rows


def _of_cells(config: TrainConfig) -> TrainConfig:
    """What all cells share: the same step in a process each, the last epoch's result."""
    if config.prefix_cache:
        raise ArgumentError(
            "methods differ in what they leave frozen: leave prefix_cache out of a comparison"
        )
    passes = config.accumulate * (config.processes or 1)
    return replace(config, keep="last", head_lr=None, accumulate=passes, processes=1, compile=False)


def _refused(config: TrainConfig, methods: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Build each method without data, and note why one does not fit."""
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
    """Decide once what each run would decide anew: where files lie, which arithmetic is faster.

    Builds a model with its weights, so that what cannot work is refused before anything is written.
    """
    # Each cell has its own method and learning rate.
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
    say(
        f"{len(plan.methods)} methods on {plan.config.backbone}: {trials} trials of "
        f"{plan.search_epochs} epochs to choose from learning rates "
        f"{', '.join(f'{rate:g}' for rate in plan.rates)}, then {runs} runs of "
        f"{plan.config.epochs} epochs"
    )


def _run_cells(folder: Path, cells: Sequence[Cell], title: str, processes: int) -> None:
    """Train the cells that are not done yet."""
    jobs = {
        cell.name: {
            "folder": str(folder / cell.name),
            "config": cell.config.to_json(),
            "videos": str(folder / cell.videos),
            "temporal": cell.temporal,
        }
        for cell in cells
        if not is_done(folder, cell)
    }
    run_jobs(folder, jobs, title, processes, done=len(cells) - len(jobs))


def _measure_costs(folder: Path, plan: Plan, labels: Sequence[str]) -> None:
    file = folder / COSTS_FILE
    try:
        measured = set(read_json(file)) >= set(plan.methods)
    except ArgumentError:  # not there, or damaged
        measured = False
    if not measured:
        write_json(file, measure_costs(plan.config, plan.methods, labels))
