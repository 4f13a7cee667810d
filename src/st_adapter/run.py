"""A run under way: what is trained, how far it is, what its folder holds."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim import AdamW

from st_adapter import checkpoint
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.dataset import Skipped
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.evaluate import Evaluation
from st_adapter.files import append_json_line, atomic_path, write_json
from st_adapter.model import VideoClassifier
from st_adapter.progress import say

_NAMES = ("config.json", "adapter", "adapter_last", "metrics.jsonl", "eval.json", "state")


@dataclass(kw_only=True)
class Run:
    """A run under way.

    Attributes:
        precision: "float32" or "bfloat16", as resolved.
        step: optimizer steps done.
        epochs_done: epochs trained and validated.
        skipped: files that could not be used, each reported once.
    """

    folder: Path
    config: TrainConfig
    data: Annotations
    model: VideoClassifier
    optimizer: AdamW
    accelerator: Accelerator
    precision: str
    step: int = 0
    epochs_done: int = 0
    best_top1: float = -1.0
    best_result: Evaluation | None = None
    skipped: set[Skipped] = field(default_factory=set)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a pass over the training part."""
        batches = math.ceil(len(self.data.train) / self.config.batch_size)
        return math.ceil(batches / self.config.accumulate)

    def write_config(self, data: Path, recipe: str) -> None:
        """Write `config.json`, complete enough to run again from any folder."""
        values = self.config.to_json()
        values["precision"] = self.precision
        if self.config.weights not in ("hub", "package", "random"):
            values["weights"] = str(Path(self.config.weights).resolve())
        if self.config.val is not None:
            values["val"] = str(Path(self.config.val).resolve())
        record = {"recipe": recipe, "data": str(data.resolve()), "config": values}
        write_json(self.folder / "config.json", record)

    def log(self, values: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`, with step and epoch."""
        position = {"step": self.step, "epoch": self.epochs_done + 1}
        append_json_line(self.folder / "metrics.jsonl", position | values)

    def note_skipped(self, items: tuple[Skipped, ...]) -> None:
        """Report each unusable file once, on the terminal and in `skipped.jsonl`."""
        for item in items:
            if item not in self.skipped:
                self.skipped.add(item)
                say(f"skipped {item.reason}")
                append_json_line(self.folder / "skipped.jsonl", vars(item))

    def save(self) -> None:
        """Write all that resuming needs, whole or not at all."""
        state = {
            "step": self.step,
            "epochs_done": self.epochs_done,
            "best_top1": self.best_top1,
            "trained": {n: p.detach().cpu() for n, p in self.model.trained_tensors().items()},
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "skipped": [(item.path, item.reason) for item in self.skipped],
        }
        with atomic_path(self._state_file) as temporary:
            torch.save(state, temporary)

    def restore(self) -> None:
        """Go back to the last saved state; a run stopped before the first starts over.

        Raises:
            CheckpointError: the state cannot be read or does not fit the model.
        """
        if not self._state_file.exists():
            return
        try:
            state: dict[str, Any] = torch.load(
                self._state_file, map_location="cpu", weights_only=True
            )
        except Exception as error:
            raise CheckpointError(f"{self._state_file} is not a readable state: {error}") from None
        checkpoint.copy_trained(self.model, state["trained"], str(self._state_file))
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.step, self.epochs_done = state["step"], state["epochs_done"]
        self.best_top1 = state["best_top1"]
        self.skipped = {Skipped(path=path, reason=reason) for path, reason in state["skipped"]}
        self._forget_later_metrics()

    def _forget_later_metrics(self) -> None:
        """Drop what was logged after the state was saved; it is done and logged again."""
        file = self.folder / "metrics.jsonl"
        if not file.exists():
            return
        kept = []
        for line in file.read_text().splitlines():
            values = json.loads(line)
            validated_later = "top1" in values and values["epoch"] > self.epochs_done
            if values["step"] <= self.step and not validated_later:
                kept.append(line)
        with atomic_path(file) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    @property
    def _state_file(self) -> Path:
        return self.folder / "state" / "state.pt"


def check_folder(folder: Path, resume: bool) -> None:
    """Raise ArgumentError where a new run would overwrite one, or there is none to resume."""
    has_run = any((folder / name).exists() for name in _NAMES)
    if has_run and not resume:
        raise ArgumentError(
            f"{folder} already holds a run; go on with it by --resume, or choose another --out"
        )
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder} is a file; --out takes a folder")
    if resume and not (folder / "config.json").exists():
        raise ArgumentError(f"{folder} holds no run to resume; leave --resume out to start one")
