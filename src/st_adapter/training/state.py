"""The saved states of a run: all that going on where it stopped needs, whole or not at all."""

import json
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from st_adapter.common.files import atomic_path, read_json_lines, remove_unfinished
from st_adapter.common.remarks import note
from st_adapter.data.datasets import Skipped
from st_adapter.errors import ArgumentError, CheckpointError, TrainingError
from st_adapter.model.build import copy_trained
from st_adapter.training.run import Position, Run

WHAT_HELPS = "lower --lr, or use --precision float32"
"""Where numbers grow beyond all bounds."""


class SavedStates:
    """Writes the states of a run when they are due, and reads the last one.

    Args:
        run: whose folder holds them, as `state/step_00000012.pt`.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the configuration asks for a state here, in the middle of an epoch."""
        config, step = self._run.config, self._run.at.step
        by_steps = bool(config.save_steps) and step % config.save_steps == 0
        waited = time.monotonic() - self._saved_at
        return by_steps or (config.save_minutes > 0 and waited > 60 * config.save_minutes)

    def save(self) -> None:
        """Write a state. All processes call this together.

        Raises:
            TrainingError: a trained parameter is NaN or infinite; earlier states stay.
        """
        run = self._run
        trained = self._trained()
        run.report_skipped()
        generators = gather_object([self._generators()])
        if run.is_main:
            self._write(
                {
                    **asdict(run.at),
                    "trained": trained,
                    "average": run.average.tensors if run.average else {},
                    "optimizer": run.optimizer.state_dict(),
                    "scaler": run.scaler.state_dict(),
                    "generators": generators,
                    "data_digest": run.data_digest,
                    "skipped": [(item.path, item.reason) for item in run.skipped],
                }
            )
        run.accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Go back to the last saved state; a run stopped before the first starts over.

        Raises:
            CheckpointError: the state cannot be read or does not fit the model.
            ArgumentError: the run was started on other videos.
        """
        run, files = self._run, self._files()
        if not files and (run.folder / "adapter_last").exists():
            raise CheckpointError(f"{run.folder}/state is empty; the run cannot go on without it")
        if files:
            file, state = self._newest_readable(files)
            if state["data_digest"] != run.data_digest:
                raise ArgumentError(
                    f"{run.folder} was started on other videos or labels than these; resume with "
                    "the same data, or start anew with another --out"
                )
            copy_trained(run.model, state["trained"], str(file))
            run.optimizer.load_state_dict(state["optimizer"])
            if run.average is not None:
                run.average.restore(state["average"])
            run.scaler.load_state_dict(state["scaler"])
            self._restore_generators(state["generators"])
            run.at = Position(**{item.name: state[item.name] for item in fields(Position)})
            run.skipped = {Skipped(path=path, reason=reason) for path, reason in state["skipped"]}
        self._forget_what_is_done_again()

    def _trained(self) -> dict[str, Tensor]:
        trained = {n: p.detach().cpu() for n, p in self._run.model.trained_tensors().items()}
        if not all(tensor.isfinite().all() for tensor in trained.values()):
            raise TrainingError(
                f"a trained parameter is NaN or infinite after step {self._run.at.step}; "
                f"{WHAT_HELPS}. {self._run.folder} keeps the last good state"
            )
        return trained

    def _write(self, state: dict[str, Any]) -> None:
        folder = self._run.folder / "state"
        with atomic_path(folder / f"step_{self._run.at.step:08d}.pt") as temporary:
            torch.save(state, temporary)
        for file in self._files()[self._run.config.keep_states :]:
            file.unlink(missing_ok=True)

    def _generators(self) -> dict[str, Any]:
        """The states of this process's generators of random numbers."""
        device = self._run.model.device
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": on_device}

    def _restore_generators(self, saved: list[dict[str, Any]]) -> None:
        """Take this process's own; one that was not there before goes on from its seed."""
        number, device = self._run.accelerator.process_index, self._run.model.device
        if number >= len(saved):
            return
        torch.set_rng_state(saved[number]["cpu"])
        if saved[number]["cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(saved[number]["cuda"], device)

    def _forget_what_is_done_again(self) -> None:
        """Drop what was logged after the state was saved."""
        run = self._run
        if not run.is_main:
            return
        remove_unfinished(run.folder)
        kept = []
        for line in read_json_lines(run.folder / "metrics.jsonl"):
            ends_epoch = "train_seconds" in line or "top1" in line
            ended_later = ends_epoch and line["epoch"] > run.at.epochs_done
            if line["step"] <= run.at.step and not ended_later:
                kept.append(line)
        _write_json_lines(run.folder / "metrics.jsonl", kept)
        _write_json_lines(run.folder / "skipped.jsonl", [vars(item) for item in run.skipped])

    def _files(self) -> list[Path]:
        """Saved states, the newest first."""
        return sorted((self._run.folder / "state").glob("step_*.pt"), reverse=True)

    def _newest_readable(self, files: list[Path]) -> tuple[Path, dict[str, Any]]:
        for file in files:
            try:
                return file, torch.load(file, map_location="cpu", weights_only=True)
            except Exception:  # torch's own text advises to load it unsafely
                note(f"{file} is damaged")
        raise CheckpointError(
            f"{self._run.folder}/state holds nothing that can be read, the run cannot go on; start "
            "anew with another --out. What it has reached is in adapter/"
        )


def _write_json_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    if not lines:
        file.unlink(missing_ok=True)
        return
    with atomic_path(file) as temporary:
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
