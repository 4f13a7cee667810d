"""A run under way: what is trained, how far it is, what its folder holds."""

import hashlib
import json
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim import AdamW

from st_adapter import checkpoint
from st_adapter.backbones.weights import NAMED_SOURCES
from st_adapter.config import DataConfig, TrainConfig
from st_adapter.data.annotations import Annotations, read_annotations, read_parts
from st_adapter.data.dataset import Skipped
from st_adapter.data.mixing import Mixer
from st_adapter.data.reader import Reader
from st_adapter.data.shards import absolute, is_remote
from st_adapter.data.video_list import VideoList
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.evaluate import Evaluation
from st_adapter.files import append_json_line, atomic_path, read_json, read_json_lines, write_json
from st_adapter.model import VideoClassifier
from st_adapter.optimization import MovingAverage
from st_adapter.progress import say
from st_adapter.provenance import command, versions
from st_adapter.recipes import resolve
from st_adapter.spec import ModelSpec

_NAMES = ("config.json", "adapter", "adapter_last", "metrics.jsonl", "eval.json", "state")


@dataclass(kw_only=True)
class Run:
    """A run under way.

    Attributes:
        precision: "float32" or "bfloat16", as resolved.
        reversal: class to the class that its clips show backwards.
        mirror: class to the class that its clips show in a mirror.
        reader: of videos, by the index of the data.
        step: optimizer steps done.
        epochs_done: epochs trained and validated.
        train_seconds: spent in training, without validation.
        skipped: files that could not be used, each reported once.
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
    step: int = 0
    epochs_done: int = 0
    best_score: float = -1.0
    best_result: Evaluation | None = None
    train_seconds: float = 0.0
    skipped: set[Skipped] = field(default_factory=set)
    average: MovingAverage | None = field(init=False)
    mixer: Mixer | None = field(init=False)

    def __post_init__(self) -> None:
        parameters, decay = self.model.trained_tensors(), self.config.average
        self.average = MovingAverage(parameters, decay) if decay else None
        mixup, cutmix, seed = self.config.mixup, self.config.cutmix, self.config.seed
        self.mixer = Mixer(mixup, cutmix, seed) if mixup or cutmix else None

    def what_counts(self) -> AbstractContextManager[object]:
        """The model classifies as it will be kept: with the average, where there is one."""
        return nullcontext() if self.average is None else self.average.in_place()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a pass over the training part."""
        videos = self.config.batch_size // self.config.repeats
        batches = math.ceil(len(self.data.train) / videos)
        return math.ceil(batches / self.config.accumulate)

    def write_config(self, data: Path, recipe: str) -> None:
        """Write `config.json`, complete enough to run again from any folder."""
        config = replace(self.config, precision=self.precision)  # type: ignore[arg-type]
        write_config(self.folder, config, recipe=recipe, data=absolute(data))

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
            "best_score": self.best_score,
            "train_seconds": self.train_seconds,
            "trained": {n: p.detach().cpu() for n, p in self.model.trained_tensors().items()},
            "average": self.average.saved() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "data_digest": self.data_digest,
            "skipped": [(item.path, item.reason) for item in self.skipped],
        }
        with atomic_path(self._state_file) as temporary:
            torch.save(state, temporary)

    def restore(self) -> None:
        """Go back to the last saved state; a run stopped before the first starts over.

        Raises:
            CheckpointError: the state cannot be read or does not fit the model.
        """
        if not self._state_file.exists() and (self.folder / "adapter_last").exists():
            raise CheckpointError(f"{self._state_file} is gone; the run cannot go on without it")
        if not self._state_file.exists():
            self._forget_what_is_done_again()
            return
        try:
            state: dict[str, Any] = torch.load(
                self._state_file, map_location="cpu", weights_only=True
            )
        except Exception:  # torch's own text advises to load it unsafely
            raise CheckpointError(
                f"{self._state_file} is damaged, the run cannot go on; start anew with another "
                "--out. What it has reached is in adapter/"
            ) from None
        if state["data_digest"] != self.data_digest:
            raise ArgumentError(
                f"{self.folder} was started on other videos or labels than these; resume with the "
                "same data, or start anew with another --out"
            )
        checkpoint.copy_trained(self.model, state["trained"], str(self._state_file))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.restore(state["average"])
        torch.set_rng_state(state["rng"])
        if len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.step, self.epochs_done = state["step"], state["epochs_done"]
        self.best_score = state["best_score"]
        self.train_seconds = state.get("train_seconds", 0.0)
        self.skipped = {Skipped(path=path, reason=reason) for path, reason in state["skipped"]}
        self._forget_what_is_done_again()

    def _forget_what_is_done_again(self) -> None:
        """Drop what was logged after the state was saved."""
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
        """SHA-256 over labels, and path, label and segment of each video."""
        parts = (self.data.labels, self.data.train.digest(), self.data.val.digest())
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def _state_file(self) -> Path:
        return self.folder / "state" / "state.pt"


def write_evaluation(file: Path, evaluation: Evaluation, data: Path) -> None:
    """Write what was measured, on which data and by which command."""
    origin = {"data": absolute(data), "command": command()}
    before = read_json(file).get("data", "") if file.exists() else ""
    if before not in ("", origin["data"]):
        say(f"note: {file} held the result on {before}; --out FILE would keep both")
    write_json(file, evaluation.to_json() | origin)


def write_config(
    folder: Path, config: TrainConfig, *, recipe: str, data: str, next_epoch: int | None = None
) -> None:
    """Write the record of a run, its paths as they read from any folder.

    `data` is empty and `next_epoch` counts the epochs done for a run that was trained elsewhere.
    """
    record: dict[str, Any] = {"recipe": recipe, "data": data}
    if next_epoch is not None:
        record["next_epoch"] = next_epoch
    record |= {"command": command(), "versions": versions()}
    values = config.to_json() | absolute_paths(config)
    write_json(folder / "config.json", record | {"config": values})


