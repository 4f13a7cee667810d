"""The files of an upload: the adapter, its measures without names of videos, and a model card."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from st_adapter.common.files import check_writable, read_json, write_json
from st_adapter.common.remarks import note
from st_adapter.diagnosis.facts import read_facts
from st_adapter.diagnosis.warnings import RunWarning, result_warnings, run_warnings
from st_adapter.errors import ArgumentError
from st_adapter.hub.card import Card, card_text
from st_adapter.hub.picture import draw_result
from st_adapter.model import checkpoint
from st_adapter.model.spec import ModelSpec

CARD_FILE, MEASURES_FILE, PICTURE_FILE = "README.md", "eval.json", "results.png"
FILES = (
    *(checkpoint.CONFIG_FILE, checkpoint.TENSOR_FILE),
    *(CARD_FILE, MEASURES_FILE, PICTURE_FILE),
)
"""All files that an upload can have."""

_MEASURES = (
    *("metric", "top1", "top5", "mean_class_accuracy", "mean_average_precision", "intervals"),
    *("num_groups", "baselines", "loss", "heads", "per_class", "confusion", "threshold", "binary"),
    *("calibration", "num_videos", "num_skipped", "views", "frames", "stride", "size", "labels"),
    "temporal",
)
"""What is uploaded of an evaluation. The rest has names of videos, or tells of this machine."""


def write_upload(
    run: Path, adapter: Path, folder: Path, hub_name: str, license: str | None
) -> None:
    """Write the files of an upload to a folder.

    Args:
        run: A run folder, an adapter folder, or a name on the hub.
        adapter: Its adapter folder.
        folder: Folder to write to; it is created if it does not exist.
        hub_name: Name that the adapter will have, such as "hf:user/name", for the model card.
        license: Licence of the adapter; None leaves it out.

    Raises:
        CheckpointError: The run cannot be read.
        ArgumentError: The adapter is of no use to others, or the evaluation is of other classes.
    """
    check_writable(folder)
    spec = checkpoint.read_spec(adapter)
    _check_backbone(run, spec)
    tensors = checkpoint.read_tensors(adapter)
    measures = _measures(run, spec)
    card = Card(
        name=hub_name,
        spec=spec,
        num_trained=sum(tensor.numel() for tensor in tensors.values()),
        license=license,
        measures=measures,
        record=_run_record(run),
        warnings=tuple(warning.text for warning in _warnings(run, measures)),
        has_picture=bool(measures),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for file in (checkpoint.CONFIG_FILE, checkpoint.TENSOR_FILE):
        shutil.copyfile(adapter / file, folder / file)
    if measures:
        write_json(folder / MEASURES_FILE, measures)
        draw_result(folder / PICTURE_FILE, measures)
    (folder / CARD_FILE).write_text(card_text(card), encoding="utf-8")


def _check_backbone(run: Path, spec: ModelSpec) -> None:
    """Raise ArgumentError for an image model in a folder of this machine."""
    backbone = Path(spec.backbone.removeprefix("hf:"))
    if spec.backbone.startswith("hf:") and (backbone.is_absolute() or backbone.is_dir()):
        raise ArgumentError(
            f"{run} was trained on an image model in a folder of this machine ({backbone}), which "
            "nobody else can load; upload that model to the hub, and train with "
            "--backbone hf:OWNER/NAME"
        )


def _measures(run: Path, spec: ModelSpec) -> dict[str, Any]:
    """Return what is uploaded of the evaluation of a run; {} if it has none."""
    file = run / "eval.json"
    if not file.is_file():
        note(f"{run} has no evaluation (eval.json), so that the model card tells no accuracy")
        return {}
    record = read_json(file)
    if tuple(record.get("labels", ())) != spec.labels or "per_class" not in record:
        raise ArgumentError(f"{file} is not an evaluation of this classifier; evaluate it again")
    return {name: record[name] for name in _MEASURES if name in record}


def _run_record(run: Path) -> dict[str, Any]:
    """Return what a model card tells about the training of a run, without any path."""
    file = run / "config.json"
    if not file.is_file():
        return {}
    record = read_json(file)
    evaluated = read_json(run / "eval.json") if (run / "eval.json").is_file() else {}
    shown = {name: record.get(name) for name in ("num_train", "recipe", "versions")}
    is_own = evaluated.get("data", "") in ("", record.get("data"))
    return shown | {"epochs": record.get("config", {}).get("epochs"), "is_own_data": is_own}


def _warnings(run: Path, measures: dict[str, Any]) -> list[RunWarning]:
    """Return the warnings about a run, without the names of videos that are examples in them."""
    if not (run / "config.json").is_file():
        return result_warnings(measures)
    facts = read_facts(run)
    if facts.videos and facts.videos.scenes:
        nameless = replace(facts.videos.scenes, examples=[])
        facts = replace(facts, videos=replace(facts.videos, scenes=nameless))
    return run_warnings(facts)
