"""Names that other libraries and papers give to image models, and what timm calls them."""

import re
from collections.abc import Iterator, Mapping

import timm
from torch import Tensor

from st_adapter.backbones.construction import shapes_only
from st_adapter.backbones.digests import classifier_tensors
from st_adapter.errors import did_you_mean
from st_adapter.wording import setting

_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}

# Names in lower case without punctuation, owner and tag, and what timm calls the same weights. A
# one-letter size is spelled out; a size that is not given is "base".
_PATTERNS = {
    r"dinov2(?:vit)?(?P<size>small|base|large|giant|[sblg])?(?:14|lvd142m)?": (
        "vit_{size}_patch14_dinov2.lvd142m"
    ),
    r"dinov2(?:vit)?(?:withregisters)?(?P<size>small|base|large|giant|[sblg])?(?:14)?(?:reg4?)": (
        "vit_{size}_patch14_reg4_dinov2.lvd142m"
    ),
    r"dinov2withregisters(?P<size>small|base|large|giant)": (
        "vit_{size}_patch14_reg4_dinov2.lvd142m"
    ),
    r"(?:openai)?clip(?:vit)?(?P<size>base|b)?(?:patch)?(?P<patch>16|32)?": (
        "vit_{size}_patch{patch}_clip_quickgelu_224.openai"
    ),
    r"(?:openai)?clip(?:vit)?(?:large|l)(?:patch)?14(?P<pixels>336)?(?:px)?": (
        "vit_large_patch14_clip_quickgelu_{pixels}.openai"
    ),
    r"siglip(?P<size>base|large)patch(?P<patch>16)(?P<pixels>\d{3})": (
        "vit_{size}_patch{patch}_siglip_{pixels}.webli"
    ),
    r"vit(?P<size>tiny|small|base|large|[sbl])(?P<patch>8|14|16|32)": (
        "vit_{size}_patch{patch}_224"
    ),
}
_DEFAULTS = {"size": "base", "patch": "16", "pixels": "224"}

_COMMON = (
    *("tf_efficientnet_lite0", "resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_b0"),
    *("mobilenetv3_large_100", "convnext_tiny", "convnext_small", "convnext_base"),
    *("swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224"),
)
"""CNNs and hierarchical models that `fitting_name` tries."""

_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1408: "giant"}
"""Names of ViTs by the width of their features; timm calls a few others otherwise."""


def timm_name(name: str) -> str | None:
    """Return what timm calls the image model that a name means elsewhere, or None.

    >>> timm_name("facebook/dinov2-small")
    'vit_small_patch14_dinov2.lvd142m'

    Args:
        name: name of a model, such as "ViT-B/16" or "openai/clip-vit-base-patch16".
    """
    name = re.sub(r"^hf[-_]hub:", "", name)
    by_letters: dict[str, str] = {_letters(known): known for known in timm.list_models()}
    for spelling in (name, name.rpartition("/")[2]):  # the slash may be of an owner, or of ViT-B/16
        architecture = spelling.partition(".")[0]
        if timm.is_model(architecture):
            return spelling
        letters = _letters(re.sub(r"[-_]in(1|21|22)k\b", "", spelling))
        for known in (letters, letters.removesuffix("224")):
            if known in by_letters:
                return by_letters[known]
        for pattern, template in _PATTERNS.items():
            if match := re.fullmatch(pattern, letters):
                given = {key: value for key, value in match.groupdict().items() if value}
                parts = _DEFAULTS | {key: _SIZES.get(v, v) for key, v in given.items()}
                found: str = template.format(**parts)
                return found if timm.is_model(found.partition(".")[0]) else None
    return None


def advice_on(name: str) -> str:
    """Return what to use instead of a name that timm does not have, to end an error message."""
    # Papers call both ImageNet's and CLIP's model ViT-B/16.
    names = [timm_name(name), timm_name(f"clip-{name}")]
    meant = [found for found in dict.fromkeys(names) if found and timm.is_model_pretrained(found)]
    ways = [setting("backbone", found) for found in meant]
    owned = re.sub(r"^hf[-_]hub:", "", name)
    if re.fullmatch(r"[a-z0-9][\w-]*/[\w.-]+", owned) and not owned.startswith("timm/"):
        ways.append(setting("backbone", f"hf:{owned}"))
    if ways:
        return f"; use {' or '.join(ways)}"
    return did_you_mean(name.partition(".")[0].lower().replace("-", "_"), timm.list_models())


def fitting_name(tensors: Mapping[str, Tensor]) -> str | None:
    """Find a timm model whose tensors have the names and shapes of those in a file.

    Models are built without values, which takes milliseconds each, and only those that are likely:
    plain ViTs of the same width and patch size, and a few common CNNs.

    Args:
        tensors: tensors by timm's names, with or without those of the image classifier.
    """
    for name in _candidates(tensors):
        with shapes_only():
            model = timm.create_model(name, num_classes=0)
        wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
        more = tensors.keys() - wanted.keys() - classifier_tensors(model)
        if not more and all(
            key in tensors and tensors[key].shape == shape for key, shape in wanted.items()
        ):
            return name
    return None


def _candidates(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield names of models that may fit, the simplest first."""
    patches = tensors.get("patch_embed.proj.weight")
    if patches is None or patches.ndim != 4 or "blocks.0.norm1.weight" not in tensors:
        yield from _COMMON
        return
    size = _WIDTHS.get(patches.shape[0])
    named = timm.list_models(f"*vit_{size}_patch{patches.shape[-1]}_*")
    named += [*timm.list_models(f"deit*_{size}_*patch{patches.shape[-1]}_*"), "test_vit"]
    yield from sorted(named, key=lambda name: (not name.startswith("vit_"), len(name), name))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
