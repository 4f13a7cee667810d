"""Build a classifier from the name of a backbone, from a timm model, or from an adapter folder."""

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
    Head,
    MethodConfig,
    TrainConfig,
    check_method,
)
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.methods import METHODS
from st_adapter.model import checkpoint
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.heads import draw_weights
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
    head: Head = TrainConfig.head,
    freeze_head: bool = TrainConfig.freeze_head,
) -> VideoClassifier:
    """Add a classifier head and the trainable parts of a method to a timm model you have built.

    The model is frozen and put in evaluation mode. Its tensors are neither copied nor changed,
    except by methods that train the image model itself ("lora", "bitfit", "partial", "full",
    "full-temporal").

    Examples:
        >>> backbone = timm.create_model("resnet18", pretrained=True)  # doctest: +SKIP
        >>> model = st_adapter.attach(backbone, ["open", "close"])  # doctest: +SKIP
        >>> model(torch.zeros(1, 8, 3, 224, 224)).shape  # doctest: +SKIP
        torch.Size([1, 2])

    Args:
        backbone: image model of timm, with or without its own classifier.
        labels: names of the classes, one or more and all different, in the order of the logits.
        adapter: shape and placement of the adapters; None is `AdapterConfig()`.
        task: how the classes belong together; None is one label per video.
        method: what is trained besides the head, one of the names in METHODS.
        method_config: sizes for methods other than adapters; None is `MethodConfig()`.
        clip: how `Predictor` cuts clips from videos; None is `ClipConfig()`.
        dropout: probability of dropout before the head, in [0, 1).
        head_std: standard deviation of the initial weights of a linear head, 0 or more.
        head: "linear", or "cosine" for cosines with a vector of each class. `set_head` replaces
            the random class vectors that either starts with.
        freeze_head: whether to exclude the class vectors from training.

    Returns:
        The classifier, in training mode. Call `.to(device)` if the backbone is not on the CPU.

    Raises:
        ArgumentError: adapters do not fit this backbone, or an argument is invalid.
    """
    if isinstance(labels, str):
        raise ArgumentError(f"labels must be a list of names, not the text {labels!r}")
    check_method(method)
    parts = (adapter or AdapterConfig(), method_config or MethodConfig(), clip or ClipConfig())
    spec = _describe(backbone, tuple(labels), task or Task(), method, *parts)
    spec = dataclasses.replace(spec, dropout=dropout, head=head, freeze_head=freeze_head)
    model = VideoClassifier(backbone, spec)
    draw_weights(model.head, head_std)
    return model


