"""What a run is made of: one frozen dataclass is configuration, command line and record."""

import dataclasses
import re
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from st_adapter.errors import ArgumentError, did_you_mean
from st_adapter.methods import METHODS

COLUMNS = ("path", "label", "labels", "start_seconds", "end_seconds", "split")
"""Of a table of videos."""

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


Init = Literal["conv-zero", "up-zero", "difference"]
Activation = Literal["none", "relu", "gelu"]


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Shape and place of the adapters.

    Attributes:
        bottleneck: width inside the adapter; None is half the width of the features it sits on,
            at most the 384 of every published configuration.
        kernel_size: odd kernel over (time, height, width).
        positions: places inside a block, "attention" and "mlp" in a ViT, "block" in a CNN;
            "all" is each place that the backbone has.
        layers: "all", or k for the last k blocks alone.
        activation: "none" (as published), "relu" or "gelu".
        init: what the adapter, the identity at first, reads: nothing ("conv-zero", as in the
            official code), a random mixture of frames ("up-zero"), or their difference.
    """

    bottleneck: int | None = None
    kernel_size: tuple[int, int, int] = (3, 1, 1)
    positions: tuple[str, ...] | Literal["all"] = "all"
    layers: int | Literal["all"] = "all"
    activation: Activation = "none"
    init: Init = "conv-zero"

    def __post_init__(self) -> None:
        check_types(self)
        if self.bottleneck is not None and self.bottleneck < 1:
            raise ArgumentError(f"bottleneck must be at least 1, not {self.bottleneck}")
        if any(k < 1 or k % 2 == 0 for k in self.kernel_size):
            raise ArgumentError(
                f"kernel_size takes three odd numbers (time, height, width), not {self.kernel_size}"
            )
        if not self.positions or "" in tuple(self.positions):
            raise ArgumentError('positions must be "all" or a list of names, not an empty one')
        if self.layers != "all" and self.layers < 1:
            raise ArgumentError(f'adapter layers must be "all" or at least 1, not {self.layers}')


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Sizes of what the methods without adapters train.

    Attributes:
        prompt_tokens: of prompt and prompt-shallow, before a block.
        rank: of lora.
        trained_blocks: of partial, counted from the last.
        temporal_layers: of temporal.
    """

    prompt_tokens: int = 10
    rank: int = 8
    trained_blocks: int = 2
    temporal_layers: int = 2

    def __post_init__(self) -> None:
        check_types(self)
        for item in dataclasses.fields(self):
            _at_least(item.name, getattr(self, item.name), 1)


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How a video becomes a clip at test.

    Attributes:
        frames: frames in a clip.
        stride: distance between them in a window of its own; 0 spreads them over the video.
        size: height and width, pixels; the short side is scaled to it, bicubic.
        views: temporal and spatial views whose softmax scores are averaged.
    """

    frames: int = 8
    stride: int = 0
    size: int = 224
    views: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        check_types(self)
        _at_least("frames", self.frames, 1)
        _at_least("stride", self.stride, 0)
        _at_least("size", self.size, 1)
        if self.views[0] < 1 or self.views[1] not in (1, 3):
            raise ArgumentError(
                "views are 1 or more in time and 1 or 3 in space, "
                f"not {self.views[0]}x{self.views[1]}"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How the videos that DATA lists are found.

    Attributes:
        videos: the folder that their names start from; None is that of the list.
        columns: our names of columns to the table's own, such as "path=file,label=verb+noun".
        split: of data sets that publish several, from 1.
    """

    videos: str | None = None
    columns: str | None = None
    split: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        _at_least("split", self.split, 1)
        _ = self.column_names

    @property
    def column_names(self) -> dict[str, str]:
        """Our name of each column to the table's own."""
        names: dict[str, str] = {}
        for text in (self.columns or "").split(",") if self.columns is not None else ():
            ours, _, theirs = (part.strip() for part in text.partition("="))
            if ours not in COLUMNS or not theirs or ours in names:
                raise ArgumentError(
                    f"columns takes pairs like path=file,label=class with each of "
                    f"{', '.join(COLUMNS)} at most once, not {self.columns!r}"
                    + did_you_mean(ours, list(COLUMNS))
                )
            names[ours] = theirs
        return names


