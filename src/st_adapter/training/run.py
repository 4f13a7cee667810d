"""A run under way: what is trained, how far it is, what its folder holds."""

import json
import math
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW

from st_adapter.common.files import (
    append_json_line,
    atomic_path,
    read_json_lines,
    remove_unfinished,
)
from st_adapter.common.paths import absolute
from st_adapter.common.progress import say
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.augment.mixup import Mixer
from st_adapter.data.datasets import Skipped
from st_adapter.data.video.reader import Reader
from st_adapter.errors import ArgumentError, CheckpointError, TrainingError
from st_adapter.evaluation.evaluate import Evaluation
from st_adapter.model import checkpoint
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.sharding import gathered, load_whole, whole, whole_state
from st_adapter.runtime.prefix_cache import PrefixCache
from st_adapter.training.optimizer import MovingAverage, clip_gradient
from st_adapter.training.run_folder import write_config

WHAT_HELPS = "lower --lr, or use --precision float32"
"""Where numbers grow beyond all bounds."""

_COUNTERS = (
    *("step", "bad_steps", "bad_in_row", "losses", "train_seconds"),
    *("epochs_done", "best_epoch", "best_score"),
)
"""Attributes of a run that its saved state holds as they are."""


@dataclass(kw_only=True)
class Run:
    """A run under way.

    Attributes:
        precision: as resolved, not "auto".
        accelerator: knows the other processes that train along. All hold the same parameters and
            counters; the main one writes.
        reversal: class to the class that its clips show backwards.
        mirror: class to the class that its clips show in a mirror.
        reader: of videos, by the index of the data.
        prefix_cache: of what the frozen blocks make of clips, where the configuration asks for it.
        at_once: most clips in a pass; a batch of more is run in several.
        step: optimizer steps done, those left out for a loss that is no number among them.
        bad_steps, bad_in_row: how many were left out, and how many since the last that was not.
        losses: of the steps since the last line of `metrics.jsonl`.
        epochs_done: epochs trained and validated; `best_epoch` is the one that is kept.
        train_seconds: spent in training, without validation.
        skipped: files that could not be used, each reported once.
        unreported: those that this process has met and not told the others of.
        scaler: of the loss, where gradients would be too small for float16.
        mixer: of batches, where the configuration asks for it.
        average: of the trained parameters, where the configuration asks for one.
    """

    folder: Path
    config: TrainConfig
    data: Annotations
    model: VideoClassifier
    optimizer: AdamW
    accelerator: Accelerator
    precision: str
    reversal: dict[int, int] = field(default_factory=dict)
    mirror: dict[int, int] = field(default_factory=dict)
    reader: Reader = Reader()
    prefix_cache: PrefixCache | None = None
    at_once: int = sys.maxsize
    step: int = 0
    bad_steps: int = 0
    bad_in_row: int = 0
    losses: list[float] = field(default_factory=list)
    epochs_done: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    best_result: Evaluation | None = None
    train_seconds: float = 0.0
    skipped: set[Skipped] = field(default_factory=set)
    unreported: list[Skipped] = field(default_factory=list)
    average: MovingAverage | None = field(init=False)
    mixer: Mixer | None = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    _saved_at: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        parameters, decay = self.model.trained_tensors(), self.config.average
        self.average = MovingAverage(parameters, decay) if decay else None
        mixup, cutmix, seed = self.config.mixup, self.config.cutmix, self.config.seed
        self.scaler = torch.amp.GradScaler(
            self.model.device.type, enabled=self.precision == "float16"
        )
        self.mixer = Mixer(mixup, cutmix, seed) if mixup or cutmix else None

    def logits(self, clips: Tensor) -> Float[Tensor, "b classes"]:
        """What the model says of a batch: of clips, or of what the frozen blocks made of them."""
        forward = self.model if self.prefix_cache is None else self.prefix_cache.logits
        logits: Tensor = forward(clips)
        return logits

    def what_counts(self) -> AbstractContextManager[object]:
        """The model classifies as it will be kept: with the average, where there is one."""
        return gathered(self.model) if self.average is None else self.average.in_place()

    @property
    def is_done(self) -> bool:
        """Whether all epochs are trained, or the last ones brought nothing better."""
        waited, patience = self.epochs_done - self.best_epoch, self.config.patience
        return self.epochs_done >= self.config.epochs or (0 < patience <= waited)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a pass over the training part."""
        return math.ceil(len(self.data.train) / (self.config.step_clips // self.config.repeats))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    def gradient_norm(self) -> float:
        """Norm of the gradient, which is clipped where the configuration says so."""
        self.scaler.unscale_(self.optimizer)
        return float(whole(clip_gradient(self.model, self.config)))

    def save_adapter(self, name: str) -> None:
        """Write the classifier as it counts into a folder of the run's."""
        if self.is_main:
            self.model.save_adapter(self.folder / name)

    def write_config(self, data: Path, recipe: str) -> None:
        """Write `config.json`, complete enough to run again from any folder."""
        self.accelerator.wait_for_everyone()  # all have seen the folder empty
        if not self.is_main:
            return
        config = replace(self.config, precision=self.precision)  # type: ignore[arg-type]
        write_config(
            self.folder, config, recipe=recipe, data=absolute(data), data_digest=self.data_digest
        )

    def log(self, values: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`, with step and epoch."""
        position = {"step": self.step, "epoch": self.epochs_done + 1}
        if self.is_main:
            append_json_line(self.folder / "metrics.jsonl", position | values)
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self.accelerator.log(numbers, step=self.step)  # to trackers, where there are any

    def report_skipped(self) -> None:
        """Tell once of each file that any process could not use, and list it."""
        for item in gather_object(self.unreported):
            if item not in self.skipped:
                self.skipped.add(item)
                say(f"skipped {item.reason}")
                if self.is_main:
                    append_json_line(self.folder / "skipped.jsonl", vars(item))
        self.unreported.clear()

    def save(self) -> None:
        """Write all that resuming needs, whole or not at all.

        Raises:
            TrainingError: a trained parameter is no number; what was saved before stays.
        """
        trained = self._gather_trained()
        optimizer = whole_state(self.optimizer, keep=self.is_main)
        self.report_skipped()
        generators = gather_object([self._generators()])
        if self.is_main:
            self._write_state(trained, optimizer, generators)
        self.accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    def _generators(self) -> dict[str, Any]:
        """The states of this process's generators of random numbers."""
        device = self.model.device
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": on_device}

    def _gather_trained(self) -> dict[str, Tensor]:
        """The trained tensors as they are saved, checked by all; empty where nothing is written."""
        trained = {}
        for name, parameter in self.model.trained_tensors().items():
            tensor = whole(parameter.detach())
            if not tensor.isfinite().all():
                raise TrainingError(
                    f"a trained parameter is no number after step {self.step}; {WHAT_HELPS}. "
                    f"{self.folder} keeps the last good state"
                )
            if self.is_main:
                trained[name] = tensor.cpu()
        return trained

    def _write_state(
        self,
        trained: dict[str, Tensor],
        optimizer: dict[str, Any],
        generators: list[dict[str, Any]],
    ) -> None:
        state = {
            **{name: getattr(self, name) for name in _COUNTERS},
            "trained": trained,
            "average": self.average.saved() if self.average else {},
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
            "generators": generators,
            "data_digest": self.data_digest,
            "skipped": [(item.path, item.reason) for item in self.skipped],
        }
        with atomic_path(self.folder / "state" / f"step_{self.step:08d}.pt") as temporary:
            torch.save(state, temporary)
        for file in self._states()[self.config.keep_states :]:
            file.unlink(missing_ok=True)

    @property
    def is_save_due(self) -> bool:
        """Whether the configuration asks for a state here, in the middle of an epoch."""
        config = self.config
        by_steps = bool(config.save_steps) and self.step % config.save_steps == 0
        waited = time.monotonic() - self._saved_at
        return by_steps or (config.save_minutes > 0 and waited > 60 * config.save_minutes)

    def restore(self) -> None:
        """Go back to the last saved state; a run stopped before the first starts over.

        Raises:
            CheckpointError: the state cannot be read or does not fit the model.
        """
        states = self._states()
        if not states and (self.folder / "adapter_last").exists():
            raise CheckpointError(f"{self.folder}/state is empty; the run cannot go on without it")
        if not states:
            self._forget_what_is_done_again()
            return
        file, state = self._newest_readable(states)
        if state["data_digest"] != self.data_digest:
            raise ArgumentError(
                f"{self.folder} was started on other videos or labels than these; resume with the "
                "same data, or start anew with another --out"
            )
        checkpoint.copy_trained(self.model, state["trained"], str(file))
        load_whole(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.restore(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self._restore_generators(state["generators"])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.skipped = {Skipped(path=path, reason=reason) for path, reason in state["skipped"]}
        self._forget_what_is_done_again()

    def _restore_generators(self, saved: list[dict[str, Any]]) -> None:
        """Take this process's own; one that was not there before goes on from its seed."""
        number = self.accelerator.process_index
        if number >= len(saved):
            return
        torch.set_rng_state(saved[number]["cpu"])
        if saved[number]["cuda"] is not None and self.model.device.type == "cuda":
            torch.cuda.set_rng_state(saved[number]["cuda"], self.model.device)

    def _forget_what_is_done_again(self) -> None:
        """Drop what was logged after the state was saved."""
        if not self.is_main:
            return
        remove_unfinished(self.folder)
        kept = []
        for line in read_json_lines(self.folder / "metrics.jsonl"):
            ends_epoch = "train_seconds" in line or "top1" in line
            ended_later = ends_epoch and line["epoch"] > self.epochs_done
            if line["step"] <= self.step and not ended_later:
                kept.append(line)
        _write_json_lines(self.folder / "metrics.jsonl", kept)
        skipped = [vars(item) for item in self.skipped]
        _write_json_lines(self.folder / "skipped.jsonl", skipped)

    @cached_property
    def data_digest(self) -> str:
        """Of the videos and labels that the run has."""
        return self.data.digest()

    def _states(self) -> list[Path]:
        """Saved states, the newest first."""
        return sorted((self.folder / "state").glob("step_*.pt"), reverse=True)

    def _newest_readable(self, states: list[Path]) -> tuple[Path, dict[str, Any]]:
        for file in states:
            try:
                return file, torch.load(file, map_location="cpu", weights_only=True)
            except Exception:  # torch's own text advises to load it unsafely
                say(f"note: {file} is damaged")
        raise CheckpointError(
            f"{self.folder}/state holds nothing that can be read, the run cannot go on; start anew "
            "with another --out. What it has reached is in adapter/"
        )


def _write_json_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    if not lines:
        file.unlink(missing_ok=True)
        return
    with atomic_path(file) as temporary:
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
