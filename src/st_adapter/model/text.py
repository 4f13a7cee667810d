"""Embed class names with the text encoder of a CLIP model, by open_clip.

CLIP scores a class by the cosine between its text vector t and P f, where f are the features of an
image and P is the projection of the image encoder into the space that it shares with texts. The
backbones of timm end before P. But (P f) . t = f . (P^T t). The vector P^T t therefore scores
features before the projection, and a linear head of such vectors ranks classes as CLIP does.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.weight_files.tensors import read_tensors
from st_adapter.errors import ArgumentError, did_you_mean

TEMPLATES = ("a video of {}.", "a photo of {}.", "a clip that shows {}.")
"""Prompts whose text vectors are averaged; {} is the name of the class."""

DEFAULT_MODEL = "ViT-B-16-quickgelu"
"""The open_clip model whose image encoder is the default backbone."""

_NOT_PARAMETERS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's files that are settings of the model."""


def embed_labels(
    labels: Sequence[str],
    *,
    model: str = DEFAULT_MODEL,
    pretrained: str = "openai",
    templates: Sequence[str] = TEMPLATES,
    joint_space: bool = False,
) -> dict[str, Tensor]:
    """Compute a vector for each class from its name, with which a head can start.

    Args:
        labels: names of the classes. "verb/open", the class of one of several heads, reads "open",
            and "BasketballDunk" or "basketball_dunk" reads "basketball dunk".
        model: name of the model in open_clip. Its image encoder must be the backbone.
        pretrained: name of its weights in open_clip, a file (safetensors or .pt), or "random".
        templates: prompts to average, each with one {} for the name of the class.
        joint_space: leave out the mapping to the features before the projection.

    Returns:
        A vector by the name of each class.

    Raises:
        ArgumentError: open_clip is not installed, the model or its weights do not exist, or the
            projection of the image encoder is not linear.
    """
    if find_spec("open_clip") is None:
        raise ArgumentError(
            "text vectors of class names need an extra: pip install 'st-adapter[open-clip]'"
        )
    for template in templates:
        if template.count("{}") != 1:
            raise ArgumentError(f"a template has one {{}} for the class name, not {template!r}")
    import open_clip  # an extra that is slow to import

    clip = _load_clip(model, pretrained)
    return text_vectors(labels, clip, open_clip.get_tokenizer(model), templates, joint_space)


def _load_clip(model: str, pretrained: str) -> Any:
    import open_clip

    if model not in open_clip.list_models():
        hint = did_you_mean(model, open_clip.list_models())
        raise ArgumentError(f"open_clip does not have a model {model!r}{hint}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    is_file = Path(pretrained).is_file()
    if not is_file and pretrained not in (*tags, "random"):
        raise ArgumentError(
            f"{pretrained!r} is neither a file nor a name of weights of {model}; "
            f"have {', '.join([*tags, 'random'])}{did_you_mean(pretrained, tags)}"
        )
    try:
        if not is_file and pretrained != "random":
            return open_clip.create_model(model, pretrained=pretrained).eval()
        with OwnRandom(0):
            clip = open_clip.create_model(model, pretrained=None, load_weights=False).eval()
        if is_file:  # read by our own reader, which runs no code of the file
            tensors = read_tensors(Path(pretrained))
            clip.load_state_dict({n: t for n, t in tensors.items() if n not in _NOT_PARAMETERS})
        return clip
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ArgumentError(f"cannot load {model} with weights {pretrained}: {reason}") from error


@torch.no_grad()
def text_vectors(
    labels: Sequence[str],
    clip: Any,
    tokenizer: Any,
    templates: Sequence[str] = TEMPLATES,
    joint_space: bool = False,
) -> dict[str, Float[Tensor, " c"]]:
    """Compute the vectors of `embed_labels` with an open_clip model that is loaded already.

    In the space shared with texts, vectors have length 1. Vectors for features are scaled by
    CLIP's temperature and a typical length of P f, so that a linear head of them is about as sure
    as CLIP is.

    Args:
        labels: names of the classes.
        clip: model of open_clip, in evaluation mode.
        tokenizer: its tokenizer.
        templates: prompts to average.
        joint_space: leave out the mapping to the features before the projection.
    """
    joint = torch.stack(
        [
            clip.encode_text(tokenizer([t.format(words(label)) for t in templates]), normalize=True)
            for label in labels
        ]
    )
    vectors = F.normalize(joint.mean(1), dim=1)
    if not joint_space and (projection := _projection(clip)) is not None:
        vectors = vectors @ projection.T * _scale(clip, projection)
    return {label: vector.clone() for label, vector in zip(labels, vectors.float(), strict=True)}


def words(label: str) -> str:
    """Return the name of a class as a prompt has it.

    >>> words("noun/BasketballDunk"), words("open_door"), words("3D printing"), words("TV")
    ('basketball dunk', 'open door', '3d printing', 'tv')
    """
    name = label.rpartition("/")[2].replace("_", " ")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _projection(clip: Any) -> Float[Tensor, "c d"] | None:
    """Return the matrix by which features are multiplied, or None if they are in the joint space.

    Raises:
        ArgumentError: the image encoder ends in something else than one matrix.
    """
    visual = clip.visual
    if isinstance(getattr(visual, "proj", None), Tensor):
        projection: Tensor = visual.proj
        return projection
    head = getattr(visual, "head", None)  # of a model of timm inside open_clip
    if head is not None:
        layers = [module for module in head.modules() if [*module.parameters(recurse=False)]]
        if not layers:
            return None
        if [type(layer) for layer in layers] == [torch.nn.Linear] and layers[0].bias is None:
            weight: Tensor = layers[0].weight
            return weight.T
    raise ArgumentError(
        "the projection of this model's image encoder is not one matrix, so that texts cannot be "
        "compared with the features before it; choose a plain ViT"
    )


def _scale(clip: Any, projection: Float[Tensor, "c d"]) -> float:
    """Return CLIP's factor of cosines, divided by a typical length of projected features.

    Features come out of a layer norm. With independent channels of variance 1 before its weights
    and biases, the mean squared length of P f follows from these.
    """
    norm = getattr(clip.visual, "ln_post", None)
    if not isinstance(norm, torch.nn.LayerNorm):
        return 1.0
    spread = (norm.weight[:, None] * projection).square().sum()
    typical = ((norm.bias @ projection).square().sum() + spread).sqrt()
    return float(clip.logit_scale.exp() / typical)
