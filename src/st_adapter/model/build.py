"""Build a classifier from the name of a backbone, from a timm model, or from an adapter folder."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from st_adapter.backbones.build import build_backbone, fitting_backbone
from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.digests import digest
from st_adapter.backbones.libraries import image_part, library_of, name_of, normalisation_of
from st_adapter.backbones.named_models import Features, NamedFamily
from st_adapter.backbones.sources import HubError, resolve_source
from st_adapter.backbones.tensor_checks import check_fit
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
from st_adapter.model.spec import OWN_FUNCTION, ModelSpec
from st_adapter.wording import setting


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
    blocks: str | None = None,
    features: Features = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> VideoClassifier:
    """Add a classifier head and the trainable parts of a method to an image model you have built.

    The model is frozen and put in evaluation mode. Its tensors are neither copied nor changed,
    except by methods that train the image model itself ("lora", "bitfit", "partial", "full",
    "full-temporal").

    Models of timm, Hugging Face transformers, torchvision and open_clip are recognised: adapters
    are placed in their blocks, and features are taken where the library itself takes them. For any
    other model, name its blocks and say where its features are.

    Examples:
        >>> backbone = timm.create_model("resnet18", pretrained=True)  # doctest: +SKIP
        >>> model = st_adapter.attach(backbone, ["open", "close"])  # doctest: +SKIP
        >>> model(torch.zeros(1, 8, 3, 224, 224)).shape  # doctest: +SKIP
        torch.Size([1, 2])

        A model of your own, with an adapter before each of its blocks:

        >>> model = st_adapter.attach(  # doctest: +SKIP
        ...     net, ["open", "close"], blocks="encoder.layer.*", features="pool"
        ... )

    Args:
        backbone: image model, with or without its own classifier. Of a model of pictures and text,
            such as `CLIPModel`, the image part is used.
        labels: names of the classes, one or more and all different, in the order of the logits.
        adapter: shape and placement of the adapters; None is `AdapterConfig()`.
        task: how the classes belong together; None is one label per video.
        method: what is trained besides the head, one of the names in METHODS.
        method_config: sizes for methods other than adapters; None is `MethodConfig()`.
        clip: how `Predictor` cuts clips from videos, as you cut them in training. None is
            `ClipConfig()`, unless you tell `save_adapter`.
        dropout: probability of dropout before the head, in [0, 1).
        head_std: standard deviation of the initial weights of a linear head, 0 or more.
        head: "linear", or "cosine" for cosines with a vector of each class. `set_head` replaces
            the random class vectors that either starts with.
        freeze_head: whether to exclude the class vectors from training.
        blocks: names of the blocks of any other model, with `*` for a part of a name without dots.
            Each must take features [n, c, h, w], [n, h, w, c] or [n, tokens, c] as its first
            argument. The model must take frames of `clip.size` pixels.
        features: where the features of that model are: the name of the module whose output
            they are, or a function from normalised frames [n, 3, h, w] to features [n, c] that
            calls the model. None is what the model returns.
        normalisation: mean and standard deviation of RGB values in 0..1 that the model expects,
            three numbers each. None is what the model's own library states, or that of ImageNet.

    Returns:
        The classifier, in training mode and on the device of the backbone.

    Raises:
        ArgumentError: adapters do not fit this backbone, or an argument is invalid.
    """
    if isinstance(labels, str):
        raise ArgumentError(f"labels must be a list of names, not the text {labels!r}")
    check_method(method)
    if features is not None and blocks is None:
        raise ArgumentError("features are for models whose blocks are named; give blocks as well")
    name, image_model = name_of(backbone), image_part(backbone)
    remark_on_activation(*name.partition(".")[::2])
    mean, std = normalisation or normalisation_of(backbone)
    spec = ModelSpec(
        backbone=name,
        weights="given",
        labels=tuple(labels),
        task=task or Task(),
        method=method,
        adapter=adapter or AdapterConfig(),
        method_config=method_config or MethodConfig(),
        clip=clip or ClipConfig(),
        dropout=dropout,
        head=head,
        freeze_head=freeze_head,
        mean=tuple(mean),
        std=tuple(std),
        blocks=blocks or "",
        features=OWN_FUNCTION if callable(features) else features or "",
        # The digest identifies the weights that the backbone has before training. If training
        # leaves them unchanged, it is computed only when the classifier is saved.
        digest=digest(image_model) if METHODS[method].changes_backbone else "",
    )
    model = _classifier(image_model, spec, features)
    draw_weights(model.head, head_std)
    model.notes_default_clip = clip is None
    return model


def _classifier(backbone: nn.Module, spec: ModelSpec, features: Features) -> VideoClassifier:
    """Make a classifier on the device of its backbone, whose blocks may be named."""
    family = None
    if spec.blocks:
        family = NamedFamily(backbone, spec.blocks, features, spec.clip.size)
    return VideoClassifier(backbone, spec, family).to(next(backbone.parameters()).device)


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
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> VideoClassifier:
    """Build an image model by name, and add a head and the trainable parts of a method to it.

    Examples:
        >>> model = st_adapter.create_model("resnet18", ["open", "close"])  # doctest: +SKIP
        >>> optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-3)  # doctest: +SKIP

    Args:
        backbone: name of the image model in timm, with or without the tag of its weights. With a
            prefix, that of another library: "hf:facebook/dinov2-small",
            "torchvision:convnext_tiny" or "open_clip:ViT-B-32/openai".
        labels: names of the classes, one or more and all different, in the order of the logits.
        adapter: shape and placement of the adapters; None is `AdapterConfig()`.
        weights: "hub" (download), "package" (installed with the extra `demo`), "random", or the
            path of a file: safetensors or .pth with the library's names, or a CLIP .pt.
        task: how the classes belong together; None is one label per video.
        method: what is trained besides the head, one of the names in METHODS.
        method_config: sizes for methods other than adapters; None is `MethodConfig()`.
        clip: how `Predictor` cuts clips from videos, as you cut them in training. None is
            `ClipConfig()`, unless you tell `save_adapter`.
        dropout: probability of dropout before the head, in [0, 1).
        head_std: standard deviation of the initial weights of a linear head, 0 or more.
        head: "linear", or "cosine" for cosines with a vector of each class. `set_head` replaces
            the random class vectors that either starts with.
        freeze_head: whether to exclude the class vectors from training.
        normalisation: mean and standard deviation of RGB values in 0..1 that the model expects, as
            for `attach`.

    Returns:
        The classifier, in training mode and on the CPU.

    Raises:
        ArgumentError: an argument is invalid, or the hub cannot be reached.
        CheckpointError: the weights file cannot be read or does not fit the backbone.
    """
    source = resolve_source(backbone, weights)
    if normalisation is None and (found := library_of(backbone)):
        library, own_name = found
        normalisation = library.preset(own_name)
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
        normalisation=normalisation,
    )
    # Of a folder, the model has recorded the absolute path.
    name = model.spec.backbone if backbone.startswith("hf:") else backbone
    model.spec = dataclasses.replace(model.spec, backbone=name, weights=source)
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
        other = setting("backbone", "NAME")
        advice = f"{config.backbone} is the default backbone; use {other} for another"
        if fits := fitting_backbone(config.weights):
            advice = f"This file fits {fits}: use {setting('backbone', fits)}"
        raise CheckpointError(f"{error}. {advice}") from error


def load(
    path: str | Path,
    weights: str | None = None,
    *,
    backbone: nn.Module | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
) -> VideoClassifier:
    """Rebuild a trained classifier from a run folder or an adapter folder.

    To classify video files, use `Predictor`, which also decodes them and cuts clips.

    Examples:
        >>> model = st_adapter.load("run")  # doctest: +SKIP
        >>> logits = model(clips)  # uint8 [b, t, 3, h, w] to [b, classes]  # doctest: +SKIP

        An adapter on an image model that only your program can build:

        >>> model = st_adapter.load("my_adapter", backbone=build_mine())  # doctest: +SKIP

    Args:
        path: run folder of `train`, or the adapter folder in it. Or a name on the hub,
            "hf:user/name" or "hf:user/name@revision", as `push` makes it.
        weights: source of the backbone's weights: "hub", "package", "random", or the path of a
            file. None uses the source that the folder records, or timm's hub if the classifier was
            made with `attach`.
        backbone: image model to use instead of building one, with the weights that it had before
            training. It is changed in place, as by `attach`. Cannot be combined with `weights`.
        features: function that `attach` was given as `features`, which cannot be saved.

    Returns:
        The classifier, in evaluation mode and on the CPU, or where you put `backbone`.

    Raises:
        CheckpointError: the folder cannot be read or downloaded, or was trained on other weights.
        ArgumentError: the backbone's weights cannot be found, or both `weights` and `backbone` are
            given.
    """
    folder = checkpoint.find(Path(path))
    spec = checkpoint.read_spec(folder)
    if (spec.features == OWN_FUNCTION) != (features is not None):
        raise ArgumentError(
            f"{folder} was trained with a function for its features; give load the same function, "
            "features=..."
            if features is None
            else f"{folder} was not trained with a function for its features"
        )
    if backbone is not None:
        backbone = image_part(backbone)
    if backbone is None:
        backbone, source = _build_recorded(folder, spec, weights)
        _check_digest(folder, spec, backbone, source)
        spec = dataclasses.replace(spec, weights=source)
    elif weights is not None:
        raise ArgumentError(
            "give load either weights or a backbone, which has its weights, not both"
        )
    elif spec.digest != digest(backbone):
        raise CheckpointError(
            f"{folder} was trained on another image model than the backbone given, or on other "
            f"weights; {checkpoint.BUILD_AGAIN}"
        )
    with OwnRandom(0):  # initial values are overwritten; the caller's generator is left alone
        model = _classifier(backbone, spec, features or spec.features or None)
    copy_trained(model, checkpoint.read_tensors(folder), str(folder))
    return model.eval()


def load_beside(path: str | Path, other: VideoClassifier) -> VideoClassifier:
    """Rebuild a trained classifier on the image model of another one, which both then share.

    Unlike `load` with `backbone`, this also works after `other.set_precision`: the digests that
    both folders record are compared, not the weights themselves.

    Args:
        path: run folder of `train`, or the adapter folder in it.
        other: classifier with a method that leaves the image model unchanged.

    Returns:
        The classifier, in evaluation mode, in the precision of `other` and on its device.

    Raises:
        CheckpointError: the folder cannot be read, or was trained on another image model.
    """
    folder = checkpoint.find(Path(path))
    spec = checkpoint.read_spec(folder)
    if spec.digest != other.spec.digest or METHODS[spec.method].changes_backbone:
        raise CheckpointError(f"{folder} cannot share the image model of another classifier")
    spec = dataclasses.replace(spec, weights=other.spec.weights)
    with OwnRandom(0):
        model = _classifier(other.backbone, spec, spec.features or None)
    copy_trained(model, checkpoint.read_tensors(folder), str(folder))
    model.set_precision(other.precision)
    return model.eval()


def _build_recorded(folder: Path, spec: ModelSpec, weights: str | None) -> tuple[nn.Module, str]:
    """Build the image model that a folder records; return it and the source of its weights."""
    wanted = weights or checkpoint.recorded_weights(folder, spec)
    try:
        source = resolve_source(spec.backbone, wanted)
        backbone = build_backbone(spec.backbone, source, spec.backbone_options)
        return image_part(backbone), source
    except ArgumentError as error:
        if spec.weights != "given" and not isinstance(error, HubError):
            raise
        problem = error.problem if isinstance(error, HubError) else error
        raise ArgumentError(
            f"{folder} needs the weights of {spec.backbone}, but {problem}; give them with "
            f"{setting('weights', 'FILE')}, or {checkpoint.BUILD_AGAIN}"
        ) from error


def _check_digest(folder: Path, spec: ModelSpec, backbone: nn.Module, source: str) -> None:
    """Check that an image model has the weights that the adapter in a folder was trained on."""
    differs = spec.digest != (found := digest(backbone))
    if differs and source == "random":
        # Machines may round initial weights differently, which does no harm. Whether that is all,
        # a digest cannot tell.
        note(
            f"the random weights drawn here differ from those that {folder} was trained on, by "
            "rounding or, with another version of timm or torch, entirely"
        )
    elif differs:
        advice = "give the right weights"
        if spec.weights == "given":
            advice += f" with {setting('weights', 'FILE')}, or {checkpoint.BUILD_AGAIN}"
        raise CheckpointError(
            f"{folder} was trained on {spec.backbone} with other weights than those of {source} "
            f"(expected digest {spec.digest[:19]}, found {found[:19]}); {advice}"
        )


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
