"""Features of clips: run the frozen part of a classifier, and keep what it makes of each clip."""

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from st_adapter.data.datasets import TrainItem, Views
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.training.kept.files import Item
from st_adapter.training.kept.places import InFolder, InMemory, Key
from st_adapter.training.kept.split import Split

_Item = TypeVar("_Item", TrainItem, Views)


class KeptFeatures:
    """Compute the features of clips, or find them where they were kept.

    Each clip runs through the frozen part alone, so that its features do not depend on the other
    clips of its batch. Nothing is evicted: epochs visit all clips in turn, so evicting one would
    only move the computation to another. Clips that do not fit are computed in every epoch.

    Args:
        split: The classifier in two parts.
        place: Where features are kept.
    """

    def __init__(self, split: Split, place: InMemory | InFolder) -> None:
        self.split = split
        self._place = place

    def __contains__(self, key: Key) -> bool:
        return key in self._place

    @property
    def is_full(self) -> bool:
        """Whether no more features will be kept."""
        return self._place.is_full

    def get(self, key: Key) -> Item | None:
        """Return the item of a key, or None if it is missing or damaged."""
        return self._place.get(key)

    def add(self, key: Key, pixels: _Item) -> _Item:
        """Compute the features of an item, and keep them if they fit.

        An item is not kept if its video cannot be read, or replaces one that cannot: the file is
        tried again the next time.

        Args:
            key: The key of the item.
            pixels: The item, with clips of pixels.

        Returns:
            The item, with features in place of its clips.

        Raises:
            MemoryShortError: A clip does not fit in memory.
        """
        if pixels.clips is None:
            return pixels
        clips = [self._run(clip) for clip in pixels.clips]
        item = replace(
            pixels, clips=torch.stack(clips) if isinstance(pixels, Views) else tuple(clips)
        )
        if clips and not getattr(item, "skipped", ()):
            self._place.put(key, item, sum(clip.nbytes for clip in clips))
        return item

    def _run(self, clip: Tensor) -> Tensor:
        device = self.split.model.device
        with clear_out_of_memory(device):
            features = self.split.frozen(clip[None].to(device))[0]
        return features.cpu().clone()  # a view of a larger tensor would keep all of it in memory
