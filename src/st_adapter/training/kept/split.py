"""A classifier in two parts: a frozen one, whose output can be kept, and the trained rest."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from st_adapter.backbones.family import Inserted
from st_adapter.model.classifier import VideoClassifier, autocast
from st_adapter.model.precision import HALF


class AfterBlocks(nn.Module):
    """A classifier split after its leading frozen blocks.

    Args:
        model: The whole classifier.
        num_blocks: Number of leading frozen blocks, from `num_frozen_blocks`.
        size: Height and width of the frames in pixels.
    """

    def __init__(self, model: VideoClassifier, num_blocks: int, size: int) -> None:
        super().__init__()
        self.model = model
        self._num_blocks, self._frame_size = num_blocks, (size, size)

    @property
    def frozen_part(self) -> str:
        """The frozen part, in words; the same words with the same weights give the same output."""
        return f"the first {self._num_blocks} block{'' if self._num_blocks == 1 else 's'}"

    @property
    def kind(self) -> str:
        """What is kept of each frame."""
        return f"tokens after block {self._num_blocks}"

    @torch.no_grad()
    def frozen(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n c"]:
        """Run clips through the frozen blocks; return n tokens of c channels per frame."""
        with autocast(self.model):
            frames = self.model.normalise(clips).flatten(0, 1)
            stream = self.model.family.run_prefix(frames, self._num_blocks)
        return _as_computed(self.model, stream.unflatten(0, clips.shape[:2]))

    def forward(self, kept: Float[Tensor, "b t n c"]) -> Float[Tensor, "b classes"]:
        """Compute the logits of clips from the output of the frozen blocks."""
        model, (b, t) = self.model, kept.shape[:2]
        with autocast(model):
            frames = model.family.run_rest(
                kept.flatten(0, 1), self._num_blocks, self._frame_size, model.inserted(b, t)
            )
            summaries = model.summarise(frames)
            return model.classify(model.pool_clips(summaries.reshape(b, t, *summaries.shape[1:])))


class AfterBackbone(nn.Module):
    """A classifier split after its image model, in which nothing is trained or inserted.

    Args:
        model: The whole classifier.
    """

    frozen_part = "the image model"

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.model = model

    @property
    def kind(self) -> str:
        """What is kept of each frame. Methods of the same kind can use the same files."""
        return self.model.summary_kind

    @torch.no_grad()
    def frozen(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t *summary"]:
        """Run clips through the image model; return a summary of each frame."""
        return _as_computed(self.model, self.model.summarise_clips(clips, Inserted()))

    def features(self, kept: Float[Tensor, "b t *summary"]) -> Float[Tensor, "b c"]:
        """Compute the features of clips from the summaries of their frames."""
        with autocast(self.model):
            return self.model.pool_clips(kept)

    def forward(self, kept: Float[Tensor, "b t *summary"]) -> Float[Tensor, "b classes"]:
        """Compute the logits of clips from the summaries of their frames."""
        with autocast(self.model):
            return self.model.classify(self.features(kept))


Split = AfterBlocks | AfterBackbone
"""Both have `frozen`, which turns clips into features, and `forward`, from features to logits.

Features have the axes [b, t, ...], and those of a frame do not depend on the other frames.
"""


def split_model(model: VideoClassifier, size: int) -> Split | None:
    """Split a classifier after the largest part that training leaves unchanged.

    Args:
        model: The classifier.
        size: Height and width of the frames in pixels.

    Returns:
        None if nothing is frozen before the first trained or inserted part, or if a backbone of
        this kind can be split only as a whole.
    """
    trained = any(p.requires_grad for p in model.backbone.parameters())
    if not (trained or len(model.adapters) or len(model.prompts)):
        return AfterBackbone(model)
    blocks = num_frozen_blocks(model)
    return AfterBlocks(model, blocks, size) if blocks else None


def num_frozen_blocks(model: VideoClassifier) -> int:
    """Count the blocks before the first one in which something is trained or inserted.

    The count is 0 if the backbone cannot be split, or if anything before its blocks is trained.
    """
    family = model.family
    if not family.can_cut or len(model.prompts):
        return 0
    block_parameters = [{id(p) for p in block.parameters()} for block in family.blocks()]
    trained = {id(p) for p in model.backbone.parameters() if p.requires_grad}
    if trained - set().union(*block_parameters):
        return 0  # a trained parameter outside the blocks may come before them
    changed = [site.block for site in family.sites() if site.name in model.adapters]
    changed += [i for i, own in enumerate(block_parameters) if own & trained]
    return min(changed, default=0)


def _as_computed(model: VideoClassifier, features: Tensor) -> Tensor:
    """Return tokens in the precision of the model: autocast leaves those of a norm in float32."""
    # One vector per frame takes little room, and rounding it would move scores.
    if model.precision == "float32" or features.ndim == 3:
        return features
    return features.to(HALF[model.precision])
