"""The settings of a run. Each is declared once: type, default, help text, group and limits.

The parts (AdapterConfig, ClipConfig and so on) are what the library works with. TrainConfig has the
same settings in one flat record, because flags and `config.json` are flat.
"""

import dataclasses
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from st_adapter.errors import ArgumentError, did_you_mean
from st_adapter.methods import METHODS

COLUMNS = ("path", "label", "labels", "start_seconds", "end_seconds", "split")
"""Columns of a table of videos, by our names."""

Init = Literal["conv-zero", "up-zero", "difference"]
Activation = Literal["none", "relu", "gelu"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

_LIMITS = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}
_Part = TypeVar("_Part")


def _setting(group: str, default: Any, text: str, **limits: float) -> Any:
    """Declare a field: its group in the help, default, help text, and limits of its value.

    Limits are `at_least`, `above`, `at_most` and `below`. A number that has any must be finite.
    """
    return field(default=default, metadata={"group": group, "help": text, "limits": limits})


_model = partial(_setting, "Model")
_clip = partial(_setting, "Clip")
_augment = partial(_setting, "Augmentation")
_optimise = partial(_setting, "Optimisation")
_data = partial(_setting, "Data")
_machine = partial(_setting, "Machine")


def _of(part: type, name: str, **text: str) -> Any:
    """Declare a setting of a part as a field of TrainConfig.

    A value that is a tuple in the part and text in TrainConfig gets its default as text.
    """
    item = {item.name: item for item in dataclasses.fields(part)}[name]
    return field(default=text.get("default", item.default), metadata=item.metadata)


