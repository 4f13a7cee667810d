"""The plan of a comparison: its training runs, and the lists of videos that they share."""

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
from st_adapter.wording import setting

PLAN_FILE = "comparison.json"
"""Name of the file with the plan, by which a folder is recognised as holding a comparison."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a comparison will do. `comparison.json` is this record.

    Attributes:
        data: Absolute path of DATA.
        methods: Methods to compare, in the order of training.
        refused: From each method that does not fit the backbone to the reason.
        seeds: Each method is trained once with each seed.
        rates: Peak learning rates to choose from. A single rate is used without trials.
        search_epochs: Epochs of each trial of a learning rate.
        config: The settings that all cells share. Its seed splits the videos and seeds the trials.
        command: The command that started the comparison; empty if it was started from Python.
        versions: Versions of the packages when it was started.
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
                raise ArgumentError(
                    f"{name} must be one or more different values, not {list(values)}"
                )
        for method in self.methods:
            check_method(method)
        if not self.config.epochs:
            raise ArgumentError("a comparison trains every method; epochs must be at least 1")
        if not all(0 < rate < float("inf") for rate in self.rates) or self.search_epochs < 1:
            raise ArgumentError(
                "learning rates must be above 0 and finite, and search epochs at least 1, "
                f"not {list(self.rates)} and {self.search_epochs}"
            )

    def trials(self) -> "list[Cell]":
        """List the short runs that choose the learning rates; none if there is only one rate."""
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
        """List the runs to compare, each method with its rate in `rate_of`."""
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
        name: Path of its run folder, relative to the folder of the comparison.
        videos: Name of the file in that folder that lists the training and validation videos.
        config: All settings of the run.
        temporal: Whether to evaluate also with the frames in other orders.
    """

    name: str
    videos: str
    config: TrainConfig
    temporal: bool


def write_plan(folder: Path, plan: Plan, videos: Annotations) -> None:
    """Write the plan and the lists of videos, or check that the folder's plan is the same.

    `videos.csv` lists the videos that methods are compared on. `search.csv` lists its training
    videos only, split again to choose learning rates, so that test videos do not influence them.

    Args:
        folder: The folder of the comparison.
        plan: The plan.
        videos: The training and test videos.

    Raises:
        ArgumentError: The folder is not empty, or contains a comparison with other settings.
        DataError: No videos can be held out of the training videos to choose learning rates.
    """
    config = plan.config
    parts = {"videos.csv": videos}
    if len(plan.rates) > 1:
        train, held_out = _hold_out(videos, config)
        parts["search.csv"] = dataclasses.replace(videos, train=train, val=held_out)
        check_parts(Path(plan.data), parts["search.csv"])
    for video in chain(videos.train, videos.val):
        if (name := str(video.path)) != name.encode(errors="ignore").decode():
            raise ArgumentError(f"the path {name!r} is not valid UTF-8; rename the file or folder")
    before = read_plan(folder)
    if before is not None:
        check_same(folder, before, json.loads(json.dumps(dataclasses.asdict(plan))))
    elif folder.exists() and (not folder.is_dir() or {*os.listdir(folder)} - {LOCK_FILE}):
        raise ArgumentError(f"{folder} is not empty; give the comparison another {setting('out')}")
    else:
        write_json(folder / PLAN_FILE, dataclasses.asdict(plan))
    for name, part in parts.items():
        if not (folder / name).exists():
            write_table(folder / name, part)


def _hold_out(videos: Annotations, config: TrainConfig) -> tuple[VideoList, VideoList]:
    try:
        return split_validation(videos.train, config.val_fraction, config.seed)
    except DataError as error:
        raise DataError(
            f"cannot hold out a part of the training videos ({len(videos.train)} in total) to "
            f"choose learning rates on: {error}. A single rate, such as "
            f"{setting('lrs', 0.001)}, needs no such part"
        ) from error


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Read the plan of the comparison in a folder, as plain values.

    Returns:
        The plan, or None if the folder does not contain one.

    Raises:
        ArgumentError: The plan cannot be read.
    """
    file = folder / PLAN_FILE
    if not file.exists():
        return None
    record = read_json(file)
    if not isinstance(record.get("config"), dict):
        raise ArgumentError(
            f"{file} is damaged: it does not contain 'config'; choose another {setting('out')}"
        )
    return record


def check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that a comparison is continued with the settings that it was started with.

    Args:
        folder: The folder of the comparison, for the message.
        before: The plan that the comparison was started with, as plain values.
        now: The plan of this call, as plain values.

    Raises:
        ArgumentError: A setting differs, apart from those of the machine, such as `workers`.
    """
    # A plan of an older version lacks newer settings; it ran with what is now their default.
    defaults = json.loads(json.dumps(TrainConfig().to_json()))
    flat_before = defaults | before | before.get("config", {})
    flat_now = now | now["config"]
    free = ("config", "workers", "device", "keep_features", "features", "command", "versions")
    for name, value in flat_now.items():
        if name not in free and flat_before.get(name) != value:
            raise ArgumentError(
                f"{folder} was started with {name} {flat_before.get(name)}, not {value}; continue "
                f"with the same settings, or choose another {setting('out')}"
            )
