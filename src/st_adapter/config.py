"""The settings of a run. Each is declared once, with its type, default, help text and limits.

The library works with the parts: AdapterConfig, MethodConfig, ClipConfig and DataConfig.
TrainConfig has the same settings in one flat record, because flags and `config.json` are flat.
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
from st_adapter.wording import setting

COLUMNS = ("path", "label", "labels", "start_seconds", "end_seconds", "split", "group")
"""The names that this package gives to the columns of a table of videos."""

Init = Literal["conv-zero", "up-zero", "difference"]
Activation = Literal["none", "relu", "gelu"]
Head = Literal["linear", "cosine"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

_LIMITS = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}
_Part = TypeVar("_Part")

EARLIER_NAMES = {"prefix_cache": "keep_features", "prefix_cache_folder": "features"}
"""Settings that had another name, which `config.json` and the command line still accept."""


def _setting(group: str, default: Any, text: str, **limits: float) -> Any:
    """Declare a field with its help group, default, help text and limits.

    Limits are `at_least`, `above`, `at_most` and `below`. A number with a limit must be finite.
    """
    return field(default=default, metadata={"group": group, "help": text, "limits": limits})


_model = partial(_setting, "Model")
_clip = partial(_setting, "Clip")
_augment = partial(_setting, "Augmentation")
_optimise = partial(_setting, "Optimisation")
_data = partial(_setting, "Data")
_machine = partial(_setting, "Machine")


def _of(part: type, name: str, **text: str) -> Any:
    """Declare the setting `name` of a part as a field of TrainConfig.

    Pass `default` as text for a value that is a tuple in the part and text in TrainConfig.
    """
    item = {item.name: item for item in dataclasses.fields(part)}[name]
    return field(default=text.get("default", item.default), metadata=item.metadata)


class _Checked:
    """Base of the records here: checks types and limits of all settings on construction."""

    def __post_init__(self) -> None:
        check_types(self)
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            check_limits(item, getattr(self, item.name))


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(_Checked):
    """Set the shape of the adapters and where in the backbone they are placed.

    Examples:
        >>> adapter = AdapterConfig(bottleneck=384, positions=("mlp",))

    Raises:
        ArgumentError: a value is of the wrong type or outside its range.
    """

    bottleneck: int | None = _model(
        None,
        "Width of each adapter. By default half the width of the backbone's features, at most 384; "
        "a smaller width trains fewer parameters.",
        at_least=1,
    )
    kernel_size: tuple[int, int, int] = _model(
        (3, 1, 1),
        "Kernel of the adapters' convolution over time, height and width; three odd numbers. A "
        "larger kernel sees more frames or patches at once, and costs more.",
    )
    positions: tuple[str, ...] | Literal["all"] = _model(
        "all",
        "Places in each block that get an adapter: all, or a list such as attention,mlp. ViTs have "
        "attention and mlp; CNNs have block.",
    )
    layers: int | Literal["all"] = _model(
        "all",
        "Blocks that get adapters: all, or how many, counted from the last. Fewer blocks train "
        "faster, because gradients stop at the first adapter.",
        at_least=1,
    )
    activation: Activation = _model(
        "none", "Activation after an adapter's convolution. The published models have none."
    )
    init: Init = _model(
        "difference",
        "Initial weights of the adapters; none changes the features before training. difference "
        "compares the next frame with the previous one and learns well from few clips; conv-zero "
        "is as published; up-zero mixes frames at random.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(k < 1 or k % 2 == 0 for k in self.kernel_size):
            raise ArgumentError(
                f"kernel_size takes three odd numbers (time, height, width), not {self.kernel_size}"
            )
        if not self.positions or "" in tuple(self.positions):
            raise ArgumentError('positions must be "all" or a list of names, all non-empty')


@dataclass(frozen=True, kw_only=True)
class MethodConfig(_Checked):
    """Set the sizes of what the methods other than adapters train.

    Each attribute matters to the methods named with it and is ignored by all others.

    Raises:
        ArgumentError: a value is of the wrong type or below 1.
    """

    prompt_tokens: int = _model(
        10,
        "Prompt tokens per block. Used by the method prompt in every block, and by prompt-shallow "
        "in the first.",
        at_least=1,
    )
    rank: int = _model(
        8, "Rank of the updates of the method lora. A higher rank trains more.", at_least=1
    )
    trained_blocks: int = _model(
        2,
        "Blocks that the method partial trains, counted from the last. More blocks fit the data "
        "better but take more memory and overfit sooner.",
        at_least=1,
    )
    temporal_layers: int = _model(
        2, "Transformer layers over the frames in the method temporal.", at_least=1
    )
    side_width: int = _model(
        128,
        "Width of the network that the method side trains: 128 is the light one of its paper, 320 "
        "the full one, which learns more and takes about three times as long.",
        at_least=1,
    )
    side_every: int = _model(
        3,
        "Which blocks the method side reads: 1 is all, as published, 3 every third one, counted "
        "from the last. Fewer learn sooner from few clips and take less time and memory.",
        at_least=1,
    )


@dataclass(frozen=True, kw_only=True)
class ClipConfig(_Checked):
    """Set how clips are cut from a video for evaluation and prediction.

    A clip that goes into the model has the shape [frames, 3, size, size].

    Examples:
        >>> clip = ClipConfig(frames=16, stride=4, views=(3, 1))

    Raises:
        ArgumentError: a value is of the wrong type or outside its range.
    """

    frames: int = _clip(
        8,
        "Frames per clip. More frames show motion in more detail; time and memory grow in "
        "proportion.",
        at_least=1,
    )
    stride: int = _clip(
        0,
        "Distance between sampled frames. 0 spreads them over the whole video; set it if videos "
        "are long and a short window shows the action.",
        at_least=0,
    )
    size: int = _clip(
        224,
        "Height and width of a clip in pixels. Smaller clips are faster; some backbones accept "
        "only their own size.",
        at_least=1,
    )
    views: tuple[int, int] = _clip(
        (1, 1),
        "Clips per video at test time, as temporal x spatial; spatial is 1 or 3. Their predictions "
        "are averaged: more views take longer and are often more accurate.",
    )
    square_pixels: bool = _clip(
        False,
        "Stretch videos whose pixels are not square, as video players do. Use it if videos differ "
        "in the shape of their pixels.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views[0] < 1 or self.views[1] not in (1, 3):
            raise ArgumentError(
                "views must be 1 or more in time and 1 or 3 in space, "
                f"not {self.views[0]}x{self.views[1]}"
            )


@dataclass(frozen=True, kw_only=True)
class ClipTiming(_Checked):
    """Record how much time training clips covered, which is how actions look to a classifier.

    Windows of long videos and of live streams are as long by default.

    Attributes:
        median_seconds: median time from the first frame of a training clip to the end of its last.
        p10_seconds: the time that 10 % of the clips stay below.
        p90_seconds: the time that 90 % of the clips stay below.
        frames_per_second: median frame rate of the training videos.

    Raises:
        ArgumentError: a value is of the wrong type or not above 0.
    """

    median_seconds: float = field(metadata={"limits": {"above": 0}})
    p10_seconds: float = field(metadata={"limits": {"above": 0}})
    p90_seconds: float = field(metadata={"limits": {"above": 0}})
    frames_per_second: float = field(metadata={"limits": {"above": 0}})


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Checked):
    """Set how DATA is read if it is a table or a published data set."""

    videos: str | None = _data(
        None, "Folder that holds the videos listed in DATA. By default the folder of the list."
    )
    columns: str | None = _data(
        None,
        "Which columns of a table to read, such as path=file,label=class,group=source. "
        "label=verb+noun trains one classifier for each of the two columns.",
    )
    split: int = _data(
        1,
        "Which split to use, counted from 1, if the data set publishes several (HMDB51).",
        at_least=1,
    )

    group: str | None = _data(
        None,
        "Regular expression, such as 'g[0-9]+'. Videos whose paths give the same match, such as "
        "clips of one film, form a group, and groups are never divided between training and "
        "validation. It replaces the column group of a table.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.column_names
        try:
            re.compile(self.group or "")
        except re.error as error:
            raise ArgumentError(
                f"group {self.group!r} is not a regular expression: {error}"
            ) from error

    @property
    def column_names(self) -> dict[str, str]:
        """Map our name of each column to the table's own."""
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
    """Hold every setting that influences the result of a training run.

    `config.json` in a run folder is this record. `st-adapter train --help` and the reference page
    "Configuration" explain each setting and list its default and range. `positions`,
    `adapter_layers` and `views` are text here, as on the command line; the properties `adapter`
    and `clip` return them parsed.

    Examples:
        >>> TrainConfig(frames=16, views="3x1").clip.views
        (3, 1)

    Raises:
        ArgumentError: a value is of the wrong type, outside its range, or conflicts with another.
    """

    backbone: str = _model(
        "vit_base_patch16_clip_quickgelu_224.openai",
        "Image model to adapt: a name of timm (`st-adapter backbones` lists those that fit), or "
        "a name of another library, such as hf:facebook/dinov2-small, torchvision:convnext_tiny or "
        "open_clip:ViT-B-32/openai.",
    )
    weights: str = _model(
        "hub",
        "Source of the image model's weights: hub (download), package, random, or a file. A file "
        "is safetensors or .pth with timm's names, or a CLIP .pt.",
    )
    method: str = _model(
        "st-adapter", f"What is trained besides the classifier: {', '.join(METHODS)}."
    )
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
    side_width: int = _of(MethodConfig, "side_width")
    side_every: int = _of(MethodConfig, "side_every")
    dropout: float = _model(
        0.0,
        "Dropout before the classifier. Raise it if the model overfits; the published models use "
        "0.5.",
        at_least=0,
        below=1,
    )
    head_std: float = _model(
        0.002,
        "Standard deviation of the classifier's initial weights. The published models use 0.02.",
        at_least=0,
    )
    head: Head = _model(
        "linear",
        "Type of classifier. cosine compares the direction of a clip's features with a vector of "
        "each class, so that `st-adapter labels add` can add classes later.",
    )
    head_init: str = _model(
        "random",
        "Start of the classifier: random, prototype (the mean features of the training videos of "
        "each class), or a file of class vectors (.safetensors, .npz or .csv). prototype helps "
        "most with few videos.",
    )
    freeze_head: bool = _model(
        False,
        "Keep the class vectors that --head-init gives, and train only the rest of the model.",
    )

    frames: int = _of(ClipConfig, "frames")
    stride: int = _of(ClipConfig, "stride")
    size: int = _of(ClipConfig, "size")
    crop: Literal["area", "jitter"] = _clip(
        "area",
        "Training crop. area cuts out a random part of the frame; jitter scales the frame at "
        "random and crops at a random place.",
    )
    crop_range: tuple[float, float] = _clip(
        (0.5, 1.0),
        "Range of the training crop. For area, the share of the frame that is kept, up to 1; for "
        "jitter, the frame's short side as a multiple of --size, from 1.",
    )
    views: str = _of(ClipConfig, "views", default="1x1")
    square_pixels: bool = _of(ClipConfig, "square_pixels")

    flip: bool = _augment(
        True,
        "Mirror half of the training clips. Turn it off, or use --mirror, if the classes tell left "
        "from right.",
    )
    mirror: str | None = _augment(
        None,
        "Classes that swap when a clip is mirrored, such as 'Turn left=Turn right', or a .csv with "
        "two columns. names swaps classes whose names differ only in left and right; same swaps "
        "none.",
    )
    reversal: str | None = _augment(
        None,
        "Classes that swap when a clip is played backwards, such as Sit=Stand,Open=Close, or a "
        ".csv with two columns. Each clip of these classes is also trained backwards, with the "
        "label of the other class.",
    )
    randaugment: bool = _augment(
        False,
        "Apply RandAugment (m7 n4 mstd0.5 inc1), drawn once per clip. Use it if the model "
        "overfits.",
    )
    color_jitter: float = _augment(
        0.0,
        "Largest random change of brightness, contrast and saturation; 0 is off.",
        at_least=0,
        at_most=1,
    )
    erasing: float = _augment(
        0.0,
        "Probability that a grey box covers the same part of all frames of a clip; 0 is off.",
        at_least=0,
        at_most=1,
    )
    mixup: float = _augment(
        0.0,
        "Alpha of mixup, which blends pairs of clips and their labels; 0 is off.",
        at_least=0,
    )
    cutmix: float = _augment(
        0.0,
        "Alpha of CutMix, which pastes a box of one clip into another; 0 is off. With --mixup, "
        "each batch gets one of the two.",
        at_least=0,
    )
    repeats: int = _augment(
        1,
        "Clips from each decoded video, in the same batch. Raise it if decoding is slower than "
        "training.",
        at_least=1,
    )
    draws: int = _augment(
        0,
        "Random clips per video, reused in later epochs and with other seeds. 0 draws new clips in "
        "each epoch, for the most variety; --keep-features needs 1 or more.",
        at_least=0,
    )

    epochs: int = _optimise(
        8,
        "How often training goes through all training videos. Raise it if the training loss is "
        "still falling at the end. 0 evaluates the classifier that --head-init gives.",
        at_least=0,
    )
    batch_size: int = _optimise(
        8,
        "Clips per micro-batch in each process. If memory runs out, lower it; in training, raise "
        "--accumulate by the same factor.",
        at_least=1,
    )
    accumulate: int = _optimise(
        1,
        "Micro-batches per optimizer step. More of them make larger steps in the same memory.",
        at_least=1,
    )
    lr: float | None = _optimise(
        1e-3,
        "Peak learning rate. Lower it if the loss rises or becomes NaN. It takes precedence over "
        "--lr-per-256.",
        above=0,
    )
    lr_per_256: float | None = _optimise(
        None,
        "Peak learning rate for steps of 256 clips; it is scaled to the clips of a step. Used only "
        "if lr is unset, as in the published recipes.",
        above=0,
    )
    head_lr: float | None = _optimise(
        None,
        "Peak learning rate of the classifier. By default the same as for all other parameters.",
        above=0,
    )
    label_smoothing: float = _optimise(
        0.0,
        "Share of each target that is spread over all classes. Raise it, for example to 0.1, if "
        "predictions are overconfident.",
        at_least=0,
        below=1,
    )
    weight_decay: float = _optimise(
        0.01, "Weight decay of AdamW. Biases and norms are not decayed.", at_least=0
    )
    warmup_epochs: float = _optimise(
        1.0,
        "Epochs in which the learning rate rises linearly to its peak, at most half of all epochs.",
        at_least=0,
    )
    clip_gradient: float = _optimise(
        1.0,
        "Largest gradient norm; larger gradients are scaled down to it. 0 turns this off.",
        at_least=0,
    )
    average: float = _optimise(
        0.0,
        "Decay of a moving average of the trained weights, which is evaluated and kept instead of "
        "them; 0 is off.",
        at_least=0,
        below=1,
    )
    keep: Literal["auto", "best", "last"] = _optimise(
        "auto",
        "Epoch to keep. best validates after each epoch and keeps the most accurate one; last "
        "validates once, at the end. auto is best, but keeps the last epoch with --folds, or where "
        "there are fewer than 20 validation videos, too few to choose an epoch by.",
    )
    patience: int = _optimise(
        0,
        "Stop after this many epochs without improvement on the validation videos. 0 trains all "
        "epochs. Cannot be used where the last epoch is kept (--keep).",
        at_least=0,
    )
    calibrate: bool = _optimise(
        True,
        "At the end, fit a temperature to the validation videos, so that scores tell how often "
        "answers are right, and with two classes the threshold between them. Never with --folds, "
        "whose videos only measure.",
    )
    save_steps: int = _optimise(
        0,
        "Steps between saved states, from which --resume continues. 0 saves only after each epoch "
        "and every --save-minutes.",
        at_least=0,
    )
    save_minutes: float = _optimise(
        10.0,
        "Longest time between saved states, in minutes; 0 does not save by time. Lower it if "
        "little work may be lost.",
        at_least=0,
    )
    keep_states: int = _optimise(
        2,
        "Saved states to keep. The newest is used; the others replace it if it is damaged.",
        at_least=1,
    )

    val: str | None = _data(
        None,
        "Validation data, in any form that DATA takes. By default the validation part of DATA, or "
        "videos held out from it.",
    )
    val_fraction: float = _data(
        0.2,
        "Share of the videos to hold out for validation, if DATA has no validation part.",
        above=0,
        below=1,
    )
    group: str | None = _of(DataConfig, "group")
    folds: int | None = _data(
        None,
        "Cross-validate: divide all videos into this many folds, with similar shares of each class "
        "and whole groups. For each fold, train on the others and validate on it.",
        at_least=2,
    )
    fold: int | None = _data(
        None,
        "Train only this one of the --folds, counted from 1. By default all, one after the other.",
        at_least=1,
    )
    videos: str | None = _of(DataConfig, "videos")
    columns: str | None = _of(DataConfig, "columns")
    split: int = _of(DataConfig, "split")

    seed: int = _machine(
        0,
        "Seed of all random choices: held-out videos, order, augmentation and initial weights. "
        "Change it to see how much results vary.",
    )
    workers: int = _machine(
        2,
        "Dataloader workers that decode videos; 0 decodes in the main process. Raise it if the GPU "
        "waits for data.",
        at_least=0,
    )
    decoder: Literal["pyav", "torchcodec"] = _machine(
        "pyav",
        "Library that decodes videos. torchcodec has to be installed as an extra; with --workers 0 "
        "it decodes on the GPU.",
    )
    checkpoint_activations: bool = _machine(
        False,
        "Recompute the inside of blocks in the backward pass (plain ViTs). This takes less memory "
        "and more time; the gradients are the same.",
    )
    compile: bool = _machine(
        False,
        "Compile the model with torch.compile (plain ViTs). The start is slow and the rest faster, "
        "which pays off in long runs.",
    )
    keep_features: float = _machine(
        0.0,
        "GB for the output of the frozen image model, or of its frozen first blocks, for each "
        "clip. They then run once per clip instead of once per epoch. 0 is off. It needs --draws.",
        at_least=0,
    )
    features: str | None = _machine(
        None,
        "Folder that holds the kept features for later runs. By default they are in memory and end "
        "with the run.",
    )
    precision: Precision = _machine(
        "auto",
        "Precision of the arithmetic. auto uses bfloat16 if it is measurably faster than float32 "
        "on this machine.",
    )
    fit_batch: bool = _machine(
        False,
        "Split the batch-size x accumulate clips of a step into as few micro-batches as fit in "
        "memory. --batch-size auto does the same.",
    )
    tracker: Literal["none", "tensorboard", "trackio", "wandb"] = _machine(
        "none", "Experiment tracker that receives the metrics, in addition to metrics.jsonl."
    )
    device: str = _machine(
        "auto",
        "Device to run on: auto, cpu, cuda, cuda:1, mps and so on. auto uses a GPU if there is "
        "one.",
    )
    processes: int | None = _machine(
        None, "Processes that train together. By default one per GPU.", at_least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_method(self.method)
        _ = self.adapter, self.method_config, self.clip, self.data
        self._check_clips()
        self._check_folds()
        self._check_optimisation()
        self._check_machine()

    def _check_clips(self) -> None:
        low, high = self.crop_range
        if self.crop == "area" and not 0 < low <= high <= 1:
            raise ArgumentError(
                f"crop_range must lie within (0, 1] for an area crop, not {self.crop_range}"
            )
        if self.crop == "jitter" and not 1 <= low <= high:
            raise ArgumentError(
                f"crop_range must be 1 or more for a jitter crop, not {self.crop_range}"
            )
        for name, words in (("reversal", ()), ("mirror", ("names", "same"))):
            text = getattr(self, name)
            if text is not None and text not in words and not text.lower().endswith(".csv"):
                pair_classes(name, split_pairs(text))
        over_time = METHODS[self.method].adapters == "spatio-temporal" and self.kernel_size[0] > 1
        # The convolution reads the frames before and after, and with one frame both are zero.
        if self.frames == 1 and self.init == "difference" and over_time:
            raise ArgumentError(
                "init difference needs at least 2 frames, not 1; "
                f"use {setting('init', 'up-zero')} or more {setting('frames')}"
            )

    def _check_folds(self) -> None:
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            raise ArgumentError(
                f"fold is {self.fold}, but {setting('folds')} is {self.folds or 'not given'}"
            )
        if self.folds is not None and self.val is not None:
            raise ArgumentError(
                f"folds uses each video of DATA for validation once; leave out {setting('val')}"
            )

    def _check_optimisation(self) -> None:
        if self.lr is None and self.lr_per_256 is None:
            raise ArgumentError("set lr or lr_per_256; both are unset")
        if self.freeze_head and self.head_init == "random":
            raise ArgumentError(
                "freeze_head keeps the class vectors that head_init gives, and random class "
                "vectors carry no information; set head_init to prototype or a file"
            )
        if self.batch_size % self.repeats:
            raise ArgumentError(
                f"batch_size {self.batch_size} is not a multiple of the {self.repeats} repeats"
            )
        if self.patience and (self.keep == "last" or (self.keep == "auto" and self.folds)):
            raise ArgumentError(
                "patience chooses the epoch by validation videos; leave it out or use "
                f"{setting('keep', 'best')}"
            )

    def _check_machine(self) -> None:
        for other in ("checkpoint_activations", "keep_features"):
            if self.compile and getattr(self, other):
                raise ArgumentError(
                    f"compile and {other} cannot be combined; leave out one of them"
                )
        if self.keep_features and (not self.draws or self.mixup or self.cutmix):
            raise ArgumentError(
                "keep_features needs clips that are used again: set "
                f"{setting('draws')} to 1 or more and leave out mixup and cutmix"
            )
        if self.features is not None and not self.keep_features:
            raise ArgumentError(
                f"features is a folder for kept features; give {setting('keep-features', 'GB')}, "
                "the limit of its size, too"
            )

    @property
    def adapter(self) -> AdapterConfig:
        """The shape of the adapters and where they are placed."""
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
        """The sizes of what the methods other than adapters train."""
        return self._part(MethodConfig)

    @property
    def clip(self) -> ClipConfig:
        """How clips are cut from a video for evaluation."""
        return self._part(ClipConfig, views=parse_views(self.views))

    @property
    def data(self) -> DataConfig:
        """How DATA is read."""
        return self._part(DataConfig)

    def _part(self, part: type[_Part], **parsed: Any) -> _Part:
        """Make a part from the settings of the same names here; `parsed` has all others."""
        names = part.__dataclass_fields__.keys() - parsed.keys()  # type: ignore[attr-defined]
        return part(**{name: getattr(self, name) for name in names}, **parsed)

    @property
    def step_clips(self) -> int:
        """Number of clips per optimizer step, over all processes."""
        return self.batch_size * self.accumulate * (self.processes or 1)

    def peak_lr(self) -> float:
        """Return the learning rate at the end of warm-up.

        This is `lr`, or `lr_per_256` scaled to the clips of a step if `lr` is None.
        """
        if self.lr is not None:
            return self.lr
        assert self.lr_per_256 is not None
        return self.lr_per_256 * self.step_clips / 256

    def to_json(self) -> dict[str, Any]:
        """Return all settings by name, as values that `json.dumps` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str) -> "TrainConfig":
        """Make a configuration from what `to_json` returned, or from a part of it.

        Args:
            values: settings by name; those that are missing keep their defaults. Lists become
                tuples.
            source: where the values come from, such as a file name, for error messages.

        Raises:
            ArgumentError: a key is unknown or a value is invalid.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        values = {EARLIER_NAMES.get(key, key): value for key, value in values.items()}
        for key in values:
            if key not in known:
                raise ArgumentError(f"{source}: unknown key {key!r}{did_you_mean(key, known)}")
        made: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**made)


