"""A classifier in two steps, so that each frame of a sequence passes the backbone only once."""

from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from st_adapter.backbones.family import Inserted
from st_adapter.model.classifier import VideoClassifier, autocast
from st_adapter.model.methods.adapter import STAdapter


class FrameStream:
    """Run a classifier over a long sequence of frames, in chunks.

    A clip is scored by itself: its first and last frames have no neighbours outside. Here, the
    adapters convolve over the whole sequence. Of each chunk, every adapter keeps the few values
    that its convolution needs for the next one, so that no frame passes the backbone twice.

    Examples:
        >>> stream = FrameStream(model)  # doctest: +SKIP
        >>> first = stream.push(frames[:, :32])  # doctest: +SKIP
        >>> second = stream.push(frames[:, 32:64])  # doctest: +SKIP
        >>> clips = torch.cat([first, second], 1).unfold(1, 8, 1)  # doctest: +SKIP

    Args:
        model: the classifier, in evaluation mode.
    """

    def __init__(self, model: VideoClassifier) -> None:
        self._model = model
        self._past: dict[str, Tensor] = {}

    @torch.inference_mode()
    def push(self, frames: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t *summary"]:
        """Run the next frames of b sequences, and return what `pool_clips` needs of each.

        A frame sees those before it in all calls, and those after it in this call.

        Args:
            frames: RGB frames as for the classifier, of the same size in every call.
        """
        adapters = {
            name: partial(self._update, name, cast(STAdapter, adapter), len(frames))
            for name, adapter in self._model.adapters.items()
        }
        return self._model.summarise_clips(frames, Inserted(adapters, list(self._model.prompts)))

    def _update(self, name: str, adapter: STAdapter, b: int, features: Tensor) -> Tensor:
        """Compute the update of an adapter, and keep what its next call needs."""
        by_sequence = features.reshape(b, -1, *features.shape[1:])
        update, self._past[name] = adapter.continued_update(by_sequence, self._past.get(name))
        return update.flatten(0, 1)


@torch.inference_mode()
def summarise_clips(
    model: VideoClassifier, clips: Shaped[Tensor, "b t 3 h w"]
) -> Float[Tensor, "b t *summary"]:
    """Compute what `classify_clips` needs of each frame, with each clip by itself as in training.

    Args:
        model: the classifier, in evaluation mode.
        clips: RGB frames as for the classifier.
    """
    return model.summarise_clips(clips, model.inserted(*clips.shape[:2]))


@torch.inference_mode()
def classify_clips(
    model: VideoClassifier, summaries: Float[Tensor, "b t *summary"]
) -> Float[Tensor, "b classes"]:
    """Compute the logits of clips from the summaries of their frames.

    Args:
        model: the classifier, in evaluation mode.
        summaries: summaries of the t frames of b clips, as `summarise_clips` or `FrameStream.push`
            returns them.
    """
    with autocast(model):
        return model.classify(model.pool_clips(summaries))
