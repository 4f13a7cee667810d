"""What a comparison will do: its cells, and the lists of videos that all of them share."""

import dataclasses
import json
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from st_adapter.common.files import read_json, write_json
from st_adapter.common.lock import LOCK_FILE
from st_adapter.config import TrainConfig, check_method
from st_adapter.data.annotations import Annotations, check_parts, write_table
from st_adapter.data.holdout import split_validation
from st_adapter.data.videos import VideoList
from st_adapter.errors import ArgumentError, DataError

PLAN_FILE = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a comparison does. `comparison.json` is this record.

    Attributes:
        data: absolute path of DATA.
        methods: compared, in the order of the table.
        refused: method to the reason why it does not fit the backbone.
        seeds: each method is trained once with each.
        rates: peak learning rates to choose from; one rate needs no search.
        search_epochs: passes over the training part in a trial of a rate.
        config: what all cells share; its seed is that of the parts and of the trials.
        command, versions: of the call that began it.
    """

    data: str
    methods: tuple[str, ...]
    refused: dict[str, str]
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    search_epochs: int
    config: TrainConfig
    command: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in (
            ("methods", self.methods),
            ("seeds", self.seeds),
            ("learning rates", self.rates),
        ):
            if len(set(values)) < max(1, len(values)):
                raise ArgumentError(f"{name} must be one or more, each once, not {list(values)}")
        for method in self.methods:
            check_method(method)
        if not all(0 < rate < float("inf") for rate in self.rates) or self.search_epochs < 1:
            raise ArgumentError(
                f"learning rates must be above 0 and finite, search epochs at least 1, "
                f"not {list(self.rates)} and {self.search_epochs}"
            )

    def trials(self) -> "list[Cell]":
        """A short training of each method with each learning rate; none for a single rate."""
        if len(self.rates) == 1:
            return []
        return [
            Cell(
                name=f"search/{method}/lr_{rate}",
                videos="search.csv",
                config=self._config(method, rate, self.config.seed, epochs=self.search_epochs),
                temporal=False,
            )
            for method in self.methods
            for rate in self.rates
        ]

    def runs(self, rate_of: dict[str, float]) -> "list[Cell]":
        """The trainings that are compared, with the learning rate chosen for each method."""
        return [
            Cell(
                name=f"runs/{method}/seed_{seed}",
                videos="videos.csv",
                config=self._config(method, rate_of[method], seed, epochs=self.config.epochs),
                temporal=True,
            )
            for seed in self.seeds
            for method in self.methods
        ]

    def _config(self, method: str, rate: float, seed: int, epochs: int) -> TrainConfig:
        return dataclasses.replace(
            self.config,
            method=method,
            lr=rate,
            lr_per_256=None,
            head_lr=None,
            seed=seed,
            epochs=epochs,
            val=None,  # the lists of videos hold both parts
            group=None,
            videos=None,
        )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of a comparison.

    Attributes:
        name: its folder within the comparison's.
        videos: file within the comparison's folder that lists the parts.
        temporal: whether accuracy is measured with frames in other orders, too.
    """

    name: str
    videos: str
    config: TrainConfig
    temporal: bool


def write_plan(folder: Path, plan: Plan, videos: Annotations) -> None:
    """Write the plan and the lists of videos, or check that the plan there is the same.

    `videos.csv` is what the methods are compared on. `search.csv` is its training part alone,
    with a part held out to choose learning rates on: the test part takes no part in that.

    Raises:
        ArgumentError: another comparison lies there.
        DataError: no part can be held out of the training part.
    """
    config = plan.config
    parts = {"videos.csv": videos}
    if len(plan.rates) > 1:
        train, held = _held_out(videos, config)
        parts["search.csv"] = dataclasses.replace(videos, train=train, val=held)
        check_parts(Path(plan.data), parts["search.csv"])
    for video in chain(videos.train, videos.val):
        if (name := str(video.path)) != name.encode(errors="ignore").decode():
            raise ArgumentError(f"{name!r} is no name that a list can hold; rename it")
    before = read_plan(folder)
    if before is not None:
        check_same(folder, before, json.loads(json.dumps(dataclasses.asdict(plan))))
    elif folder.exists() and (not folder.is_dir() or {*os.listdir(folder)} - {LOCK_FILE}):
        raise ArgumentError(f"{folder} is not empty; give the comparison another --out")
    else:
        write_json(folder / PLAN_FILE, dataclasses.asdict(plan))
    for name, part in parts.items():
        if not (folder / name).exists():
            write_table(folder / name, part)


def _held_out(videos: Annotations, config: TrainConfig) -> tuple[VideoList, VideoList]:
    try:
        return split_validation(videos.train, config.val_fraction, config.seed, config.group)
    except DataError as error:
        raise DataError(
            f"learning rates are chosen on a part of the {len(videos.train)} training videos, and "
            f"none can be held out: {error}. A single one (--lrs 1e-3) needs none"
        ) from error


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of the comparison in a folder, as plain values; None where there is none.

    Raises:
        ArgumentError: it cannot be read.
    """
    file = folder / PLAN_FILE
    if not file.exists():
        return None
    record = read_json(file)
    if not isinstance(record.get("config"), dict):
        raise ArgumentError(f"{file} is damaged: it names no configuration; choose another --out")
    return record


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ArgumentError where a comparison would go on with other settings."""
    defaults = json.loads(json.dumps(TrainConfig().to_json()))  # of settings newer than the plan
    flat_before = defaults | before | before.get("config", {})
    flat_now = now | now["config"]
    free = ("config", "workers", "device", "command", "versions")
    for name, value in flat_now.items():
        if name not in free and flat_before.get(name) != value:
            raise ArgumentError(
                f"{folder} was started with {name} {flat_before.get(name)}, not {value}; go on "
                "with the same, or give another --out"
            )