def check_types(config: Any) -> None:
    """Raise ArgumentError for a field whose value is not of the type it is declared with."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if not _fits(value, item.type):
            kind = item.type.__name__ if isinstance(item.type, type) else str(item.type)
            raise ArgumentError(f"{item.name} must be {_readable(kind)}, not {value!r}")


def check_method(method: str) -> None:
    """Raise ArgumentError with near misses unless `method` is one of METHODS."""
    if method not in METHODS:
        hint = did_you_mean(method, list(METHODS))
        raise ArgumentError(f"unknown method {method!r}; have {', '.join(METHODS)}{hint}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; an int will do for a float, a bool for neither."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, arguments[0]) and _fits(item, arguments[1]) for key, item in value.items()
        )
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(part, arguments[0]) for part in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _readable(kind: str) -> str:
    return kind.replace("typing.", "").replace("Literal", "one of ")


def _setting(default: Any, group: str, text: str) -> Any:
    return field(default=default, metadata={"group": group, "help": text})


_LOWEST = {
    **dict.fromkeys(("frames", "size", "epochs", "batch_size", "accumulate", "repeats"), 1),
    **dict.fromkeys(("stride", "weight_decay", "warmup_epochs", "clip_gradient", "workers"), 0),
    **dict.fromkeys(("mixup", "cutmix", "patience", "save_steps", "save_minutes"), 0),
    **dict.fromkeys(("draws", "prefix_cache"), 0),
    "keep_states": 1,
}
"""Least value of settings that have no other limit."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides how a run comes out. `config.json` in a run folder is this record."""

    backbone: str = _setting(
        "vit_base_patch16_clip_quickgelu_224.openai", "Model", "Image model, any timm name."
    )
    weights: str = _setting(
        "hub",
        "Model",
        "hub, package, random, or a file: safetensors or .pth in timm's names, a CLIP .pt.",
    )
    method: str = _setting("st-adapter", "Model", f"What is trained: {', '.join(METHODS)}.")
    bottleneck: int | None = _setting(
        None, "Model", "Width inside an adapter; unset is half the backbone's, at most 384."
    )
    kernel_size: tuple[int, int, int] = _setting(
        (3, 1, 1), "Model", "Odd adapter kernel over time, height, width."
    )
    positions: str = _setting(
        "all", "Model", "Places in a block: all, or a list such as attention,mlp."
    )
    adapter_layers: str = _setting("all", "Model", "all, or k for adapters in the last k blocks.")
    activation: Activation = _setting("none", "Model", "Activation inside the adapter.")
    init: Init = _setting(
        "difference",
        "Model",
        "What adapters read at first: nothing (conv-zero, as published), a random mixture of "
        "frames (up-zero), or the difference of frames.",
    )
    prompt_tokens: int = _setting(10, "Model", "Prompt tokens before a block (prompt).")
    rank: int = _setting(8, "Model", "Rank of the updates (lora).")
    trained_blocks: int = _setting(2, "Model", "Last blocks that are trained (partial).")
    temporal_layers: int = _setting(2, "Model", "Layers over the frames (temporal).")
    dropout: float = _setting(0.0, "Model", "Dropout before the classifier; 0.5 as published.")
    head_std: float = _setting(
        0.002, "Model", "Standard deviation of the classifier's first weights; 0.02 as published."
    )

    frames: int = _setting(8, "Clip", "Frames in a clip.")
    stride: int = _setting(
        0, "Clip", "Every stride-th frame of one window; 0 spreads the frames over the video."
    )
    size: int = _setting(224, "Clip", "Height and width of a clip, pixels.")
    crop: Literal["area", "jitter"] = _setting(
        "area", "Clip", "Training crop: random area, or short side jitter and random crop."
    )
    crop_range: tuple[float, float] = _setting(
        (0.5, 1.0), "Clip", "Range of the crop's area, or of the short side in units of size."
    )
    views: str = _setting("1x1", "Clip", "Test views, temporal x spatial; spatial is 1 or 3.")

    flip: bool = _setting(True, "Augmentation", "Mirror half of the training clips.")
    mirror: str | None = _setting(
        None,
        "Augmentation",
        "Classes that a mirror swaps, such as 'Turn left=Turn right', or a .csv of such pairs; "
        "names: those that differ in left and right alone; same: none. Mirrored clips are trained "
        "as the other class.",
    )
    reversal: str | None = _setting(
        None,
        "Augmentation",
        "Classes that are each other played backwards, such as Sit=Stand,Open=Close, or a .csv of "
        "such pairs: beside each of their training clips its reversal is trained as the other "
        "class.",
    )
    randaugment: bool = _setting(
        False, "Augmentation", "RandAugment m7 n4 mstd0.5 inc1, one draw a clip."
    )
    color_jitter: float = _setting(
        0.0, "Augmentation", "Most change of brightness, contrast and saturation, one draw a clip."
    )
    erasing: float = _setting(
        0.0, "Augmentation", "Probability that a random box is grey in all frames of a clip."
    )
    mixup: float = _setting(
        0.0, "Augmentation", "Alpha of mixup: clips and targets blended with others'; 0 is without."
    )
    cutmix: float = _setting(
        0.0, "Augmentation", "Alpha of CutMix: a box of another clip; with mixup, one or the other."
    )
    repeats: int = _setting(
        1, "Augmentation", "Clips drawn from each video that is decoded, in the same batch."
    )
    draws: int = _setting(
        0,
        "Augmentation",
        "Different random clips of each video, which come again in later epochs; 0 draws anew in "
        "every epoch.",
    )

    epochs: int = _setting(8, "Optimisation", "Passes over the training part.")
    batch_size: int = _setting(8, "Optimisation", "Clips in a forward pass.")
    accumulate: int = _setting(1, "Optimisation", "Forward passes in a step.")
    lr: float | None = _setting(1e-3, "Optimisation", "Peak learning rate; overrides lr-per-256.")
    lr_per_256: float | None = _setting(
        None, "Optimisation", "Peak learning rate for 256 clips a step, scaled to the step's size."
    )
    head_lr: float | None = _setting(
        None, "Optimisation", "Peak learning rate of the classifier; unset is that of the rest."
    )
    label_smoothing: float = _setting(
        0.0, "Optimisation", "Share of the target spread over all classes."
    )
    weight_decay: float = _setting(0.01, "Optimisation", "Weight decay; none on biases and norms.")
    warmup_epochs: float = _setting(
        1.0, "Optimisation", "Epochs of linear warm-up; half of all at most."
    )
    clip_gradient: float = _setting(1.0, "Optimisation", "Largest gradient norm; 0 is no limit.")
    average: float = _setting(
        0.0,
        "Optimisation",
        "Classify with a moving average of the trained parameters with this decay; 0 is without.",
    )
    keep: Literal["best", "last"] = _setting(
        "best",
        "Optimisation",
        "The epoch to keep: the best on the validation part, or the last, unseen until it is done.",
    )

    patience: int = _setting(
        0, "Optimisation", "Epochs without a better one after which training ends; 0 is all epochs."
    )
    save_steps: int = _setting(
        0, "Optimisation", "Save the state after so many steps; 0 is after epochs and by time."
    )
    save_minutes: float = _setting(10.0, "Optimisation", "Most minutes between saved states.")
    keep_states: int = _setting(2, "Optimisation", "States to keep, the last ones.")

    val: str | None = _setting(None, "Data", "Validation data, in any form DATA takes.")
    val_fraction: float = _setting(
        0.2, "Data", "Part of DATA held out where it has no validation part."
    )
    group: str | None = _setting(
        None,
        "Data",
        "Regular expression; files whose paths match it alike are held out together, "
        "such as 'g[0-9]+' for clips cut from one film.",
    )

    videos: str | None = _setting(
        None, "Data", "Folder of the videos that DATA lists; unset is the list's own."
    )
    columns: str | None = _setting(
        None,
        "Data",
        "What a table calls its columns, such as path=file,label=class; label=verb+noun trains a "
        "head for each.",
    )
    split: int = _setting(1, "Data", "Which split of a data set that publishes several (HMDB51).")

    seed: int = _setting(0, "Machine", "Seed of split, order, augmentation and initialisation.")
    workers: int = _setting(2, "Machine", "Processes that decode; 0 decodes in the main one.")
    decoder: Literal["pyav", "torchcodec"] = _setting(
        "pyav", "Machine", "What decodes videos; torchcodec is an extra, on a GPU with 0 workers."
    )
    checkpoint_activations: bool = _setting(
        False,
        "Machine",
        "Run blocks again in the backward pass instead of keeping what is in them (plain ViTs): "
        "less memory, more time, the same gradients.",
    )
    compile: bool = _setting(
        False,
        "Machine",
        "Compile the model with torch.compile: a minute at first, faster plain ViTs from then on.",
    )
    prefix_cache: float = _setting(
        0.0,
        "Machine",
        "GB that may be taken to run the frozen blocks before the first trained one once a clip; "
        "needs --draws.",
    )
    prefix_cache_folder: str | None = _setting(
        None,
        "Machine",
        "Folder that keeps what --prefix-cache computes, for further runs, too; unset is memory.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto", "Machine", "Arithmetic; auto measures whether bfloat16 is faster here than float32."
    )
    fit_batch: bool = _setting(
        False,
        "Machine",
        "Cut a step of batch-size x accumulate clips into as few forward passes as fit in memory; "
        "--batch-size auto is the same.",
    )
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = _setting(
        "none", "Machine", "Where metrics go, too, beside metrics.jsonl."
    )
    device: str = _setting("auto", "Machine", "auto, cpu, cuda, cuda:1, mps ...")
    processes: int | None = _setting(
        None,
        "Machine",
        "Processes that train together, each with batches of its own; unset is one for each GPU.",
    )

    def __post_init__(self) -> None:
        check_types(self)
        check_method(self.method)
        for name, lowest in _LOWEST.items():
            _at_least(name, getattr(self, name), lowest)
        if self.processes is not None:
            _at_least("processes", self.processes, 1)
        _check_machine(self)
        if self.patience and self.keep == "last":
            raise ArgumentError("patience needs epochs to be validated; leave it out or keep best")
        for name in ("erasing", "color_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if self.batch_size % self.repeats:
            raise ArgumentError(
                f"batch_size {self.batch_size} is no multiple of the {self.repeats} repeats"
            )
        for name in ("dropout", "label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.head_lr is not None and not 0 < self.head_lr < float("inf"):
            raise ArgumentError(f"head_lr must be above 0, not {self.head_lr}")
        if not 0 <= self.head_std < float("inf"):
            raise ArgumentError(f"head_std must be at least 0, not {self.head_std}")
        if not 0 < self.val_fraction < 1:
            raise ArgumentError(f"val_fraction must be between 0 and 1, not {self.val_fraction}")
        if self.lr is None and self.lr_per_256 is None:
            raise ArgumentError("a run needs lr or lr_per_256; both are unset")
        if not 0 < self.peak_lr() < float("inf"):
            raise ArgumentError(f"the learning rate must be above 0, not {self.peak_lr()}")
        low, high = self.crop_range
        if self.crop == "area" and not 0 < low <= high <= 1:
            raise ArgumentError(f"an area crop takes a range within (0, 1], not {self.crop_range}")
        if self.crop == "jitter" and not 1 <= low <= high:
            raise ArgumentError(f"a jitter crop takes a range from 1 up, not {self.crop_range}")
        _ = self.adapter, self.clip, self.data, self.method_config
        for name, words in (("reversal", ()), ("mirror", ("names", "same"))):
            text = getattr(self, name)
            if text is not None and text not in words and not text.lower().endswith(".csv"):
                class_pairs(name, text)
        in_time = METHODS[self.method].adapters == "spatio-temporal" and self.kernel_size[0] > 1
        if self.frames == 1 and self.init == "difference" and in_time:
            raise ArgumentError(
                "one frame has no difference for an adapter to learn from; "
                "use --init up-zero, or more --frames"
            )
        try:
            re.compile(self.group or "")
        except re.error as error:
            raise ArgumentError(f"group {self.group!r} is no regular expression: {error}") from None

    @property
    def adapter(self) -> AdapterConfig:
        """The adapters' shape and place."""
        layers: int | Literal["all"] = "all"
        try:
            if self.adapter_layers != "all":
                layers = int(self.adapter_layers)
        except ValueError:
            raise ArgumentError(
                f'adapter_layers takes "all" or a number, not {self.adapter_layers!r}'
            ) from None
        return AdapterConfig(
            bottleneck=self.bottleneck,
            kernel_size=self.kernel_size,
            positions="all" if self.positions == "all" else tuple(self.positions.split(",")),
            layers=layers,
            activation=self.activation,
            init=self.init,
        )

    @property
    def method_config(self) -> MethodConfig:
        """Sizes of what methods without adapters train."""
        return MethodConfig(
            prompt_tokens=self.prompt_tokens,
            rank=self.rank,
            trained_blocks=self.trained_blocks,
            temporal_layers=self.temporal_layers,
        )

    @property
    def clip(self) -> ClipConfig:
        """How a video becomes a clip at test."""
        return ClipConfig(
            frames=self.frames, stride=self.stride, size=self.size, views=parse_views(self.views)
        )

    @property
    def data(self) -> DataConfig:
        """How videos are found."""
        return DataConfig(videos=self.videos, columns=self.columns, split=self.split)

    @property
    def step_clips(self) -> int:
        """Clips in a step of all processes."""
        return self.batch_size * self.accumulate * (self.processes or 1)

    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        if self.lr is not None:
            return self.lr
        assert self.lr_per_256 is not None
        return self.lr_per_256 * self.step_clips / 256

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str) -> "TrainConfig":
        """Build from plain values; an unknown key is an error that names `source`."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ArgumentError(f"{source}: unknown key {key!r}{did_you_mean(key, [*known])}")
        made: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**made)


def class_pairs(what: str, text: str) -> dict[str, str]:
    """Read "Sit=Stand,Open=Close", both ways round.

    Raises:
        ArgumentError: it is no such list; the message begins with `what`.
    """
    pairs: dict[str, str] = {}
    for part in text.split(","):
        first, _, second = (name.strip() for name in part.partition("="))
        if not first or not second or first == second or {first, second} & pairs.keys():
            raise ArgumentError(
                f"{what} takes pairs like Sit=Stand,Open=Close, two classes each and no class "
                f"twice, not {text!r}; a .csv of two columns holds names with commas"
            )
        pairs |= {first: second, second: first}
    return pairs


def _at_least(name: str, value: float, lowest: int) -> None:
    if not lowest <= value < float("inf"):
        raise ArgumentError(f"{name} must be at least {lowest}, not {value}")


def parse_views(text: str) -> tuple[int, int]:
    """Read "3x1" as 3 temporal and 1 spatial view; "3" is "3x1"."""
    temporal, _, spatial = text.lower().partition("x")
    try:
        return int(temporal), int(spatial or 1)
    except ValueError:
        raise ArgumentError(f'views are written like "3x1", not {text!r}') from None


def _check_machine(config: TrainConfig) -> None:
    for other in ("checkpoint_activations", "prefix_cache"):
        if config.compile and getattr(config, other):
            raise ArgumentError(f"what {other} runs is not compiled: leave out compile, or {other}")
    if config.prefix_cache and (not config.draws or config.mixup or config.cutmix):
        raise ArgumentError(
            "prefix_cache needs clips that come again: use --draws 1 or more, without mixup "
            "and cutmix"
        )
    if config.prefix_cache_folder is not None and not config.prefix_cache:
        raise ArgumentError("prefix_cache_folder needs prefix_cache, the GB it may take")
