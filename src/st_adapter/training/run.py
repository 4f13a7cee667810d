"""A run under way: what is trained, where it stands, what its folder is told."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.optim import AdamW

from st_adapter.common.files import append_json_line
from st_adapter.common.paths import absolute
from st_adapter.common.remarks import say
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.augment.mixup import Mixer
from st_adapter.data.datasets import Skipped
from st_adapter.data.video.reader import Reader
from st_adapter.evaluation.evaluate import Evaluation
from st_adapter.model.classifier import VideoClassifier
from st_adapter.training.optimizer import MovingAverage
from st_adapter.training.prefix_cache import PrefixCache
from st_adapter.training.run_folder import write_config


@dataclass(kw_only=True)
class Position:
    """Where a run stands. A saved state holds these values under these names.

    Attributes:
        step: optimizer steps done, those left out because the loss was NaN or infinite included.
        bad_in_row: how many were left out since the last that was not.
        losses: of the steps since the last line of `metrics.jsonl`.
        train_seconds: spent in training, without validation.
        epochs_done: epochs trained and validated.
        best_epoch, best_score: the epoch that is kept, and what it reached.
    """

    step: int = 0
    bad_in_row: int = 0
    losses: list[float] = field(default_factory=list)
    train_seconds: float = 0.0
    epochs_done: int = 0
    best_epoch: int = 0
    best_score: float = -1.0


@dataclass(kw_only=True)
class Run:
    """A run under way.

    Attributes:
        accelerator: knows the other processes that train along. All hold the same parameters and
            the same position; the main one writes.
        reversal: class to the class that its clips show backwards.
        mirror: class to the class that its clips show in a mirror.
        reader: of videos, by the index of the data.
        prefix_cache: of what the frozen blocks make of clips, if the configuration asks for it.
        at_once: most clips in a micro-batch.
        best_result: the evaluation of the best epoch, if it was trained in this process.
        skipped: files that could not be used, each reported once.
        unreported: those that this process has met and not told the others of.
        scaler: of the loss, whose gradients would be too small for float16.
        mixer: blends the clips of a batch, if the configuration asks for it.
        average: of the trained parameters, if the configuration asks for one.
        forward: gives the logits of a batch: the model, or the rest of it behind the cache.
        heads: the classes of each head, one after another; all of them where there is one.
    """

    folder: Path
    config: TrainConfig
    data: Annotations
    model: VideoClassifier
    optimizer: AdamW
    accelerator: Accelerator
    at_once: int
    reversal: dict[int, int] = field(default_factory=dict)
    mirror: dict[int, int] = field(default_factory=dict)
    reader: Reader = Reader()
    prefix_cache: PrefixCache | None = None
    at: Position = field(default_factory=Position)
    best_result: Evaluation | None = None
    skipped: set[Skipped] = field(default_factory=set)
    unreported: list[Skipped] = field(default_factory=list)
    average: MovingAverage | None = field(init=False)
    mixer: Mixer | None = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    forward: nn.Module = field(init=False)
    heads: list[slice] = field(init=False)

    def __post_init__(self) -> None:
        config, device = self.config, self.model.device.type
        parameters = self.model.trained_tensors()
        self.average = MovingAverage(parameters, config.average) if config.average else None
        mixes = config.mixup or config.cutmix
        self.mixer = Mixer(config.mixup, config.cutmix, config.seed) if mixes else None
        self.scaler = torch.amp.GradScaler(device, enabled=self.model.precision == "float16")
        self.forward = self.prefix_cache.rest if self.prefix_cache else self.model
        self.heads = [own for _, own in self.data.task.slices(len(self.data.labels))]

    def as_kept(self) -> AbstractContextManager[object]:
        """Inside, the model classifies as it will be kept: with the average, if there is one."""
        return nullcontext() if self.average is None else self.average.in_place()

    @property
    def is_done(self) -> bool:
        """Whether all epochs are trained, or the last ones brought nothing better."""
        waited, patience = self.at.epochs_done - self.at.best_epoch, self.config.patience
        return self.at.epochs_done >= self.config.epochs or (0 < patience <= waited)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a pass over the training part."""
        return math.ceil(len(self.data.train) / (self.config.step_clips // self.config.repeats))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    @cached_property
    def data_digest(self) -> str:
        """Of the videos and labels that the run has."""
        return self.data.digest()

    def save_adapter(self, name: str) -> None:
        """Write the classifier into a folder of the run."""
        if self.is_main:
            self.model.save_adapter(self.folder / name)

    def write_config(self, data: Path, recipe: str) -> None:
        """Write `config.json`, complete enough to run again from any folder."""
        self.accelerator.wait_for_everyone()  # all have seen the folder empty
        if not self.is_main:
            return
        config = replace(self.config, precision=self.model.precision)
        write_config(
            self.folder, config, recipe=recipe, data=absolute(data), data_digest=self.data_digest
        )

    def start_tracker(self) -> None:
        """Track the run under the name of its folder, if the configuration asks for that."""
        if self.config.tracker == "none":
            return
        name = self.folder.absolute().name
        wandb = {"name": name, "dir": str(self.folder)}
        self.accelerator.init_trackers(
            # TensorBoard takes it for a folder in the run, others for a project of many runs.
            "tensorboard" if self.config.tracker == "tensorboard" else "st-adapter",
            config={key: str(value) for key, value in self.config.to_json().items()},
            init_kwargs={"wandb": wandb, "trackio": {"name": name}},
        )

    def log(self, values: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`, with step and epoch."""
        position = {"step": self.at.step, "epoch": self.at.epochs_done + 1}
        if self.is_main:
            append_json_line(self.folder / "metrics.jsonl", position | values)
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self.accelerator.log(numbers, step=self.at.step)  # to trackers, if there are any

    def report_skipped(self) -> None:
        """Tell once of each file that any process could not use, and list it."""
        for item in gather_object(self.unreported):
            if item not in self.skipped:
                self.skipped.add(item)
                say(f"skipped {item.reason}")
                if self.is_main:
                    append_json_line(self.folder / "skipped.jsonl", vars(item))
        self.unreported.clear()
