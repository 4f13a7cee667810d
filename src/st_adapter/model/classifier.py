"""The video classifier: an image model, what a method adds to it, a head on top."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from st_adapter.backbones import family_of
from st_adapter.backbones.family import Inserted
from st_adapter.backbones.tensor_checks import digest
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.model import checkpoint
from st_adapter.model.methods.adapter import STAdapter
from st_adapter.model.methods.low_rank import set_low_rank
from st_adapter.model.methods.parts import build_parts, forget_caches
from st_adapter.model.precision import HALF, Precision, hold_maps
from st_adapter.model.spec import ModelSpec

_TOGGLE = threading.Lock()

_MOST_OF_UNIT_SCALE = 2.0
"""Largest value of frames in 0..1, with room for what resizing overshoots."""


class VideoClassifier(nn.Module):
    """Classify clips with an image model and the parts that a method trains.

    Frames run through the backbone one by one; adapters alone exchange what neighbours know. Pooled
    features are averaged over frames, normed and classified. Made by `create_model` and others.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.family = family_of(backbone)
        self.backbone = backbone.eval().requires_grad_(False)
        parts = build_parts(spec.method, spec.adapter, spec.method_config, self.family)
        self.adapters, self.prompts = parts.adapters, parts.prompts
        self.frame_mixer, self.token_pool = parts.frame_mixer, parts.token_pool
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(parts.num_features, len(spec.labels))
        nn.init.zeros_(self.head.bias)
        for parameter in parts.unfrozen:
            parameter.requires_grad_(True)
        self._trained_names = [n for n, p in self.named_parameters() if p.requires_grad]
        for name in self.family.unread_sites() & {*self.adapters}:
            self.adapters[name].requires_grad_(False)  # trained by name: no gradient reaches it
        self.precision: Precision = "float32"
        self._times_disabled = 0
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.train(self.training)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.mean.device

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.spec.labels

    def forward(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b classes"]:
        """Return one logit per class for each clip.

        Args:
            clips: RGB frames, uint8 in 0..255 or floating point in 0..1 or 0..255, of any number
                and any size that the backbone takes. Normalisation happens here.

        Raises:
            ArgumentError: another shape.
        """
        if clips.ndim != 5 or clips.shape[2] != 3 or 0 in clips.shape[:2]:
            raise ArgumentError(f"clips must be [b, t, 3, h, w], not {list(clips.shape)}")
        with autocast(self):
            return self.classify(self.features(clips))

    def features(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b c"]:
        """Return what the head sees of each clip."""
        b, t = clips.shape[:2]
        with autocast(self):
            frames = self.normalise(clips).flatten(0, 1)
            return self.pool(self.family.run(frames, self.inserted(b, t)), b, t)

    def normalise(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t 3 h w"]:
        """Bring RGB values to the mean and spread that the image model was trained with."""
        unit = (clips / _full_scale(clips)).to(self.mean.dtype)
        return unit.sub_(self.mean).div_(self.std)

    def inserted(self, b: int, t: int) -> Inserted:
        """What the trained parts bring into the backbone, for the frames of b clips of t each."""
        if self._times_disabled:
            return Inserted()
        adapters = {n: partial(_over_clips, a, b, t) for n, a in self.adapters.items()}
        return Inserted(adapters, list(self.prompts))

    def pool(self, frames: Any, b: int, t: int) -> Float[Tensor, "b c"]:
        """From what the backbone made of the frames of b clips to one vector per clip."""
        enabled = not self._times_disabled
        if self.token_pool is not None and enabled:
            tokens = _by_clip(self.family.tokens(frames), b, t)
            return cast(Tensor, self.token_pool(tokens.flatten(1, 2)))
        pooled = _by_clip(self.family.pool(frames), b, t)
        if self.frame_mixer is not None and enabled:
            pooled = self.frame_mixer(pooled)
        return self.family.finish(pooled.mean(1))

    def classify(self, features: Float[Tensor, "b c"]) -> Float[Tensor, "b classes"]:
        """The logits of what `features` returned, in full precision."""
        return cast(Tensor, self.head(self.dropout(features))).to(self.mean.dtype)

    def set_precision(self, precision: Precision) -> None:
        """Compute in this precision from now on, and hold the backbone's frozen maps in it.

        Raises:
            ArgumentError: a precision of another name, or weights are held in another already.
        """
        can = ("float32", *HALF) if self.precision == "float32" else (self.precision,)
        if precision not in can:
            raise ArgumentError(
                f"this model's precision can be {' or '.join(can)}, not {precision!r}"
            )
        if precision != self.precision:
            self._record_digest()
            hold_maps(self.backbone, precision)
            self.precision = precision

    def train(self, mode: bool = True) -> "VideoClassifier":
        """Switch the trained parts; the backbone stays in evaluation mode, trained or not."""
        super().train(mode)
        self.backbone.eval()
        if METHODS[self.spec.method].unfrozen != "none":
            forget_caches(self.backbone)
        return self

    def trained_tensors(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by the names they are saved under."""
        return {name: self.get_parameter(name) for name in self._trained_names}

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The trained parameters, as an optimizer takes them."""
        return list(self.trained_tensors().values())

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Count parameters: all, or the trained ones."""
        counted = self.trainable_parameters() if only_trainable else self.parameters()
        return sum(p.numel() for p in counted)

    @contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """Run exactly the frozen image model inside this block. Applies to every thread.

        Raises:
            ArgumentError: the method trains the image model itself.
        """
        if not METHODS[self.spec.method].has_frozen_model:
            raise ArgumentError(
                f"method {self.spec.method} has no frozen image model under its head: it trains "
                "the model itself, or the pooling"
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
        """Note which weights the backbone has, before they change their precision or are left."""
        if not self.spec.digest:
            self.spec = dataclasses.replace(self.spec, digest=digest(self.backbone))

    def save_adapter(self, folder: str | Path) -> None:
        """Write an adapter folder: the trained tensors, and all that rebuilding needs."""
        self._record_digest()
        checkpoint.write(Path(folder), self.spec, self.trained_tensors())


def autocast(model: VideoClassifier) -> AbstractContextManager[object]:
    """Compute in the model's precision; float32 leaves the caller's own autocast as it is.

    Without autocast's cache of converted weights: frozen weights are held in half precision
    already, and the cache's lock and Python's can wait for each other when one thread compiles.
    """
    if model.precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, HALF[model.precision], cache_enabled=False)


def _over_clips(adapter: nn.Module, b: int, t: int, features: Tensor) -> Tensor:
    """Give an adapter the clip axis that the backbone does not know: [b * t, ...] features."""
    return cast(STAdapter, adapter).update(_by_clip(features, b, t)).flatten(0, 1)


def _full_scale(clips: Tensor) -> Tensor | float:
    """The value of white: 255, but for clips of floating point in 0..1."""
    if not clips.is_floating_point():
        return 255.0
    # Decided without reading a number back, for which a GPU would have to be waited.
    largest = clips.amax(dim=(1, 2, 3, 4), keepdim=True)
    return torch.where(largest > _MOST_OF_UNIT_SCALE, 255.0, 1.0)


def _by_clip(x: Tensor, b: int, t: int) -> Tensor:
    # Not unflatten, whose check of the sizes torch.export takes for a constant of the model.
    return x.reshape(b, t, *x.shape[1:])
