"""The state of a training run, and what it writes to its folder."""

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
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped
from st_adapter.evaluation.evaluate import ScoredVideos
from st_adapter.model.classifier import VideoClassifier
from st_adapter.training.epoch_choice import can_choose_epoch
from st_adapter.training.kept.features import KeptFeatures
from st_adapter.training.optimizer import MovingAverage
from st_adapter.training.run_folder import write_config


@dataclass(kw_only=True)
class Position:
    """How far a run has got. A saved state holds these values under these names.

    Attributes:
        step: Optimizer steps done, including those skipped because the loss was NaN or infinite.
        bad_in_row: Number of steps skipped in a row up to now.
        losses: Losses of the steps since the last line of `metrics.jsonl`.
        train_seconds: Time spent in training, without validation.
        epochs_done: Epochs trained and validated.
        best_epoch: Number of the epoch that is kept, from 1; 0 if no epoch has been validated.
        best_score: Score of that epoch, from 0 to 1; -1 if no epoch has been validated.
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
    """Everything that a training run in progress consists of.

    Attributes:
        folder: The run folder.
        config: All settings.
        data: The training and validation videos.
        model: The classifier.
        optimizer: The optimizer of the trained parameters.
        accelerator: Connection to the other processes of the run. All processes have the same
            parameters and the same position; only the main one writes.
        at_once: Most clips in one forward pass.
        reversal: From a class to the class that its clips show when played backwards.
        mirror: From a class to the class that its clips show when mirrored.
        reader: Reads videos, with the index of the data set.
        kept: Computes the features of clips, and keeps them if the configuration asks for it. None
            if batches of clips run through the whole model.
        at: How far the run has got.
        best_scored: Scores of the validation videos in the best epoch, if this process trained that
            epoch.
        skipped: Files that could not be used; each is reported once.
        unreported: Files that this process could not use and that are not reported yet.
        average: Moving average of the trained parameters, if the configuration asks for one.
        mixer: Mixes the clips of a batch, if the configuration asks for it.
        scaler: Scales the loss in float16, where small gradients would become zero.
        forward: Turns the clips of a batch into logits: the model, or only the part after the
            frozen one if batches consist of features.
        heads: For each head, the slice of the logits with its classes.
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
    kept: KeptFeatures | None = None
    at: Position = field(default_factory=Position)
    best_scored: ScoredVideos | None = None
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
        self.forward = self.kept.split if self.kept else self.model
        self.heads = [own for _, own in self.data.task.slices(len(self.data.labels))]

    @cached_property
    def keeps_best(self) -> bool:
        """Whether the best epoch is kept, and not the last."""
        if self.config.keep != "auto":
            return self.config.keep == "best"
        # In folds, the epoch must not be chosen by the videos that measure the classifier.
        return self.config.folds is None and can_choose_epoch(self.data)

    @property
    def calibrates(self) -> bool:
        """Whether temperatures and a threshold are fitted to the validation videos."""
        # The videos of a fold measure the classifier, so that nothing is fitted to them.
        return self.config.calibrate and self.config.folds is None

    def as_kept(self) -> AbstractContextManager[object]:
        """Return a context in which the model has the weights to save: the average, if any."""
        return nullcontext() if self.average is None else self.average.in_place()

    @property
    def is_done(self) -> bool:
        """Whether all epochs are trained, or `patience` ends training early."""
        waited, patience = self.at.epochs_done - self.at.best_epoch, self.config.patience
        return self.at.epochs_done >= self.config.epochs or (0 < patience <= waited)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(len(self.data.train) / (self.config.step_clips // self.config.repeats))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files of the run."""
        return bool(self.accelerator.is_main_process)

    @cached_property
    def data_digest(self) -> str:
        """Digest of the videos and labels, by which a resumed run recognises its data."""
        return self.data.digest()

    def save_adapter(self, name: str) -> None:
        """Write the trained tensors to the subfolder `name` of the run folder."""
        if self.is_main:
            self.model.save_adapter(self.folder / name)

    def write_config(self, data: Path, recipe: str) -> None:
        """Write `config.json`, with absolute paths and the precision in use."""
        # Every process checks that the folder is empty, and must have done so before this.
        self.accelerator.wait_for_everyone()
        if not self.is_main:
            return
        config = replace(self.config, precision=self.model.precision)
        write_config(
            self.folder,
            config,
            recipe=recipe,
            data=absolute(data),
            data_digest=self.data_digest,
            num_train=len(self.data.train),
        )

    def start_tracker(self) -> None:
        """Start the experiment tracker, if one is configured. The run is named after its folder."""
        if self.config.tracker == "none":
            return
        name = self.folder.absolute().name
        wandb = {"name": name, "dir": str(self.folder)}
        self.accelerator.init_trackers(
            # TensorBoard uses this name for a subfolder; the others use it for a project of runs.
            "tensorboard" if self.config.tracker == "tensorboard" else "st-adapter",
            config={key: str(value) for key, value in self.config.to_json().items()},
            init_kwargs={"wandb": wandb, "trackio": {"name": name}},
        )

    def log(self, values: dict[str, Any]) -> None:
        """Append step, epoch and these values to `metrics.jsonl`; send numbers to the tracker."""
        position = {"step": self.at.step, "epoch": self.at.epochs_done + 1}
        if self.is_main:
            append_json_line(self.folder / "metrics.jsonl", position | values)
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self.accelerator.log(numbers, step=self.at.step)

    def report_skipped(self) -> None:
        """Print each file that any process could not use, once, and add it to `skipped.jsonl`.

        All processes call this together.
        """
        for item in gather_object(self.unreported):
            if item not in self.skipped:
                self.skipped.add(item)
                say(f"skipped {item.reason}")
                if self.is_main:
                    append_json_line(self.folder / "skipped.jsonl", vars(item))
        self.unreported.clear()
