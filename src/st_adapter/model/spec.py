"""The record that is saved with the trained tensors and from which a classifier is rebuilt."""

from dataclasses import dataclass, field

from st_adapter.common.task import Task
from st_adapter.config import (
    AdapterConfig,
    ClipConfig,
    ClipTiming,
    Head,
    MethodConfig,
    TrainConfig,
    check_types,
)
from st_adapter.errors import ArgumentError
from st_adapter.wording import setting

BACKBONE_OPTIONS = ("embed_dim", "depth", "num_heads", "img_size", "patch_size")
"""Sizes in which a backbone may differ from the timm model of its name.

timm takes more options, some of which name files or URLs. Only these are allowed, so that an
adapter folder from someone else cannot use the others.
"""


OWN_FUNCTION = "(a function)"
"""Record of features that are computed by a function, which cannot be saved."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Record what a classifier consists of, except for its tensors.

    Attributes:
        backbone: name of the image model: that of timm, or one with a prefix such as "hf:".
        weights: source of its weights: "hub", "package", "random", the path of a file, or "given"
            for a model that the caller built.
        backbone_options: sizes that differ from the timm model of that name, by timm's names;
            keys are from BACKBONE_OPTIONS, values are 1 or more.
        labels: names of the classes in the order of the logits, all different. With several
            heads, the classes of the first head come first.
        task: how the classes belong together.
        method: what is trained, one of the names in METHODS.
        adapter: shape and placement of the adapters.
        method_config: sizes for the methods other than adapters.
        clip: how clips are cut from videos.
        dropout: probability of dropout before the head, in [0, 1).
        head: "linear", or "cosine" for cosines with a vector of each class.
        freeze_head: whether the class vectors keep their initial values in training.
        mean: mean of the red, green and blue values in 0..1 that the backbone was trained with.
        std: standard deviation of those values, each above 0.
        blocks: names of the blocks, if `attach` was told, else empty.
        features: name of the module that gives the features, if `attach` was told; OWN_FUNCTION if
            it was given a function; else empty, for what the model returns.
        temperatures: temperature of each head's scores, fitted on held-out videos; empty for scores
            that are not calibrated.
        timing: how much time training clips covered; None if that is not known.
        threshold: score from which the second of two classes, or each of any number of labels, is
            predicted; in 0..1.
        digest: SHA-256 of the backbone's weights, with which `load` recognises wrong weights;
            empty until the classifier is saved.

    Raises:
        ArgumentError: a value is of the wrong type or outside its range.
    """

    backbone: str
    weights: str
    backbone_options: dict[str, int] = field(default_factory=dict)
    labels: tuple[str, ...]
    task: Task = Task()
    method: str = "st-adapter"
    adapter: AdapterConfig = AdapterConfig()
    method_config: MethodConfig = MethodConfig()
    clip: ClipConfig = ClipConfig()
    dropout: float = TrainConfig.dropout
    head: Head = TrainConfig.head
    freeze_head: bool = TrainConfig.freeze_head
    mean: tuple[float, ...]
    std: tuple[float, ...]
    blocks: str = ""
    features: str = ""
    temperatures: tuple[float, ...] = ()
    timing: ClipTiming | None = None
    threshold: float = 0.5
    digest: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        for name, value in self.backbone_options.items():
            if name not in BACKBONE_OPTIONS or value < 1:
                raise ArgumentError(
                    f"backbone options are {', '.join(BACKBONE_OPTIONS)}, each 1 or more, "
                    f"not {name} = {value}"
                )
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ArgumentError(f"labels must be one or more different names, not {self.labels}")
        counted = sum(count for _, count in self.task.heads)
        if self.task.heads and counted != len(self.labels):
            raise ArgumentError(
                f"labels must have {counted} names, one for each class of the heads "
                f"{self.task.heads}, not {len(self.labels)}"
            )
        if self.head == "cosine" and self.task.multi_label:
            raise ArgumentError(
                "a cosine head cannot be used if a video has any number of labels, because it has "
                f"no threshold for each class; use {setting('head', 'linear')}"
            )
        if not 0 < self.threshold < 1 or any(value <= 0 for value in self.temperatures):
            raise ArgumentError(
                "threshold must be above 0 and below 1, and temperatures above 0, not "
                f"{self.threshold} and {self.temperatures}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ArgumentError(
                "mean and std must have three numbers each, with std above 0, "
                f"not {self.mean} and {self.std}"
            )
