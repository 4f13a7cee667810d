"""The model card: what a classifier recognises, how well, how to use it, and what it came from."""

import re
from dataclasses import dataclass
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from st_adapter.backbones.libraries import library_of
from st_adapter.backbones.sources import NAMED_SOURCES, PACKAGED
from st_adapter.common.provenance import versions
from st_adapter.data.formats.listing import counted
from st_adapter.methods import METHODS
from st_adapter.model.spec import OWN_FUNCTION, ModelSpec
from st_adapter.report.parts import BASELINES, interval_text, percent
from st_adapter.report.run_page import ORDER_NAMES

_SHOWN_LABELS = 400
_SPECIAL = re.compile(r"([\\`*_<>|\[\]#~$])")
"""Matches what Markdown reads as formatting."""

_SCORES = {
    "top1": ("top-1 accuracy", "accuracy"),
    "top5": ("top-5 accuracy", "accuracy"),
    "mean_class_accuracy": ("balanced accuracy", "accuracy"),
    "mean_average_precision": ("mean average precision", "mAP"),
}
"""Names of scores in the text, and their types among the hub's metrics."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card tells.

    Attributes:
        name: Name of the adapter on the hub, such as "hf:user/name".
        spec: Record of the classifier.
        num_trained: Number of trained parameters.
        license: Licence of the adapter; None if the author has not chosen one.
        measures: An evaluation as in `eval.json`; empty if there is none.
        record: `num_train`, `recipe`, `versions` and `epochs` of the run, and whether the
            evaluation `is_own_data`; empty if they are not known.
        warnings: Warnings about the result.
        has_picture: Whether there is a picture of the measures, `results.png`.
    """

    name: str
    spec: ModelSpec
    num_trained: int
    license: str | None
    measures: dict[str, Any]
    record: dict[str, Any]
    warnings: tuple[str, ...]
    has_picture: bool

    @property
    def title(self) -> str:
        """Name of the repository without its owner and revision."""
        return self.name.rpartition("/")[2].partition("@")[0]


def card_text(card: Card) -> str:
    """Return the model card in Markdown, with its metadata for the hub as YAML."""
    environment = Environment(
        loader=PackageLoader("st_adapter.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "percent": percent, "interval": interval_text}
    body = environment.get_template("card.md").render(
        card=card,
        spec=card.spec,
        measures=card.measures,
        record=card.record,
        method=METHODS[card.spec.method],
        shown_labels=card.spec.labels[:_SHOWN_LABELS],
        counted=counted,
        orders=ORDER_NAMES,
        scores=_scores(card.measures),
        baselines=[
            (BASELINES.get(name, name), value)
            for name, value in card.measures.get("baselines", {}).items()
        ],
        base_model=base_model(card.spec),
        image_model=_image_model(card.spec),
        needs_model=_needs_model(card.spec),
        needs_function=card.spec.features == OWN_FUNCTION,
        package=_package(card.spec),
        weights_file="" if card.spec.weights in NAMED_SOURCES else card.spec.weights,
        version=card.record.get("versions", {}).get("st-adapter") or versions()["st-adapter"],
    )
    return f"---\n{_metadata(card).to_yaml()}\n---\n\n{body}"


def plain(text: str) -> str:
    r"""Return text on one line in which Markdown finds no formatting.

    >>> print(plain("a_b | <i>"))
    a\_b \| \<i\>
    """
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def base_model(spec: ModelSpec) -> str | None:
    """Return the repository of the image model on the hub, or None if it is not from there."""
    if spec.weights not in ("hub", "given"):
        return None
    if spec.backbone.startswith("hf:"):
        return spec.backbone.removeprefix("hf:")
    config = None if library_of(spec.backbone) else timm.get_pretrained_cfg(spec.backbone)
    return config.hf_hub_id if config else None


def _metadata(card: Card) -> ModelCardData:
    repository = base_model(card.spec)
    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type="private",
            dataset_name=_measured_on(card.record),
            metric_type=_SCORES[key][1],
            metric_name=name,
            metric_value=round(value, 4),
        )
        for key, name, value, _ in _scores(card.measures)
    ]
    return ModelCardData(
        library_name="st-adapter",
        pipeline_tag="video-classification",
        tags=["video-classification", "st-adapter", card.spec.method],
        license=card.license,
        base_model=repository,
        base_model_relation="adapter" if repository else None,
        model_name=card.title,
        eval_results=results or None,
    )


def _measured_on(record: dict[str, Any]) -> str:
    return "held-out videos" if record.get("is_own_data", True) else "videos of another data set"


def _scores(measures: dict[str, Any]) -> list[tuple[str, str, float, list[float] | None]]:
    """Return key, name, value and interval of each score, the main one first."""
    keys = sorted(_SCORES, key=lambda key: key != measures.get("metric"))
    intervals = measures.get("intervals") or {}
    return [
        (key, _SCORES[key][0], measures[key], intervals.get(key))
        for key in keys
        if measures.get(key) is not None
    ]


def _needs_model(spec: ModelSpec) -> bool:
    """Return whether only a program can build the image model."""
    return not spec.backbone or bool(spec.blocks) or spec.features == OWN_FUNCTION


def _image_model(spec: ModelSpec) -> str:
    """Say in a sentence which weights the image model has, and their licence."""
    if spec.weights == "package":
        package = PACKAGED[spec.backbone.partition(".")[0]]
        return (
            f"The weights of the image model are in the Python package `{package}`, which states "
            "their licence."
        )
    if spec.weights == "random":
        return "The weights of the image model are random, so that this adapter is only a test."
    if spec.weights not in NAMED_SOURCES:
        return (
            f"The weights of the image model are in the file `{spec.weights}`, which has its own "
            "licence. Ask the author of this adapter for it. Other weights are refused: those that "
            f"it was trained on have the digest `{spec.digest}`."
        )
    if _needs_model(spec) or library_of(spec.backbone):
        return "The weights of the image model have their own licence."
    config = timm.get_pretrained_cfg(spec.backbone)
    licence = config.license if config else None
    if not licence:
        return "timm does not record the licence of the weights of the image model."
    return f"The weights of the image model have the licence {licence}, as far as timm records it."


def _package(spec: ModelSpec) -> str:
    """Return what to install, with the extra that the image model needs."""
    extras = {"hf:": "transformers", "open_clip:": "open-clip"}
    found = [extra for prefix, extra in extras.items() if spec.backbone.startswith(prefix)]
    if spec.weights == "package":
        found.append("demo")
    return f"'st-adapter[{','.join(found)}]'" if found else "st-adapter"
