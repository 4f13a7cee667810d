"""Classifiers, made in three ways: of a name, of an image model at hand, of an adapter folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from st_adapter.backbones.build import build_backbone
from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.sources import resolve_source
from st_adapter.backbones.tensor_checks import check_fit, digest
from st_adapter.backbones.weight_files.openai_clip import remark_on_activation
from st_adapter.common.remarks import note
from st_adapter.common.task import Task
from st_adapter.config import (
    AdapterConfig,
    ClipConfig,
    MethodConfig,
    TrainConfig,
    check_method,
)
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.methods import METHODS
from st_adapter.model import checkpoint
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.spec import ModelSpec


def attach(
    backbone: nn.Module,
    labels: Sequence[str],
    adapter: AdapterConfig | None = None,
    *,
    task: Task | None = None,
    method: str = "st-adapter",
    method_config: MethodConfig | None = None,
    clip: ClipConfig | None = None,
    dropout: float = TrainConfig.dropout,
    head_std: float = TrainConfig.head_std,
) -> VideoClassifier:
    """Put the trainable parts of a method and a head on a timm model that is already built.

    The model is used as it is, frozen and in evaluation mode; none of its tensors is renamed,
    copied or changed, except by methods that train the image model itself: "lora" wraps its
    linear maps; "bitfit", "partial", "full" and "full-temporal" train tensors of it.

    Args:
        backbone: any image model of timm, with or without its classifier.
        labels: class names.
        adapter: shape and place of the adapters.
        task: how the classes belong together; by default a video has one label.
        method: what is trained, one of METHODS.
        method_config: sizes of what methods without adapters train.
        clip: how `Predictor` makes clips of videos.
        dropout: before the classifier, in [0, 1).
        head_std: standard deviation of the classifier's first weights.

    Raises:
        ArgumentError: no family runs this model, or an unknown method or position.
    """
    if isinstance(labels, str):
        raise ArgumentError(f"labels must be a list of names, not the text {labels!r}")
    check_method(method)
    config = getattr(backbone, "pretrained_cfg", None) or {}
    remark_on_activation(config.get("architecture") or "", config.get("tag") or "")
    spec = ModelSpec(
        backbone=".".join(filter(None, (config.get("architecture"), config.get("tag")))),
        weights="given",
        labels=tuple(labels),
        task=task or Task(),
        method=method,
        adapter=adapter or AdapterConfig(),
        method_config=method_config or MethodConfig(),
        clip=clip or ClipConfig(),
        dropout=dropout,
        mean=tuple(config.get("mean", IMAGENET_DEFAULT_MEAN)),
        std=tuple(config.get("std", IMAGENET_DEFAULT_STD)),
        # Of the weights before training changes them; else when it is saved, if it ever is.
        digest=digest(backbone) if METHODS[method].changes_backbone else "",
    )
    model = VideoClassifier(backbone, spec)
    nn.init.normal_(model.head.weight, std=head_std)
    return model


def create_model(
    backbone: str,
    labels: Sequence[str],
    adapter: AdapterConfig | None = None,
    weights: str = "hub",
    *,
    task: Task | None = None,
    method: str = "st-adapter",
    method_config: MethodConfig | None = None,
    clip: ClipConfig | None = None,
    dropout: float = TrainConfig.dropout,
    head_std: float = TrainConfig.head_std,
) -> VideoClassifier:
    """Build a frozen timm model by name and put the parts of a method and a head on it.

    Args:
        backbone: any timm name.
        labels: class names.
        adapter: shape and place of the adapters.
        weights: "hub", "package", "random", or a file in timm's names or OpenAI's CLIP names.
        task, method, method_config, clip, dropout, head_std: as for `attach`.

    Raises:
        ArgumentError: an unknown name, method or position, or no connection to the hub.
        CheckpointError: a weights file that is unreadable or does not fit.
    """
    source = resolve_source(backbone, weights)
    model = attach(
        build_backbone(backbone, source),
        labels,
        adapter,
        task=task,
        method=method,
        method_config=method_config,
        clip=clip,
        dropout=dropout,
        head_std=head_std,
    )
    model.spec = dataclasses.replace(model.spec, backbone=backbone, weights=source)
    return model


def build_model(
    config: TrainConfig,
    labels: Sequence[str],
    weights: str | None = None,
    task: Task | None = None,
) -> VideoClassifier:
    """`create_model` as a configuration says; `weights` replaces the configuration's."""
    try:
        return create_model(
            config.backbone,
            labels,
            config.adapter,
            weights or config.weights,
            task=task,
            method=config.method,
            method_config=config.method_config,
            clip=config.clip,
            dropout=config.dropout,
            head_std=config.head_std,
        )
    except CheckpointError as error:
        if config.backbone != TrainConfig.backbone:
            raise
        raise CheckpointError(
            f"{error}. {config.backbone} is the default backbone; --backbone NAME takes another"
        ) from error


def load(path: str | Path, weights: str | None = None) -> VideoClassifier:
    """Rebuild a classifier from a run folder or an adapter folder, in evaluation mode.

    Args:
        path: a folder that holds `adapter_config.json`, or a run folder with `adapter/` in it.
        weights: where the backbone's weights are; by default those that the folder records.

    Raises:
        CheckpointError: the folder is not one of those, or does not fit the backbone.
        ArgumentError: the backbone's weights cannot be found.
    """
    folder = checkpoint.find(Path(path))
    spec = checkpoint.read_spec(folder)
    source = resolve_source(spec.backbone, weights or checkpoint.recorded_weights(folder, spec))
    backbone = build_backbone(spec.backbone, source, spec.backbone_options)
    differs = spec.digest != (found := digest(backbone))
    if differs and source == "random":
        note(
            f"the random weights here are not to the last bit those that {folder} was trained on; "
            "other versions of timm or torch can draw others altogether"
        )
    elif differs:
        raise CheckpointError(
            f"{folder} was trained on {spec.backbone} with other weights than {source} holds "
            f"(digest {spec.digest[:19]}, found {found[:19]}); give the right ones as weights"
        )
    with OwnRandom(0):  # first values, all of which are overwritten
        model = VideoClassifier(backbone, dataclasses.replace(spec, weights=source))
    copy_trained(model, checkpoint.read_tensors(folder), str(folder))
    return model.eval()


def copy_trained(model: VideoClassifier, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into the trained parameters: all of them, or none and an error.

    Raises:
        CheckpointError: they are not those of this model; the message names `source`.
    """
    wanted = model.trained_tensors()
    check_fit(source, tensors, wanted)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])
