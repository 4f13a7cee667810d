"""The video classifier: an image model, what a method adds to it, a head on top."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Shaped
from safetensors.torch import save_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from st_adapter.backbones import family_named, family_of
from st_adapter.backbones.build import NAMED_SOURCES, build_from, digest, resolve_source
from st_adapter.backbones.family import Cut, Family, Inserted
from st_adapter.backbones.layout import unflatten
from st_adapter.backbones.weight_files.openai_clip import remark_on_activation
from st_adapter.common.files import atomic_path, write_json
from st_adapter.config import AdapterConfig, ClipConfig, MethodConfig, TrainConfig, check_method
from st_adapter.data.labels import Task
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.model.adapter import STAdapter
from st_adapter.model.methods import build_parts
from st_adapter.model.methods.low_rank import set_low_rank
from st_adapter.model.methods.unfreeze import forget_caches
from st_adapter.model.sharding import shard
from st_adapter.model.spec import ModelSpec

_TOGGLE = threading.Lock()
FORMAT_VERSION = 1
CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"


class VideoClassifier(nn.Module):
    """Classify clips with an image model and the parts that a method trains.

    Frames run through the backbone one by one; adapters alone exchange what neighbouring frames
    know. Pooled features are averaged over frames, then normed, then classified. Methods that
    learn to pool put that in place of the mean.

    Made by `create_model`, `attach` and `load`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        family = family_of(backbone)
        family.num_features(backbone)  # refuses what pools nothing before it is touched
        self._family_name = family.NAME
        self.backbone = backbone.eval().requires_grad_(False)
        parts = build_parts(spec.method, spec.adapter, spec.method_config, backbone, family)
        self.adapters = parts.adapters
        self.prompts = parts.prompts
        self.frame_mixer = parts.frame_mixer
        self.token_pool = parts.token_pool
        self.head = nn.Linear(parts.num_features, len(spec.labels))
        self.dropout = nn.Dropout(spec.dropout)
        nn.init.zeros_(self.head.bias)
        trained = {id(p) for p in parts.unfrozen}
        for parameter in backbone.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.train(self.training)
        self._trained_names = tuple(n for n, p in self.named_parameters() if p.requires_grad)
        self._times_disabled = 0
        self._recomputes = False
        self.compiled_lanes = 1  # batches side by side that compiled code is for
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1), persistent=False)

    @property
    def _family(self) -> Family:
        """By name, so that a model can be copied and pickled: a family is a module of Python's."""
        return family_named(self._family_name)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.mean.device

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.spec.labels

    def forward(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b classes"]:
        """Return one logit a class for each clip.

        Args:
            clips: RGB frames, uint8 in 0..255 or floating point in 0..1. Any number of frames,
                any size the backbone takes. Normalisation happens here.

        Raises:
            ArgumentError: another shape.
        """
        if clips.ndim != 5 or clips.shape[2] != 3 or 0 in clips.shape[:2]:
            raise ArgumentError(f"clips must be [b, t, 3, h, w], not {list(clips.shape)}")
        return cast(Tensor, self.head(self.dropout(self.features(clips))))

    def features(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b c"]:
        """Return what the head sees of each clip."""
        frames = self._normalise(clips.flatten(0, 1))
        return self._clip_features(frames, *clips.shape[:2])

    def _clip_features(
        self, frames: Tensor, b: int, t: int, cut: Cut | None = None
    ) -> Float[Tensor, "b c"]:
        """Of frames, or of what the frozen blocks before a cut made of them."""
        enabled = not self._times_disabled
        inserted = Inserted()
        if enabled:
            adapters = {
                n: partial(_over_clips, cast(STAdapter, a), b, t) for n, a in self.adapters.items()
            }
            inserted = Inserted(adapters, list(self.prompts))
        recompute = self._recomputes and torch.is_grad_enabled()
        inserted = inserted._replace(recompute=recompute, cut=cut)
        if self.token_pool is not None and enabled:
            tokens = self._family.frame_tokens(self.backbone, frames, inserted)
            return cast(Tensor, self.token_pool(unflatten(tokens, 0, (b, t)).flatten(1, 2)))
        pooled = unflatten(self._family.frame_features(self.backbone, frames, inserted), 0, (b, t))
        if self.frame_mixer is not None and enabled:
            pooled = self.frame_mixer(pooled)
        return self._family.clip_features(self.backbone, pooled.mean(1))

    @cached_property
    def num_frozen_blocks(self) -> int:
        """Leading blocks in and before which nothing is trained, where the backbone can be cut."""
        if not self._family.CAN_CUT or len(self.prompts):
            return 0
        blocks = self._family.blocks(self.backbone)
        where = [{id(p) for p in block.parameters()} for block in blocks]
        trained = {id(p) for p in self.backbone.parameters() if p.requires_grad}
        if trained - set().union(*where):
            return 0  # something before the blocks may be among it
        sites = self._family.sites(self.backbone)
        first = [site.block for site in sites if site.name in self.adapters]
        first += [i for i, own in enumerate(where) if own & trained]
        most = len(blocks) - (self.token_pool is not None)  # which takes what the last one makes
        return min(first, default=most)

    @torch.no_grad()
    def prefix(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n c"]:
        """What the frozen blocks make of each frame; `forward_from` goes on from there."""
        frames = self._normalise(clips.flatten(0, 1))
        stream = self._family.frame_prefix(self.backbone, frames, self.num_frozen_blocks)
        return unflatten(stream, 0, clips.shape[:2])

    def forward_from(
        self, prefix: Float[Tensor, "b t n c"], frame_size: tuple[int, int]
    ) -> Float[Tensor, "b classes"]:
        """Return the logits of clips whose frames of `frame_size` pixels gave this prefix."""
        b, t = prefix.shape[:2]
        cut = Cut(self.num_frozen_blocks, frame_size)
        features = self._clip_features(prefix.flatten(0, 1), b, t, cut)
        return cast(Tensor, self.head(self.dropout(features)))

    def _normalise(self, frames: Tensor) -> Tensor:
        if frames.is_floating_point():
            frames = frames - self.mean
        else:
            frames = frames.to(self.mean.dtype).div_(255).sub_(self.mean)
        return frames.div_(self.std)  # in place: new memory made scoring with ViT-Tiny 3 % slower

    def train(self, mode: bool = True) -> "VideoClassifier":
        """Switch the trained parts; the backbone stays in evaluation mode, trained or not."""
        super().train(mode)
        self.backbone.eval()
        if METHODS[self.spec.method].unfrozen != "none":
            forget_caches(self.backbone)
        return self

    def hold_frozen_in(self, dtype: torch.dtype) -> None:
        """From now on, hold frozen weights of maps in half precision, for autocast to it.

        The same numbers as autocast makes of them in every pass, in half the memory. The backbone
        is changed in place; the digest that is saved remains that of its weights before.
        """
        if not self.spec.digest:
            self.spec = dataclasses.replace(self.spec, digest=digest(self.backbone))
        for module in self.backbone.modules():
            is_map = type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
            for parameter in module.parameters(recurse=False) if is_map else ():
                if parameter.dtype == torch.float32 and not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)

    @property
    def can_checkpoint(self) -> bool:
        """Whether `checkpoint_activations` works with this backbone."""
        return self._family.CAN_RECOMPUTE

    def checkpoint_activations(self) -> None:
        """From now on, keep only what enters each block for the backward pass; run it again there.

        Less memory, about a third more time, the same gradients.

        Raises:
            ArgumentError: not with this kind of backbone.
        """
        if not self.can_checkpoint:
            raise ArgumentError(
                f"activations of {type(self.backbone).__name__} cannot be checkpointed, those of "
                "plain ViTs can; use a smaller --batch-size with --accumulate"
            )
        self._recomputes = True

    @property
    def is_compiled(self) -> bool:
        """Whether `compile` was called: calls run compiled code, `forward` the model as written."""
        return self._compiled_call_impl is not None

    def shard(self) -> None:
        """From now on, hold the large parts only while they run (FSDP, `sharding.py`)."""
        shard(self, self._family.units(self.backbone), self.device.type)

    def trained_tensors(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by the names they are saved under."""
        return {name: self.get_parameter(name) for name in self._trained_names}

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The trained parameters, as an optimizer takes them."""
        return list(self.trained_tensors().values())

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Count parameters: all, or the trained ones."""
        counted = self.trainable_parameters() if only_trainable else list(self.parameters())
        return sum(parameter.numel() for parameter in counted)

    @contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """Run exactly the frozen image model inside this block. Applies to every thread.

        Raises:
            ArgumentError: the method trains the image model itself.
        """
        method = METHODS[self.spec.method]
        if method.unfrozen != "none" or method.pooling == "attention":
            raise ArgumentError(
                f"method {self.spec.method} has no frozen image model under its head: it trains "
                "the model itself, or the pooling"
            )
        with _TOGGLE:
            self._times_disabled += 1
            self._set_low_rank()
        try:
            yield
        finally:
            with _TOGGLE:
                self._times_disabled -= 1
                self._set_low_rank()

    def _set_low_rank(self) -> None:
        if METHODS[self.spec.method].low_rank:
            set_low_rank(self.backbone, enabled=not self._times_disabled)

    def save_adapter(self, folder: str | Path) -> None:
        """Write an adapter folder: the trained tensors, and all that rebuilding needs.

        With the backbone's weights it is the whole classifier, preprocessing included.
        """
        folder = Path(folder)
        if not self.spec.digest:
            self.spec = dataclasses.replace(self.spec, digest=digest(self.backbone))
        record = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self.spec)}
        if self.spec.weights not in NAMED_SOURCES:  # name a file, not where it lay
            record["weights"] = Path(self.spec.weights).name
        tensors = {n: p.detach().cpu().contiguous() for n, p in self.trained_tensors().items()}
        with atomic_path(folder / TENSOR_FILE) as temporary:
            save_file(tensors, temporary)
        write_json(folder / CONFIG_FILE, record)


def _over_clips(adapter: STAdapter, b: int, t: int, features: Tensor) -> Tensor:
    """Give an adapter the clip axis that the backbone does not know: [b * t, ...] features."""
    return adapter.update(unflatten(features, 0, (b, t))).flatten(0, 1)


def create_model(
    backbone: str,
    labels: Sequence[str],
    adapter: AdapterConfig | None = None,
    weights: str = "hub",
    *,
    task: Task | None = None,
    method: str = "st-adapter",
    method_config: MethodConfig | None = None,
    clip: ClipConfig | None = None,
    dropout: float = 0.5,
    head_std: float = 0.02,
) -> VideoClassifier:
    """Build a frozen timm model by name and put the parts of a method and a head on it.

    Args:
        backbone: any timm name.
        labels: class names.
        adapter: shape and place of the adapters.
        weights: "hub", "package", "random", or a file in timm's names or OpenAI's CLIP names.
        task: how the classes belong together; unset is one label a video.
        method: what is trained, one of METHODS.
        method_config: sizes of what methods without adapters train.
        clip: how `Predictor` makes clips of videos.
        dropout: before the classifier.
        head_std: standard deviation of the classifier's first weights. Its default and dropout's
            are the published ones; TrainConfig has those that learn from few clips.

    Raises:
        ArgumentError: an unknown name, method or position, or no connection to the hub.
        CheckpointError: a weights file that is unreadable or does not fit.
    """
    source = resolve_source(backbone, weights)
    frozen = build_from(backbone, source)
    model = attach(
        frozen,
        labels,
        adapter,
        task=task,
        method=method,
        method_config=method_config,
        clip=clip,
        dropout=dropout,
        head_std=head_std,
    )
    model.spec = dataclasses.replace(model.spec, backbone=backbone, weights=source)
    return model


def model_of(
    config: TrainConfig,
    labels: Sequence[str],
    weights: str | None = None,
    task: Task | None = None,
) -> VideoClassifier:
    """`create_model` as a configuration says; weights of its own replace the configuration's."""
    return create_model(
        config.backbone,
        labels,
        config.adapter,
        weights or config.weights,
        task=task,
        method=config.method,
        method_config=config.method_config,
        clip=config.clip,
        dropout=config.dropout,
        head_std=config.head_std,
    )


def attach(
    backbone: nn.Module,
    labels: Sequence[str],
    adapter: AdapterConfig | None = None,
    *,
    task: Task | None = None,
    method: str = "st-adapter",
    method_config: MethodConfig | None = None,
    clip: ClipConfig | None = None,
    dropout: float = 0.5,
    head_std: float = 0.02,
) -> VideoClassifier:
    """Put the trainable parts of a method and a head on a timm model that is already built.

    The model is used as it is, frozen and in evaluation mode; none of its tensors is renamed,
    copied or changed. But for the methods that change the image model itself: "lora" wraps its
    linear maps, "bitfit", "partial", "full" and "full-temporal" train tensors of it.

    Raises:
        ArgumentError: no family runs this model, or an unknown method or position.
    """
    if isinstance(labels, str):
        raise ArgumentError(f"labels must be a list of names, not the text {labels!r}")
    check_method(method)
    config = getattr(backbone, "pretrained_cfg", None) or {}
    remark_on_activation(config.get("architecture") or "", config.get("tag") or "")
    spec = ModelSpec(
        backbone=".".join(filter(None, (config.get("architecture"), config.get("tag")))),
        weights="given",
        labels=tuple(labels),
        task=task or Task(),
        method=method,
        adapter=adapter or AdapterConfig(),
        method_config=method_config or MethodConfig(),
        clip=clip or ClipConfig(),
        dropout=dropout,
        mean=tuple(config.get("mean", IMAGENET_DEFAULT_MEAN)),
        std=tuple(config.get("std", IMAGENET_DEFAULT_STD)),
        # Of the weights before training changes them; else when it is saved, if it ever is.
        digest=digest(backbone) if METHODS[method].changes_backbone else "",
    )
    model = VideoClassifier(backbone, spec)
    nn.init.normal_(model.head.weight, std=head_std)
    return model