def _describe(
    backbone: nn.Module,
    labels: tuple[str, ...],
    task: Task,
    method: str,
    adapter: AdapterConfig,
    method_config: MethodConfig,
    clip: ClipConfig,
) -> ModelSpec:
    """Make the record of a classifier on a backbone that the caller built."""
    config = getattr(backbone, "pretrained_cfg", None) or {}
    remark_on_activation(config.get("architecture") or "", config.get("tag") or "")
    return ModelSpec(
        backbone=".".join(filter(None, (config.get("architecture"), config.get("tag")))),
        weights="given",
        labels=labels,
        task=task,
        method=method,
        adapter=adapter,
        method_config=method_config,
        clip=clip,
        mean=tuple(config.get("mean", IMAGENET_DEFAULT_MEAN)),
        std=tuple(config.get("std", IMAGENET_DEFAULT_STD)),
        # The digest identifies the weights that the backbone has before training. If training
        # leaves them unchanged, it is computed only when the classifier is saved.
        digest=digest(backbone) if METHODS[method].changes_backbone else "",
    )


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
    head: Head = TrainConfig.head,
    freeze_head: bool = TrainConfig.freeze_head,
) -> VideoClassifier:
    """Build a timm model by name, and add a head and the trainable parts of a method to it.

    Examples:
        >>> model = st_adapter.create_model("resnet18", ["open", "close"])  # doctest: +SKIP
        >>> optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-3)  # doctest: +SKIP

    Args:
        backbone: timm name of the image model, with or without the tag of its weights.
        labels: names of the classes, one or more and all different, in the order of the logits.
        adapter: shape and placement of the adapters; None is `AdapterConfig()`.
        weights: "hub" (download), "package" (installed with the extra `demo`), "random", or the
            path of a file: safetensors or .pth with timm's names, or a CLIP .pt.
        task: how the classes belong together; None is one label per video.
        method: what is trained besides the head, one of the names in METHODS.
        method_config: sizes for methods other than adapters; None is `MethodConfig()`.
        clip: how `Predictor` cuts clips from videos; None is `ClipConfig()`.
        dropout: probability of dropout before the head, in [0, 1).
        head_std: standard deviation of the initial weights of a linear head, 0 or more.
        head: "linear", or "cosine" for cosines with a vector of each class. `set_head` replaces
            the random class vectors that either starts with.
        freeze_head: whether to exclude the class vectors from training.

    Returns:
        The classifier, in training mode and on the CPU.

    Raises:
        ArgumentError: an argument is invalid, or the hub cannot be reached.
        CheckpointError: the weights file cannot be read or does not fit the backbone.
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
        head=head,
        freeze_head=freeze_head,
    )
    model.spec = dataclasses.replace(model.spec, backbone=backbone, weights=source)
    return model


def build_model(
    config: TrainConfig,
    labels: Sequence[str],
    weights: str | None = None,
    task: Task | None = None,
) -> VideoClassifier:
    """Call `create_model` with the settings of a configuration.

    Args:
        config: settings of the run.
        labels: names of the classes.
        weights: source of the backbone's weights; None is `config.weights`.
        task: how the classes belong together; None is one label per video.

    Raises:
        ArgumentError, CheckpointError: as for `create_model`.
    """
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
            head=config.head,
            freeze_head=config.freeze_head,
        )
    except CheckpointError as error:
        if config.backbone != TrainConfig.backbone:
            raise
        raise CheckpointError(
            f"{error}. {config.backbone} is the default backbone; use --backbone NAME for another"
        ) from error


def load(path: str | Path, weights: str | None = None) -> VideoClassifier:
    """Rebuild a trained classifier from a run folder or an adapter folder.

    To classify video files, use `Predictor`, which also decodes them and cuts clips.

    Examples:
        >>> model = st_adapter.load("run")  # doctest: +SKIP
        >>> logits = model(clips)  # uint8 [b, t, 3, h, w] to [b, classes]  # doctest: +SKIP

    Args:
        path: run folder of `train`, or the adapter folder in it.
        weights: source of the backbone's weights: "hub", "package", "random", or the path of a
            file. None uses the source that the folder records.

    Returns:
        The classifier, in evaluation mode and on the CPU.

    Raises:
        CheckpointError: the folder cannot be read, or was trained on other weights.
        ArgumentError: the backbone's weights cannot be found.
    """
    folder = checkpoint.find(Path(path))
    spec = checkpoint.read_spec(folder)
    source = resolve_source(spec.backbone, weights or checkpoint.recorded_weights(folder, spec))
    backbone = build_backbone(spec.backbone, source, spec.backbone_options)
    differs = spec.digest != (found := digest(backbone))
    if differs and source == "random":
        # Machines may round initial weights differently, which does no harm. Whether that is all,
        # a digest cannot tell.
        note(
            f"the random weights drawn here differ from those that {folder} was trained on, by "
            "rounding or, with another version of timm or torch, entirely"
        )
    elif differs:
        raise CheckpointError(
            f"{folder} was trained on {spec.backbone} with other weights than those of {source} "
            f"(expected digest {spec.digest[:19]}, found {found[:19]}); give the right weights"
        )
    with OwnRandom(0):  # initial values are overwritten; the caller's generator is left alone
        model = VideoClassifier(backbone, dataclasses.replace(spec, weights=source))
    copy_trained(model, checkpoint.read_tensors(folder), str(folder))
    return model.eval()


def copy_trained(model: VideoClassifier, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into the trained parameters of a model. On an error, none is changed.

    Args:
        model: model to change.
        tensors: tensors by the names of `model.trained_tensors()`.
        source: where the tensors come from, for the error message.

    Raises:
        CheckpointError: names or shapes do not fit the model, or a value is NaN or infinite.
    """
    wanted = model.trained_tensors()
    check_fit(source, tensors, wanted)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])
