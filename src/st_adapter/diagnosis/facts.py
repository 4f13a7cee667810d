"""Everything about a run that warnings and advice look at, in one record."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from st_adapter.common.files import read_json, read_json_lines
from st_adapter.common.hub import refuse_hub_name
from st_adapter.config import TrainConfig
from st_adapter.diagnosis.file_facts import FileFacts
from st_adapter.diagnosis.measures import guess_of, interval_of, score_of
from st_adapter.diagnosis.scenes import SharedScenes
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.run_record import recorded_run

WARNINGS_FILE = "warnings.json"
"""Name of the file in a run folder that keeps warnings and facts about the videos."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What takes time to find out about the videos, so that it is stored with the run.

    Attributes:
        classes: Number of training and of validation videos of each class.
        held_out: Whether the validation videos were held out from DATA, so that --group and
            --val-fraction change them.
        median_seconds: Median length of a video, or of a segment.
        frames_per_second: Median frame rate.
        scenes: How many validation videos share a scene with a training video.
        file_facts: How well file properties alone separate the classes.
    """

    classes: dict[str, tuple[int, int]]
    held_out: bool = True
    median_seconds: float | None = None
    frames_per_second: float | None = None
    scenes: SharedScenes | None = None
    file_facts: FileFacts | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VideoFacts":
        """Make the record from what `dataclasses.asdict` returned."""
        scenes, file_facts = values.get("scenes"), values.get("file_facts")
        return cls(
            classes={label: (train, val) for label, (train, val) in values["classes"].items()},
            held_out=values["held_out"],
            median_seconds=values["median_seconds"],
            frames_per_second=values["frames_per_second"],
            scenes=scenes and SharedScenes(**scenes),
            file_facts=file_facts and FileFacts(**file_facts),
        )


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What was measured in one epoch; None for what was not.

    Attributes:
        number: Number of the epoch, from 1.
        train_loss: Mean loss of the training steps.
        val_loss: Loss on the validation videos.
        score: Main measure on the validation videos.
    """

    number: int
    train_loss: float | None = None
    val_loss: float | None = None
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run, as warnings and advice see it.

    Attributes:
        folder: The run folder.
        data: Path of the training data; empty for an imported run.
        config: All settings.
        evaluation: The content of `eval.json`; empty if the run has not been evaluated.
        epochs: What was measured in each epoch.
        steps: Optimizer steps done.
        left_out: Steps without effect, because their loss was NaN or infinite.
        can_resume: Whether the run has a saved state.
        videos: Facts about the videos; None if they were not examined.
    """

    folder: Path
    data: str
    config: TrainConfig
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    steps: int = 0
    left_out: int = 0
    can_resume: bool = False
    videos: VideoFacts | None = None

    @property
    def score(self) -> float | None:
        """The main measure."""
        return score_of(self.evaluation)

    @property
    def guess(self) -> float | None:
        """The main measure of a classifier that looks at nothing."""
        found = guess_of(self.evaluation)
        return found and found[0]

    @property
    def is_no_better_than_guessing(self) -> bool:
        """Whether the interval of the main measure includes what guessing reaches."""
        interval, guess = interval_of(self.evaluation), self.guess
        return interval is not None and guess is not None and interval[0] <= guess

    @property
    def train_counts(self) -> dict[str, int]:
        """Number of training videos of each class that has any; empty if it is not known."""
        known = self.videos.classes if self.videos else {}
        return {label: train for label, (train, _) in known.items() if train}

    @property
    def median_train_count(self) -> float | None:
        """Median over the classes of the number of training videos."""
        return median(self.train_counts.values()) if self.train_counts else None


def read_facts(folder: Path) -> RunFacts:
    """Read the facts about a run from its folder. No video is opened.

    Raises:
        ArgumentError: The folder does not contain a run, or its files are damaged.
    """
    refuse_hub_name(folder)
    if not (folder / "config.json").is_file():
        raise ArgumentError(
            f"{folder} does not contain the config.json of a run; give the folder of a run"
        )
    data, _, config = recorded_run(folder)
    lines = read_json_lines(folder / "metrics.jsonl")
    file = folder / "eval.json"
    evaluation = read_json(file) if file.exists() else {}
    return RunFacts(
        folder=folder,
        data=str(data) if data != Path() else "",
        config=config,
        evaluation=evaluation,
        epochs=_epochs(lines, str(evaluation.get("metric", "top1"))),
        steps=max((line["step"] for line in lines), default=0),
        left_out=sum("left_out" in line for line in lines),
        can_resume=any((folder / "state").glob("*.pt")),
        videos=_read_video_facts(folder / WARNINGS_FILE),
    )


def _epochs(lines: list[dict[str, Any]], metric: str) -> tuple[Epoch, ...]:
    """Collect the lines of `metrics.jsonl` by epoch."""
    losses: dict[int, list[float]] = defaultdict(list)
    ends: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line.get("loss") is not None:
            losses[line["epoch"]].append(line["loss"])
        if "train_seconds" in line:
            ends[line["epoch"]] = line
    return tuple(
        Epoch(
            number=number,
            train_loss=fmean(losses[number]) if losses.get(number) else None,
            val_loss=ends.get(number, {}).get("val_loss"),
            score=ends.get(number, {}).get(metric),
        )
        for number in sorted({*losses, *ends})
    )


def _read_video_facts(file: Path) -> VideoFacts | None:
    """Read the stored facts; None if there are none, or another version wrote them."""
    try:
        return VideoFacts.from_json(read_json(file)["facts"])
    except (ArgumentError, KeyError, TypeError, ValueError, AttributeError):
        return None
