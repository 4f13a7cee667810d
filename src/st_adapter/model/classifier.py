"""The video classifier: an image model, the parts that a method adds to it, and a head."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from st_adapter.backbones import family_of
from st_adapter.backbones.digests import digest
from st_adapter.backbones.family import BlockOutput, Family, Inserted
from st_adapter.common.remarks import note
from st_adapter.config import ClipConfig
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.model import checkpoint
from st_adapter.model.class_vectors import match_vectors
from st_adapter.model.heads import build_head, freeze_head, set_cosine, set_linear
from st_adapter.model.methods.adapter import STAdapter
from st_adapter.model.methods.low_rank import set_low_rank
from st_adapter.model.methods.parts import build_parts, forget_caches
from st_adapter.model.methods.side import SideNetwork, normalise
from st_adapter.model.precision import HALF, Precision, hold_maps
from st_adapter.model.spec import ModelSpec

# Held while `adapters_disabled` counts up or down, which several threads may do at once.
_TOGGLE = threading.Lock()

POOLED = "pooled features"
"""The `summary_kind` of the methods that need nothing else of a frame than what the head reads."""

_UNIT_SCALE_LIMIT = 2.0
"""Clips whose largest value is above this are in 0..255, and all others in 0..1.

Bicubic resizing of frames in 0..1 overshoots 1, though never by that much.
"""


class VideoClassifier(nn.Module):
    """Classify video clips with a frozen image model and the parts that a method trains.

    The backbone processes each frame by itself; only the adapters see neighbouring frames. Pooled
    features are averaged over the frames of a clip, normalised, and classified by a head.
    Use `create_model`, `attach` or `load` to make one.

    Examples:
        >>> model = st_adapter.create_model("resnet18", ["open", "close"])  # doctest: +SKIP
        >>> clips = torch.zeros(2, 8, 3, 224, 224, dtype=torch.uint8)  # doctest: +SKIP
        >>> model(clips).shape  # doctest: +SKIP
        torch.Size([2, 2])

    Args:
        backbone: image model; it is frozen and changed in place by some methods.
        spec: record of what the classifier consists of.
        family: runs the backbone; None finds the family that supports it.

    Attributes:
        spec: record of what the classifier consists of; it is saved with the trained tensors.
        family: runs the backbone and inserts the adapters.
        backbone: the image model, always in evaluation mode.
        adapters: the adapters by the name of their place; empty for methods without adapters.
        prompts: prompt tokens [tokens, c], one entry per block that gets them.
        frame_mixer: transformer over the frames in the method "temporal", else None.
        token_pool: attention pooling in the methods "attentive" and "ordered", else None.
        side: network that reads the outputs of all blocks in the method "side", else None.
        dropout: dropout before the head.
        head: layer from the features of a clip to the logits: linear, or a `CosineHead`.
        precision: "float32", "bfloat16" or "float16"; change it with `set_precision`.
        mean: mean of RGB values in 0..1 that the backbone expects, [3, 1, 1].
        std: standard deviation of those values, [3, 1, 1].
        notes_default_clip: whether `save_adapter` should note that `spec.clip` is the default,
            because it is not known how clips are cut. It does so once.

    Raises:
        ArgumentError: the backbone or the settings of the method do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: ModelSpec, family: Family | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.family = family or family_of(backbone)
        self.backbone = backbone.eval().requires_grad_(False)
        parts = build_parts(spec.method, spec.adapter, spec.method_config, self.family)
        self.adapters, self.prompts = parts.adapters, parts.prompts
        self.frame_mixer, self.token_pool = parts.frame_mixer, parts.token_pool
        self.side = parts.side
        self.dropout = nn.Dropout(spec.dropout)
        self.head = build_head(spec.head, parts.num_features, len(spec.labels))
        for parameter in parts.unfrozen:
            parameter.requires_grad_(True)
        self._trained_names = [n for n, p in self.named_parameters() if p.requires_grad]
        for name in self.family.unread_sites() & {*self.adapters}:
            # Nothing reads the output of this adapter, so that it never gets a gradient. With
            # requires_grad, DistributedDataParallel would fail in its second step. The adapter is
            # still saved, because the published models have it.
            self.adapters[name].requires_grad_(False)
        freeze_head(self.head, class_vectors=spec.freeze_head)
        self.precision: Precision = "float32"
        self._times_disabled = 0
        self.notes_default_clip = False
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.train(self.training)

    @property
    def device(self) -> torch.device:
        """The device of the model, which clips must be on as well."""
        return self.mean.device

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.spec.labels

    @property
    def joint_width(self) -> int | None:
        """Width of the space that a CLIP model shares with texts; None for other backbones.

        The head reads the features before the projection into that space.
        """
        config = getattr(self.backbone, "pretrained_cfg", None) or {}
        is_clip = "clip" in (config.get("architecture") or "")
        return config.get("num_classes") if is_clip else None  # timm's name for it

    def forward(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b classes"]:
        """Compute one logit per class for each clip.

        Args:
            clips: RGB frames, [b, t, 3, h, w], as uint8 in 0..255 or floating point in 0..1 or
                0..255. Do not normalise them: that happens here. Any number of frames is
                possible, and any size that the backbone accepts.

        Returns:
            Logits [b, classes], not probabilities.

        Raises:
            ArgumentError: the shape is wrong.
        """
        if not isinstance(clips, Tensor):
            raise ArgumentError(
                f"clips must be a tensor [b, t, 3, h, w], but these are of type "
                f"{type(clips).__name__}; for frames of other kinds, use Predictor"
            )
        if clips.ndim != 5 or clips.shape[2] != 3 or 0 in clips.shape[:2]:
            raise ArgumentError(f"clips must be [b, t, 3, h, w], not {list(clips.shape)}")
        with autocast(self):
            return self.classify(self.features(clips))

    def features(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b c"]:
        """Compute the features of each clip that the head classifies.

        Args:
            clips: RGB frames [b, t, 3, h, w], as for `forward`.

        Returns:
            Features [b, c].
        """
        with autocast(self):
            return self.pool_clips(self.summarise_clips(clips, self.inserted(*clips.shape[:2])))

    def normalise(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t 3 h w"]:
        """Scale RGB values to the mean and standard deviation that the backbone expects.

        Args:
            clips: RGB frames [b, t, 3, h, w], as for `forward`.

        Returns:
            Floating-point frames of the same shape.
        """
        scaled = (clips / _full_scale(clips)).to(self.mean.dtype)
        return scaled.sub_(self.mean).div_(self.std)

    def inserted(self, b: int, t: int) -> Inserted:
        """Return the adapters and prompts for a call of the backbone on b clips of t frames.

        Inside `adapters_disabled`, there are none.
        """
        if self._times_disabled:
            return Inserted()
        adapters = {n: partial(_adapter_update, a, b, t) for n, a in self.adapters.items()}
        return Inserted(adapters, list(self.prompts))

    def summarise_clips(
        self, clips: Shaped[Tensor, "b t 3 h w"], inserted: Inserted
    ) -> Float[Tensor, "b t *summary"]:
        """Run clips through the backbone and reduce each frame to what `pool_clips` needs of it.

        Args:
            clips: RGB frames [b, t, 3, h, w], as for `forward`.
            inserted: adapters and prompts to apply.

        Returns:
            For each frame one vector [c]; in the methods "attentive" and "ordered" its tokens
            [tokens, c]; in the method "side" what `SideNetwork.summarise` returns.
        """
        b, t = clips.shape[:2]
        with autocast(self):
            frames = self.normalise(clips).flatten(0, 1)
            if self.side is not None:
                return _by_clip(self._look_aside(frames, self.side), b, t)
            return _by_clip(self.summarise(self.family.run(frames, inserted)), b, t)

    def _look_aside(self, frames: Tensor, side: SideNetwork) -> Float[Tensor, "n tokens k"]:
        """Run normalised frames through the backbone for the side network that reads along."""
        outputs: list[BlockOutput | None] = []
        dtype = HALF.get(self.precision, frames.dtype)

        def watch(output: BlockOutput) -> None:
            # At once, because the outputs of all blocks together take a lot of memory in float32.
            is_read = len(outputs) in side.blocks_read
            outputs.append(normalise(output, dtype) if is_read else None)

        self.family.run(frames, Inserted(watch=watch))
        return side.summarise(frames, [output for output in outputs if output is not None])

    @property
    def summary_kind(self) -> str:
        """What `summarise_clips` returns of each frame.

        Two classifiers on the same backbone with the same kind summarise frames alike.
        """
        if self.side is not None:
            return f"outputs of every {self.spec.method_config.side_every} blocks"
        return "tokens" if self._pools_tokens else POOLED

    def summarise(self, frames: Any) -> Float[Tensor, "n *summary"]:
        """Reduce the backbone's output to what `pool_clips` needs of each frame.

        Args:
            frames: what `family.run` returned for n frames.

        Returns:
            One vector per frame [n, c], or tokens [n, tokens, c] for the methods
            "attentive" and "ordered".
        """
        if self._pools_tokens:
            return self.family.tokens(frames)
        return self.family.pool(frames)

    def pool_clips(self, summaries: Float[Tensor, "b t *summary"]) -> Float[Tensor, "b c"]:
        """Pool the summaries of the frames of each clip into one vector per clip.

        Args:
            summaries: what `summarise_clips` returned for b clips of t frames.

        Returns:
            Features [b, c].
        """
        if self.side is not None:
            return cast(Tensor, self.side(summaries))
        if self._pools_tokens:
            return cast(Tensor, cast(nn.Module, self.token_pool)(summaries))
        if self.frame_mixer is not None and not self._times_disabled:
            summaries = self.frame_mixer(summaries)
        return self.family.finish(summaries.mean(1))

    @property
    def _pools_tokens(self) -> bool:
        return self.token_pool is not None and not self._times_disabled

    def classify(self, features: Float[Tensor, "b c"]) -> Float[Tensor, "b classes"]:
        """Compute the logits from what `features` returned.

        Args:
            features: features [b, c].

        Returns:
            Logits [b, classes], in float32 even if the model computes in half precision.
        """
        return cast(Tensor, self.head(self.dropout(features))).to(self.mean.dtype)

    def set_precision(self, precision: Precision) -> None:
        """Compute in another precision from now on.

        Half precision also stores the frozen weights in it, which takes half the memory. This
        cannot be undone, because rounded weights cannot be restored.

        Args:
            precision: "float32", "bfloat16" or "float16".

        Raises:
            ArgumentError: the name is unknown, or the model is already in half precision and
                `precision` is not that one.
        """
        choices = ("float32", *HALF) if self.precision == "float32" else (self.precision,)
        if precision not in choices:
            raise ArgumentError(
                f"this model's precision can be {' or '.join(choices)}, not {precision!r}"
            )
        if precision != self.precision:
            self._record_digest()
            hold_maps(self.backbone, precision)
            self.precision = precision

    def train(self, mode: bool = True) -> "VideoClassifier":
        """Switch the added parts to training or evaluation mode.

        The backbone stays in evaluation mode, even if a method trains it.

        Args:
            mode: True for training, False for evaluation.
        """
        super().train(mode)
        self.backbone.eval()
        if METHODS[self.spec.method].unfrozen != "none":
            forget_caches(self.backbone)
        return self

    def set_head(self, vectors: Mapping[str, Any], source: str = "vectors") -> None:
        """Start the head from one vector per class, such as the features of a text.

        In a linear head, the vectors become the weights and the biases become zero, so that the
        logit of a class is the inner product of its vector with the features of a clip. In a
        cosine head, only the direction of a vector counts.

        Examples:
            >>> vectors = {label: torch.randn(512) for label in model.labels}  # doctest: +SKIP
            >>> model.set_head(vectors)  # doctest: +SKIP

        Args:
            vectors: a vector [c] for each class, by its name; c is the width of the features.
            source: where the vectors are from, such as a file name, for error messages.

        Raises:
            ArgumentError: a class is missing or unknown, or a vector has the wrong width, is zero,
                or has values that are NaN or infinite.
        """
        width, joint_width = self.head.in_features, self.joint_width
        matched = match_vectors(vectors, self.labels, source, width, joint_width)
        matched = matched.to(self.head.weight)
        if isinstance(self.head, nn.Linear):
            set_linear(self.head, matched, torch.zeros_like(self.head.bias))
        else:
            set_cosine(self.head, matched)

    def trained_tensors(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by the names under which `save_adapter` saves them.

        These include all parameters of the head, even if they are frozen.
        """
        return {name: self.get_parameter(name) for name in self._trained_names}

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters as a list, for an optimizer."""
        frozen = {id(p) for p in self.head.parameters() if not p.requires_grad}
        return [p for p in self.trained_tensors().values() if id(p) not in frozen]

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Count the parameters.

        Args:
            only_trainable: count only the trained ones.
        """
        counted = self.trainable_parameters() if only_trainable else self.parameters()
        return sum(p.numel() for p in counted)

    @contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """Run the model without its trained parts inside a `with` block.

        `features` then returns exactly what the frozen image model computes. This affects all
        threads that use the model.

        Raises:
            ArgumentError: the method trains the image model or the pooling, so that there is no
                frozen image model to fall back on.
        """
        if not METHODS[self.spec.method].has_frozen_model:
            raise ArgumentError(
                f"method {self.spec.method} leaves no frozen image model to run: it trains the "
                "image model itself, or the pooling"
            )
        self._disable(1)
        try:
            yield
        finally:
            self._disable(-1)

    def _disable(self, times: int) -> None:
        with _TOGGLE:
            self._times_disabled += times
            if METHODS[self.spec.method].low_rank:
                set_low_rank(self.backbone, enabled=not self._times_disabled)

    def _record_digest(self) -> None:
        """Record which weights the backbone has, while they are still in their own precision."""
        if not self.spec.digest:
            self.spec = dataclasses.replace(self.spec, digest=digest(self.backbone))

    def save_adapter(self, folder: str | Path, clip: ClipConfig | None = None) -> None:
        """Save the trained tensors and everything that `load` needs to rebuild the classifier.

        The backbone is not saved: the folder records its name and a digest of its weights. It also
        records how `Predictor` cuts clips from videos, which should be as in training.

        Args:
            folder: folder to write to; it is created if it does not exist.
            clip: how clips were cut in training; `spec.clip` becomes this. None keeps it. If it
                was never stated, neither here nor to `attach` or `create_model`, a note is logged
                once, which says what the folder records.
        """
        if clip is not None:
            self.spec = dataclasses.replace(self.spec, clip=clip)
        elif self.notes_default_clip:
            self._note_default_clip(folder)
        self.notes_default_clip = False
        self._record_digest()
        checkpoint.write(Path(folder), self.spec, self.trained_tensors())

    def _note_default_clip(self, folder: str | Path) -> None:
        clip = self.spec.clip
        note(
            f"{folder} records the default clips: {clip.frames} frames of {clip.size} x "
            f"{clip.size} pixels, spread over the whole video. If you trained on other clips, pass "
            "clip=ClipConfig(frames=..., stride=..., size=...) to save_adapter"
        )


def autocast(model: VideoClassifier) -> AbstractContextManager[object]:
    """Return a context manager that computes in the model's precision.

    A model in float32 follows the caller's own autocast. autocast's cache of converted weights is
    off: frozen weights are stored in half precision already, and the lock of the cache can
    deadlock with Python's own while another thread compiles.
    """
    if model.precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, HALF[model.precision], cache_enabled=False)


def _adapter_update(adapter: nn.Module, b: int, t: int, features: Tensor) -> Tensor:
    """Compute an adapter's update of features [b * t, h, w, c], which have no axis of clips."""
    return cast(STAdapter, adapter).update(_by_clip(features, b, t)).flatten(0, 1)


def _full_scale(clips: Tensor) -> Tensor | float:
    """Return the value of white: 1 for floating-point clips in 0..1, 255 for all others."""
    if not clips.is_floating_point():
        return 255.0
    # As a tensor, because reading the maximum into Python would wait for the GPU.
    largest = clips.amax(dim=(1, 2, 3, 4), keepdim=True)
    return torch.where(largest > _UNIT_SCALE_LIMIT, 255.0, 1.0)


def _by_clip(x: Tensor, b: int, t: int) -> Tensor:
    # Not unflatten: its check of the sizes makes torch.export fix the number of clips.
    return x.reshape(b, t, *x.shape[1:])