class _Checked:
    """A record that checks its settings when it is made."""

    def __post_init__(self) -> None:
        check_types(self)
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            check_limits(item, getattr(self, item.name))


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(_Checked):
    """Shape and place of the adapters.

    `positions` are places inside a block: "attention" and "mlp" in a ViT, "block" in a CNN.
    """

    bottleneck: int | None = _model(
        None, "Adapter width. Unset is half the width of the features, at most 384.", at_least=1
    )
    kernel_size: tuple[int, int, int] = _model(
        (3, 1, 1), "Kernel of an adapter's convolution over time, height and width; odd numbers."
    )
    positions: tuple[str, ...] | Literal["all"] = _model(
        "all", "Places in a block that get an adapter: all, or a list such as attention,mlp."
    )
    layers: int | Literal["all"] = _model(
        "all", "Blocks with adapters: all, or how many, counted from the last.", at_least=1
    )
    activation: Activation = _model("none", "Activation after an adapter's convolution.")
    init: Init = _model(
        "difference",
        "What the convolution of a new adapter computes: nothing (conv-zero, as published), a "
        "random mixture of frames (up-zero), or the difference of the next and the last frame.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(k < 1 or k % 2 == 0 for k in self.kernel_size):
            raise ArgumentError(
                f"kernel_size takes three odd numbers (time, height, width), not {self.kernel_size}"
            )
        if not self.positions or "" in tuple(self.positions):
            raise ArgumentError('positions must be "all" or a list of names, not an empty one')


@dataclass(frozen=True, kw_only=True)
class MethodConfig(_Checked):
    """Sizes of what the methods without adapters train."""

    prompt_tokens: int = _model(
        10, "Prompt tokens before a block, for the methods prompt and prompt-shallow.", at_least=1
    )
    rank: int = _model(8, "Rank of the updates, for the method lora.", at_least=1)
    trained_blocks: int = _model(
        2, "Blocks to train, counted from the last, for the method partial.", at_least=1
    )
    temporal_layers: int = _model(
        2, "Transformer layers over the frames, for the method temporal.", at_least=1
    )


@dataclass(frozen=True, kw_only=True)
class ClipConfig(_Checked):
    """How clips are cut from a video at test."""

    frames: int = _clip(8, "Frames per clip.", at_least=1)
    stride: int = _clip(
        0, "Frames between two sampled frames; 0 spreads them over the whole video.", at_least=0
    )
    size: int = _clip(224, "Height and width of a clip in pixels.", at_least=1)
    views: tuple[int, int] = _clip(
        (1, 1), "Test views per video, temporal x spatial, averaged; spatial is 1 or 3."
    )
    square_pixels: bool = _clip(
        False, "Stretch the pictures of videos whose pixels are not square, as players do."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views[0] < 1 or self.views[1] not in (1, 3):
            raise ArgumentError(
                "views are 1 or more in time and 1 or 3 in space, "
                f"not {self.views[0]}x{self.views[1]}"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Checked):
    """How to read DATA where it is a table or a published data set."""

    videos: str | None = _data(
        None, "Folder of the videos that DATA lists. Unset is the folder of the list."
    )
    columns: str | None = _data(
        None,
        "Names of a table's columns, such as path=file,label=class. label=verb+noun trains one "
        "classifier for each of the two columns.",
    )
    split: int = _data(
        1, "Split to use, from 1, of a data set that publishes several (HMDB51).", at_least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.column_names

    @property
    def column_names(self) -> dict[str, str]:
        """Our name of each column to the table's own."""
        names: dict[str, str] = {}
        for text in self.columns.split(",") if self.columns is not None else ():
            ours, _, theirs = (part.strip() for part in text.partition("="))
            if ours not in COLUMNS or not theirs or ours in names:
                raise ArgumentError(
                    f"columns takes pairs like path=file,label=class with each of "
                    f"{', '.join(COLUMNS)} at most once, not {self.columns!r}"
                    + did_you_mean(ours, list(COLUMNS))
                )
            names[ours] = theirs
        return names


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Checked):
    """Everything that decides how a run comes out. `config.json` in a run folder is this record.

    `positions`, `adapter_layers` and `views` are text here, as on the command line; the properties
    `adapter` and `clip` read it.
    """

    backbone: str = _model(
        "vit_base_patch16_clip_quickgelu_224.openai", "Image model: any timm name."
    )
    weights: str = _model(
        "hub",
        "Weights of the image model: hub, package, random, or a file. A file is safetensors or "
        ".pth with timm's names, or a CLIP .pt.",
    )
    method: str = _model("st-adapter", f"What to train: {', '.join(METHODS)}.")
    bottleneck: int | None = _of(AdapterConfig, "bottleneck")
    kernel_size: tuple[int, int, int] = _of(AdapterConfig, "kernel_size")
    positions: str = _of(AdapterConfig, "positions")
    adapter_layers: str = _of(AdapterConfig, "layers")
    activation: Activation = _of(AdapterConfig, "activation")
    init: Init = _of(AdapterConfig, "init")
    prompt_tokens: int = _of(MethodConfig, "prompt_tokens")
    rank: int = _of(MethodConfig, "rank")
    trained_blocks: int = _of(MethodConfig, "trained_blocks")
    temporal_layers: int = _of(MethodConfig, "temporal_layers")
    dropout: float = _model(
        0.0, "Dropout before the classifier; 0.5 as published.", at_least=0, below=1
    )
    head_std: float = _model(
        0.002, "Standard deviation of the first classifier weights; 0.02 as published.", at_least=0
    )

    frames: int = _of(ClipConfig, "frames")
    stride: int = _of(ClipConfig, "stride")
    size: int = _of(ClipConfig, "size")
    crop: Literal["area", "jitter"] = _clip(
        "area", "Training crop: a random area of the frame, or a random scale and place (jitter)."
    )
    crop_range: tuple[float, float] = _clip(
        (0.5, 1.0), "Range of the crop's share of the area, or of short side / size for jitter."
    )
    views: str = _of(ClipConfig, "views", default="1x1")
    square_pixels: bool = _of(ClipConfig, "square_pixels")

    flip: bool = _augment(True, "Mirror half of the training clips.")
    mirror: str | None = _augment(
        None,
        "Classes that a mirror swaps, such as 'Turn left=Turn right', or a .csv with two columns. "
        "Mirrored clips get the label of the other class. names swaps classes whose names differ "
        "only in left and right. same swaps none.",
    )
    reversal: str | None = _augment(
        None,
        "Classes that turn into each other when played backwards, such as Sit=Stand,Open=Close, "
        "or a .csv with two columns. Each of their clips is also trained backwards, with the "
        "label of the other class.",
    )
    randaugment: bool = _augment(False, "RandAugment m7 n4 mstd0.5 inc1, drawn once per clip.")
    color_jitter: float = _augment(
        0.0, "Largest change of brightness, contrast and saturation.", at_least=0, at_most=1
    )
    erasing: float = _augment(
        0.0, "Probability of a grey box in all frames of a clip.", at_least=0, at_most=1
    )
    mixup: float = _augment(0.0, "Alpha of mixup of clips and labels; 0 is off.", at_least=0)
    cutmix: float = _augment(
        0.0, "Alpha of CutMix; 0 is off. With mixup, each batch gets one of the two.", at_least=0
    )
    repeats: int = _augment(1, "Clips from each decoded video, in the same batch.", at_least=1)
    draws: int = _augment(
        0, "Random clips per video, reused in later epochs; 0 draws anew each epoch.", at_least=0
    )

    epochs: int = _optimise(8, "Passes over the training videos.", at_least=1)
    batch_size: int = _optimise(8, "Clips per micro-batch.", at_least=1)
    accumulate: int = _optimise(1, "Micro-batches per optimizer step.", at_least=1)
    lr: float | None = _optimise(
        1e-3, "Peak learning rate. It takes precedence over lr-per-256.", above=0
    )
    lr_per_256: float | None = _optimise(
        None, "Peak learning rate for 256 clips per step; it scales with the step's clips.", above=0
    )
    head_lr: float | None = _optimise(
        None, "Peak learning rate of the classifier. Unset is the same as the rest.", above=0
    )
    label_smoothing: float = _optimise(
        0.0, "Share of the target that is spread over all classes.", at_least=0, below=1
    )
    weight_decay: float = _optimise(0.01, "Weight decay. Biases and norms have none.", at_least=0)
    warmup_epochs: float = _optimise(
        1.0, "Epochs of linear warm-up, at most half of all epochs.", at_least=0
    )
    clip_gradient: float = _optimise(1.0, "Largest gradient norm; 0 is no limit.", at_least=0)
    average: float = _optimise(
        0.0, "Decay of the moving average that is evaluated; 0 is off.", at_least=0, below=1
    )
    keep: Literal["best", "last"] = _optimise(
        "best", "Epoch to keep: best on the validation videos, or last, which validates once."
    )
    patience: int = _optimise(
        0, "Stop after this many epochs without a better one; 0 never stops early.", at_least=0
    )
    save_steps: int = _optimise(
        0, "Steps between two saved states; 0 saves after epochs and by time.", at_least=0
    )
    save_minutes: float = _optimise(
        10.0, "Longest time between two saved states, in minutes.", at_least=0
    )
    keep_states: int = _optimise(2, "Saved states to keep.", at_least=1)

    val: str | None = _data(None, "Validation data, in any form that DATA takes.")
    val_fraction: float = _data(
        0.2, "Share of DATA to hold out if it has no validation part.", above=0, below=1
    )
    group: str | None = _data(
        None,
        "Regular expression. Files whose paths give the same match stay in the same part when "
        "validation videos are held out, such as 'g[0-9]+' for clips of the same film.",
    )
    videos: str | None = _of(DataConfig, "videos")
    columns: str | None = _of(DataConfig, "columns")
    split: int = _of(DataConfig, "split")

    seed: int = _machine(0, "Seed of the held-out part, order, augmentation and initialisation.")
    workers: int = _machine(
        2, "Dataloader workers that decode videos; 0 decodes in the main process.", at_least=0
    )
    decoder: Literal["pyav", "torchcodec"] = _machine(
        "pyav", "Video decoder. torchcodec is an extra; with 0 workers it decodes on the GPU."
    )
    checkpoint_activations: bool = _machine(
        False,
        "Recompute the inside of blocks in the backward pass (plain ViTs). This takes less memory "
        "and more time; the gradients are the same.",
    )
    compile: bool = _machine(
        False, "Compile the model with torch.compile: slow to start, then faster (plain ViTs)."
    )
    prefix_cache: float = _machine(
        0.0,
        "GB for the output of the frozen blocks before the first trained one, so that they run "
        "once per clip. It needs --draws.",
        at_least=0,
    )
    prefix_cache_folder: str | None = _machine(
        None, "Folder that keeps the --prefix-cache for further runs. Unset keeps it in memory."
    )
    precision: Precision = _machine(
        "auto", "Arithmetic. auto measures whether bfloat16 is faster than float32 here."
    )
    fit_batch: bool = _machine(
        False,
        "Split the batch-size x accumulate clips of a step into as few micro-batches as fit in "
        "memory. --batch-size auto does the same.",
    )
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = _machine(
        "none", "Experiment tracker that gets the metrics, in addition to metrics.jsonl."
    )
    device: str = _machine("auto", "Device: auto, cpu, cuda, cuda:1, mps and so on.")
    processes: int | None = _machine(
        None, "Processes that train together. Unset is one process per GPU.", at_least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_method(self.method)
        _ = self.adapter, self.method_config, self.clip, self.data
        self._check_clips()
        self._check_optimisation()
        self._check_machine()

    def _check_clips(self) -> None:
        low, high = self.crop_range
        if self.crop == "area" and not 0 < low <= high <= 1:
            raise ArgumentError(f"an area crop takes a range within (0, 1], not {self.crop_range}")
        if self.crop == "jitter" and not 1 <= low <= high:
            raise ArgumentError(f"a jitter crop takes a range from 1 up, not {self.crop_range}")
        for name, words in (("reversal", ()), ("mirror", ("names", "same"))):
            text = getattr(self, name)
            if text is not None and text not in words and not text.lower().endswith(".csv"):
                pair_classes(name, split_pairs(text))
        in_time = METHODS[self.method].adapters == "spatio-temporal" and self.kernel_size[0] > 1
        if self.frames == 1 and self.init == "difference" and in_time:
            raise ArgumentError(
                "one frame has no difference for an adapter to learn from; "
                "use --init up-zero, or more --frames"
            )
        try:
            re.compile(self.group or "")
        except re.error as error:
            raise ArgumentError(
                f"group {self.group!r} is not a regular expression: {error}"
            ) from error

    def _check_optimisation(self) -> None:
        if self.lr is None and self.lr_per_256 is None:
            raise ArgumentError("a run needs lr or lr_per_256; both are unset")
        if self.batch_size % self.repeats:
            raise ArgumentError(
                f"batch_size {self.batch_size} is not a multiple of the {self.repeats} repeats"
            )
        if self.patience and self.keep == "last":
            raise ArgumentError("patience needs epochs to be validated; leave it out or keep best")

    def _check_machine(self) -> None:
        for other in ("checkpoint_activations", "prefix_cache"):
            if self.compile and getattr(self, other):
                raise ArgumentError(
                    f"compile and {other} do not go together: leave one of them out"
                )
        if self.prefix_cache and (not self.draws or self.mixup or self.cutmix):
            raise ArgumentError(
                "prefix_cache needs clips that come again: use --draws 1 or more, without mixup "
                "and cutmix"
            )
        if self.prefix_cache_folder is not None and not self.prefix_cache:
            raise ArgumentError("prefix_cache_folder needs prefix_cache, the GB it may take")

    @property
    def adapter(self) -> AdapterConfig:
        """Shape and place of the adapters."""
        try:
            layers = "all" if self.adapter_layers == "all" else int(self.adapter_layers)
        except ValueError as error:
            raise ArgumentError(
                f'adapter_layers takes "all" or a number, not {self.adapter_layers!r}'
            ) from error
        positions = "all" if self.positions == "all" else tuple(self.positions.split(","))
        return self._part(AdapterConfig, layers=layers, positions=positions)

    @property
    def method_config(self) -> MethodConfig:
        """Sizes of what the methods without adapters train."""
        return self._part(MethodConfig)

    @property
    def clip(self) -> ClipConfig:
        """How clips are cut from a video at test."""
        return self._part(ClipConfig, views=parse_views(self.views))

    @property
    def data(self) -> DataConfig:
        """How to read DATA."""
        return self._part(DataConfig)

    def _part(self, part: type[_Part], **read: Any) -> _Part:
        """Make a part of the settings that have the same names here; `read` has the others."""
        names = part.__dataclass_fields__.keys() - read.keys()  # type: ignore[attr-defined]
        return part(**{name: getattr(self, name) for name in names}, **read)

    @property
    def step_clips(self) -> int:
        """Clips in an optimizer step of all processes."""
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
        known = [item.name for item in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ArgumentError(f"{source}: unknown key {key!r}{did_you_mean(key, known)}")
        made: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**made)


def check_limits(item: dataclasses.Field[Any], value: Any) -> None:
    """Raise ArgumentError for a number that is outside the limits of a setting, or infinite."""
    limits = item.metadata["limits"]
    if not limits or not isinstance(value, int | float):
        return  # unset, or text such as "all"
    fits = all(_LIMITS[word](value, limit) for word, limit in limits.items())
    if not fits or value == float("inf"):
        said = " and ".join(f"{word.replace('_', ' ')} {n}" for word, n in limits.items())
        raise ArgumentError(f"{item.name} must be {said}, not {value}")


def check_types(config: Any) -> None:
    """Raise ArgumentError for a field whose value is not of the type it is declared with."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if not _fits(value, item.type):
            kind = item.type.__name__ if isinstance(item.type, type) else str(item.type)
            readable = kind.replace("typing.", "").replace("Literal", "one of ")
            raise ArgumentError(f"{item.name} must be {readable}, not {value!r}")


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


def check_method(method: str) -> None:
    """Raise ArgumentError with near misses unless `method` is one of METHODS."""
    if method not in METHODS:
        hint = did_you_mean(method, list(METHODS))
        raise ArgumentError(f"unknown method {method!r}; have {', '.join(METHODS)}{hint}")


def parse_views(text: str) -> tuple[int, int]:
    """Read "3x1" as 3 temporal and 1 spatial view; "3" is "3x1"."""
    temporal, _, spatial = text.lower().partition("x")
    try:
        return int(temporal), int(spatial or 1)
    except ValueError as error:
        raise ArgumentError(f'views are written like "3x1", not {text!r}') from error


def split_pairs(text: str) -> list[list[str]]:
    """Split "Sit=Stand,Open=Close" into pairs of names."""
    return [part.split("=", 1) for part in text.split(",")]


def pair_classes(what: str, pairs: Iterable[Sequence[str]]) -> dict[str, str]:
    """Map each class of a pair to the other.

    Args:
        what: begins the message: the name of the setting, or the file that holds the pairs.
        pairs: two names each.

    Raises:
        ArgumentError: a pair is not two different names, or a name is in two pairs.
    """
    other: dict[str, str] = {}
    for number, pair in enumerate(pairs, start=1):
        names = [name.strip() for name in pair]
        if len(names) != 2 or "" in names or names[0] == names[1] or other.keys() & names:
            raise ArgumentError(
                f"{what} takes pairs like Sit=Stand,Open=Close, or a .csv with two columns: two "
                f"different classes each, and no class twice; pair {number} is {'='.join(pair)!r}"
            )
        other |= {names[0]: names[1], names[1]: names[0]}
    return other
