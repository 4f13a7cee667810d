"""The authors' checkpoints from runs."""

from collections.abc import Iterable
from pathlib import Path

import torch

from st_adapter.backbones.build import create_backbone, shapes_alone
from st_adapter.backbones.vit import VisionTransformerFamily
from st_adapter.common.files import atomic_path
from st_adapter.data.labels import Task
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.model import checkpoint
from st_adapter.model.spec import ModelSpec
from st_adapter.official.format import OURS, official_name, read_shape, remark_on
from st_adapter.training.run_folder import recorded_next_epoch


def export_official(run: str | Path, out: str | Path) -> int:
    """Write the classifier in `run` as the authors' code does; return how many tensors it has.

    The file has no optimizer's state: their code can test it, or start from it (--pretrain).

    Raises:
        ArgumentError, CheckpointError: the run has no such form; nothing has been written.
    """
    folder, file = checkpoint.find(Path(run)), Path(out)
    if file.exists():
        raise ArgumentError(f"{file} already exists; choose another --out")
    spec = checkpoint.read_spec(folder)
    ours = checkpoint.read_tensors(folder)
    _check_expressible(folder, spec, ours)
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


def _check_expressible(folder: Path, spec: ModelSpec, names: Iterable[str]) -> None:
    """Raise ArgumentError unless a classifier with these tensors has a form in their code."""
    reasons = []
    if spec.task != Task():
        raise ArgumentError(
            f"{folder} has no form in the authors' code: it answers {spec.task} a video"
        )
    method = METHODS[spec.method]
    if method.adapters == "none" or method.changes_backbone:
        what = "has no adapters" if method.adapters == "none" else "trains the image model itself"
        raise ArgumentError(
            f"{folder} has no form in the authors' code: method {spec.method} {what}"
        )
    with shapes_alone():
        is_vit = VisionTransformerFamily.supports(
            create_backbone(spec.backbone, **spec.backbone_options)
        )
    if not is_vit or not all(OURS.fullmatch(n) or n.startswith("head.") for n in names):
        reasons.append(f"its backbone {spec.backbone} is no ViT")
    if spec.adapter.activation != "none":
        reasons.append(f"its adapters have the activation {spec.adapter.activation}")
    if reasons:
        raise ArgumentError(f"{folder} has no form in the authors' code: {'; '.join(reasons)}")
