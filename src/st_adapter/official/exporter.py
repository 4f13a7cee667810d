"""Export a run as a checkpoint of the authors' code."""

from pathlib import Path

import torch

from st_adapter.common.files import atomic_path
from st_adapter.common.task import Task
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.model import checkpoint
from st_adapter.model.spec import ModelSpec
from st_adapter.official.format import is_plain_vit, official_name, read_shape, remark_on
from st_adapter.training.run_folder import recorded_next_epoch
from st_adapter.wording import setting


def export_official(run: str | Path, out: str | Path) -> int:
    """Write the trained tensors of a run as a checkpoint of the authors' code.

    The checkpoint has no optimizer state. Their code can evaluate it, or start training from it
    (--pretrain), but cannot resume it.

    Args:
        run: run folder or adapter folder.
        out: file to write; it must not exist.

    Returns:
        The number of tensors in the checkpoint.

    Raises:
        ArgumentError, CheckpointError: the authors' code cannot represent this classifier, or a
            file cannot be read. Nothing has been written.
    """
    folder, file = checkpoint.find(Path(run)), Path(out)
    if file.exists():
        raise ArgumentError(f"{file} already exists; choose another {setting('out')}")
    spec = checkpoint.read_spec(folder)
    ours = checkpoint.read_tensors(folder)
    if obstacles := _obstacles(spec):
        raise ArgumentError(
            f"{folder} cannot be written for the authors' code: {'; '.join(obstacles)}"
        )
    tensors = {official_name(name): tensor for name, tensor in ours.items()}
    shape = read_shape(str(folder), tensors)
    record = {
        "model": {name: tensors[name].clone() for name in shape.tensor_shapes()},
        "optimizer": {},
        "lr_sched": {},
        "loss_scaler": {},
        "next_epoch": recorded_next_epoch(folder.parent),
    }
    remark_on(spec.backbone)
    with atomic_path(file) as temporary:
        torch.save(record, temporary)
    return len(tensors)


def _obstacles(spec: ModelSpec) -> list[str]:
    """Return all reasons why the authors' code cannot represent a classifier."""
    method = METHODS[spec.method]
    reasons = {
        f"it predicts {spec.task} per video": spec.task != Task(),
        f"method {spec.method} does not have adapters": method.adapters == "none",
        f"its head is a {spec.head} one": spec.head != "linear",
        f"method {spec.method} trains the image model itself": method.changes_backbone,
        f"its backbone {spec.backbone} is not a plain ViT": not is_plain_vit(spec.backbone),
        f"its adapters have the activation {spec.adapter.activation}": (
            spec.adapter.activation != "none"
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]
