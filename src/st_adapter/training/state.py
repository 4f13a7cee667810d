"""The saved states of a run, from which it can be resumed."""

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
from st_adapter.data.videos import Skipped
from st_adapter.errors import ArgumentError, CheckpointError, TrainingError
from st_adapter.model.build import copy_trained
from st_adapter.training.run import Position, Run
from st_adapter.wording import setting


def what_helps() -> str:
    """Return advice for a loss or parameter that is NaN or infinite."""
    return f"lower {setting('lr')}, or use {setting('precision', 'float32')}"


class SavedStates:
    """Write the states of a run, and restore the newest one.

    A state is a file such as `state/step_00000012.pt` in the run folder. It is written under a
    temporary name first, so that a killed run leaves no incomplete one.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether `save_steps` or `save_minutes` asks for a state at this step."""
        config, step = self._run.config, self._run.at.step
        by_steps = bool(config.save_steps) and step % config.save_steps == 0
        waited = time.monotonic() - self._saved_at
        return by_steps or (config.save_minutes > 0 and waited > 60 * config.save_minutes)

    def save(self) -> None:
        """Write a state. All processes call this together.

        Raises:
            TrainingError: A trained parameter is NaN or infinite. Earlier states are kept.
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

    @staticmethod
    def exist_in(folder: Path) -> bool:
        """Whether a run folder has a saved state."""
        return any((folder / "state").glob("step_*.pt"))

    def restore(self) -> None:
        """Return the run to its newest readable state, or to the start if none was saved yet.

        Raises:
            CheckpointError: No state can be read, or it does not fit the model.
            ArgumentError: The run was started on other videos.
        """
        run, files = self._run, self._files()
        if not files and (run.folder / "adapter_last").exists():
            raise CheckpointError(
                f"{run.folder}/state is empty, so the run cannot be resumed; start a new one with "
                f"another {setting('out')}"
            )
        if files:
            file, state = self._newest_readable(files)
            if state["data_digest"] != run.data_digest:
                raise ArgumentError(
                    f"{run.folder} was started on other videos or labels; resume with the same "
                    f"data, or start a new run with another {setting('out')}"
                )
            copy_trained(run.model, state["trained"], str(file))
            run.optimizer.load_state_dict(state["optimizer"])
            if run.average is not None:
                run.average.restore(state["average"])
            run.scaler.load_state_dict(state["scaler"])
            self._restore_generators(state["generators"])
            run.at = Position(**{item.name: state[item.name] for item in fields(Position)})
            run.skipped = {Skipped(path=path, reason=reason) for path, reason in state["skipped"]}
        self._drop_later_lines()

    def _trained(self) -> dict[str, Tensor]:
        trained = {n: p.detach().cpu() for n, p in self._run.model.trained_tensors().items()}
        if not all(tensor.isfinite().all() for tensor in trained.values()):
            raise TrainingError(
                f"a trained parameter is NaN or infinite after step {self._run.at.step}; "
                f"{what_helps()}. The last good state is in {self._run.folder}"
            )
        return trained

    def _write(self, state: dict[str, Any]) -> None:
        folder = self._run.folder / "state"
        with atomic_path(folder / f"step_{self._run.at.step:08d}.pt") as temporary:
            torch.save(state, temporary)
        for file in self._files()[self._run.config.keep_states :]:
            file.unlink(missing_ok=True)

    def _generators(self) -> dict[str, Any]:
        """Return the states of this process's random number generators."""
        device = self._run.model.device
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": on_device}

    def _restore_generators(self, saved: list[dict[str, Any]]) -> None:
        """Restore the states of this process's generators.

        A process that did not exist when the state was saved keeps its own.
        """
        number, device = self._run.accelerator.process_index, self._run.model.device
        if number >= len(saved):
            return
        torch.set_rng_state(saved[number]["cpu"])
        if saved[number]["cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(saved[number]["cuda"], device)

    def _drop_later_lines(self) -> None:
        """Drop what was logged after the state was saved: the resumed run logs it again."""
        run = self._run
        if not run.is_main:
            return
        remove_unfinished(run.folder)
        kept = []
        for line in read_json_lines(run.folder / "metrics.jsonl"):
            # The lines of a step and of the end of its epoch have the same step.
            ends_epoch = "train_seconds" in line or "top1" in line
            ended_later = ends_epoch and line["epoch"] > run.at.epochs_done
            if line["step"] <= run.at.step and not ended_later:
                kept.append(line)
        _write_json_lines(run.folder / "metrics.jsonl", kept)
        _write_json_lines(run.folder / "skipped.jsonl", [vars(item) for item in run.skipped])

    def _files(self) -> list[Path]:
        """List the files of saved states, newest first."""
        return sorted((self._run.folder / "state").glob("step_*.pt"), reverse=True)

    def _newest_readable(self, files: list[Path]) -> tuple[Path, dict[str, Any]]:
        for file in files:
            try:
                return file, torch.load(file, map_location="cpu", weights_only=True)
            except Exception:  # the text of torch's error advises loading it unsafely
                note(f"{file} is damaged; an older state is used if there is one")
        raise CheckpointError(
            f"no state in {self._run.folder}/state can be read, so the run cannot be resumed; "
            f"start a new one with another {setting('out')}. The adapter kept so far is in adapter/"
        )


def _write_json_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    if not lines:
        file.unlink(missing_ok=True)
        return
    with atomic_path(file) as temporary:
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