def check_limits(item: dataclasses.Field[Any], value: Any) -> None:
    """Raise ArgumentError if a number is infinite or outside the limits of a setting.

    Values that are not numbers pass, and so do all values of settings without limits.
    """
    limits = item.metadata["limits"]
    if not limits or not isinstance(value, int | float):
        return  # unset, or text such as "all"
    fits = all(_LIMITS[word](value, limit) for word, limit in limits.items())
    if not fits or value == float("inf"):
        wanted = " and ".join(f"{word.replace('_', ' ')} {n}" for word, n in limits.items())
        raise ArgumentError(f"{item.name} must be {wanted}, not {value}")


def check_types(config: Any) -> None:
    """Raise ArgumentError if a field of a dataclass has a value of another type than declared."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if not _fits(value, item.type):
            declared = item.type.__name__ if isinstance(item.type, type) else str(item.type)
            readable = declared.replace("typing.", "").replace("Literal", "one of ")
            raise ArgumentError(f"{item.name} must be {readable}, not {value!r}")


def _fits(value: Any, declared: Any) -> bool:
    """Whether a value is of a type. An int fits float; a bool fits neither int nor float."""
    origin, arguments = get_origin(declared), get_args(declared)
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
        return declared is bool
    return isinstance(value, (int, float) if declared is float else declared)


def check_method(method: str) -> None:
    """Raise ArgumentError, with similar names, if `method` is not one of METHODS."""
    if method not in METHODS:
        hint = did_you_mean(method, list(METHODS))
        raise ArgumentError(f"unknown method {method!r}; have {', '.join(METHODS)}{hint}")


def parse_views(text: str) -> tuple[int, int]:
    """Parse "3x1" into (temporal, spatial) views; "3" is short for "3x1"."""
    temporal, _, spatial = text.lower().partition("x")
    try:
        return int(temporal), int(spatial or 1)
    except ValueError as error:
        raise ArgumentError(f'views must be written like "3x1", not {text!r}') from error


def split_pairs(text: str) -> list[list[str]]:
    """Split "Sit=Stand,Open=Close" into pairs of names."""
    return [part.split("=", 1) for part in text.split(",")]


def pair_classes(what: str, pairs: Iterable[Sequence[str]]) -> dict[str, str]:
    """Map each class of a pair to the other class of that pair.

    Args:
        what: start of an error message: the name of the setting, or the file with the pairs.
        pairs: two class names each.

    Raises:
        ArgumentError: a pair does not have two different names, or a name is in two pairs.
    """
    other: dict[str, str] = {}
    for number, pair in enumerate(pairs, start=1):
        names = [name.strip() for name in pair]
        if len(names) != 2 or "" in names or names[0] == names[1] or other.keys() & names:
            raise ArgumentError(
                f"{what} takes pairs like Sit=Stand,Open=Close, or a .csv with two columns. Each "
                "pair has two different classes, and no class is in two pairs; "
                f"pair {number} is {'='.join(pair)!r}"
            )
        other |= {names[0]: names[1], names[1]: names[0]}
    return other