def recorded_next_epoch(folder: Path) -> int:
    """How many epochs the run in `folder` has been trained for; 0 where nothing tells."""
    try:
        recorded = json.loads((folder / "config.json").read_text(encoding="utf-8"))["next_epoch"]
    except (OSError, ValueError, TypeError, KeyError):  # not one that was imported
        recorded = None
    lines = read_json_lines(folder / "metrics.jsonl")
    done = max(
        (line["epoch"] for line in lines if "train_seconds" in line or "top1" in line),
        default=0,
    )
    return recorded if type(recorded) is int else done


def check_folder(folder: Path, data: Path, resume: bool) -> None:
    """Raise ArgumentError where a new run would overwrite one, or there is none to resume."""
    has_config = (folder / "config.json").exists()
    if not resume and any((folder / name).exists() for name in _NAMES):
        hint = "go on with it by --resume, or " if has_config else ""
        raise ArgumentError(f"{folder} already holds a run; {hint}choose another --out")
    if (folder / "comparison.json").exists():
        raise ArgumentError(f"{folder} holds a comparison; choose another --out")
    if absolute(folder) == absolute(data):
        raise ArgumentError(f"{folder} is the data; choose another --out")
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder} is a file; --out takes a folder")
    if not resume:
        return
    before, _, _ = recorded_run(folder)
    if not before.is_absolute() and not is_remote(before):
        raise ArgumentError(f"{folder} was trained elsewhere; it holds no state to go on from")
    if absolute(before) != absolute(data):
        raise ArgumentError(
            f"{folder} was started on {before}, not {absolute(data)}; resume with the same data, "
            "or start anew with another --out"
        )


def recorded_run(folder: Path) -> tuple[Path, str, TrainConfig]:
    """Read DATA, recipe name and configuration that the run in `folder` was started with.

    Raises:
        ArgumentError: there is no run, or its record cannot be read.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ArgumentError(f"{folder} holds no config.json of a run; leave --resume out")
    config = resolve("default", file, {})
    record = json.loads(file.read_text(encoding="utf-8"))
    return Path(record.get("data", "")), record.get("recipe", "default"), config


def resumed_config(folder: Path, wanted: TrainConfig | None) -> TrainConfig:
    """The configuration to go on with: the recorded one, on the workers and device wanted.

    Raises:
        ArgumentError: `wanted` differs in anything else.
    """
    _, _, recorded = recorded_run(folder)
    if wanted is None:
        return recorded
    values = wanted.to_json() | absolute_paths(wanted)
    for name, before in recorded.to_json().items():
        same = values[name] == before or (name == "precision" and values[name] == "auto")
        if name not in ("workers", "device") and not same:
            flag = f"--{name.replace('_', '-')}"
            raise ArgumentError(
                f"{folder} was started with {flag} {before}, not {values[name]}; "
                "a resumed run keeps its configuration"
            )
    return replace(recorded, workers=wanted.workers, device=wanted.device)


def absolute_paths(config: TrainConfig) -> dict[str, Any]:
    """The configuration's paths as they read from any folder."""
    named = config.weights in NAMED_SOURCES
    return {
        "weights": config.weights if named else str(Path(config.weights).resolve()),
        "val": None if config.val is None else absolute(config.val),
        "videos": None if config.videos is None else absolute(config.videos),
        **{
            name: str(Path(text).resolve())
            for name in ("mirror", "reversal")
            if (text := getattr(config, name)) is not None and text.lower().endswith(".csv")
        },
    }


def _write_json_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    if not lines:
        file.unlink(missing_ok=True)
        return
    with atomic_path(file) as temporary:
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def read_videos(data: Path, config: TrainConfig) -> Annotations:
    """Read DATA in the two parts that a configuration trains and validates on.

    Raises:
        DataError: as `read_parts`.
    """
    val = Path(config.val) if config.val is not None else None
    return read_parts(data, val, config.val_fraction, config.seed, config.group, config.data)


def evaluation_videos(
    run: Path,
    data: Path,
    spec: ModelSpec,
    options: DataConfig | None = None,
) -> VideoList:
    """The videos of DATA to measure the classifier in `run` on.

    Its validation part; without one, all of it, but for the DATA that the run was trained on:
    of that, the part that was held out.

    Args:
        spec: of the classifier.
        options: how DATA is read; unset is as for training on the same DATA.
    """
    config = None
    if (run / "config.json").is_file():
        trained_on, _, recorded = recorded_run(run)
        config = recorded if absolute(trained_on) == absolute(data) else None
    options = options or (config.data if config else DataConfig())
    given = read_annotations(data, spec.labels, options, spec.task)
    if not given.val and config is not None:
        if config.val is not None:
            say(f"note: the run was trained on {data}; its validation data is {config.val}")
            return given.train
        say(f"evaluating on the part of {data} that was held out from training")
        return read_videos(data, config).val
    return given.val or given.train


def evaluation_file(run: Path, out: Path | None) -> Path | None:
    """Where an evaluation is written: `out`, or `eval.json` in a run folder.

    Raises:
        ArgumentError: something other than an evaluation lies there.
    """
    if out is None:
        return run / "eval.json" if (run / "config.json").is_file() else None
    if out.exists():
        try:
            is_evaluation = "confusion" in json.loads(out.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            is_evaluation = False
        if not is_evaluation or not out.is_file():
            raise ArgumentError(f"{out} is no earlier evaluation; choose another --out")
    return out
