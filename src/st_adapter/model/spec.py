"""What a trained classifier is made of: the record that travels with its tensors."""

from dataclasses import dataclass, field

from st_adapter.common.task import Task
from st_adapter.config import AdapterConfig, ClipConfig, MethodConfig, TrainConfig, check_types
from st_adapter.errors import ArgumentError

BACKBONE_OPTIONS = ("embed_dim", "depth", "num_heads", "img_size", "patch_size")
"""What may differ from the named image model; nothing that names a file or an address."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a classifier is made of, enough to build it again around its trained tensors.

    Attributes:
        backbone: timm name of the frozen image model.
        weights: where its weights are from: "hub", "package", "random", a file, or "given"
            for a model that was built by the caller.
        digest: of the frozen weights; empty until the classifier is saved.
        backbone_options: sizes that differ from the named image model's, as timm names them.
        labels: names of the classes, those of one head after those of another.
        task: how the classes belong together.
        mean, std: normalisation of RGB values in 0..1.
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
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        for name, value in self.backbone_options.items():
            if name not in BACKBONE_OPTIONS or value < 1:
                raise ArgumentError(
                    f"backbone options are {', '.join(BACKBONE_OPTIONS)}, 1 or more each, "
                    f"not {name} = {value}"
                )
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ArgumentError(f"labels must be different names, one or more, not {self.labels}")
        counted = sum(count for _, count in self.task.heads)
        if self.task.heads and counted != len(self.labels):
            raise ArgumentError(
                f"{self.task.heads} are {counted} classes, not the {len(self.labels)} of labels"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ArgumentError(
                f"mean and std take three numbers, std above 0, not {self.mean} and {self.std}"
            )
