"""Load batches of features: clips whose features are kept are not decoded again."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from torch.utils.data import Dataset

from st_adapter.data.loading import BatchLoader
from st_adapter.training.kept.features import KeptFeatures
from st_adapter.training.kept.places import Key

_AT_ONCE = 4
"""Videos that a worker loads at once, whatever the size of a batch.

Each clip is a file descriptor on its way from the worker, and a process has few of them.
"""


class KeptLoader:
    """Load batches like `BatchLoader`, with features instead of clips.

    Args:
        kept: Features that were kept; those of other clips are computed, and kept if they fit.
        kept_key: Turns a key of the data set into one of `kept`.
        dataset: The data set, as for `BatchLoader`.
        collate: Makes a batch of a list of items, as for `BatchLoader`.
        workers: Number of dataloader workers, as for `BatchLoader`. None is started if all
            features are kept.
        options: Further options of `BatchLoader`.
    """

    def __init__(
        self,
        kept: KeptFeatures,
        kept_key: Callable[[Any], Key],
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], Any],
        workers: int,
        **options: bool,
    ) -> None:
        self._kept, self._kept_key = kept, kept_key
        self._dataset, self._collate = dataset, collate
        self._loader = BatchLoader(dataset, list, workers, **options)

    def batches(self, keys: Iterable[list[Any]]) -> Iterator[Any]:
        """Yield a batch for each list of keys, in order."""
        batches = list(keys)
        missing = [key for batch in batches for key in batch if not self._has(key)]
        left = set(missing)
        groups = [missing[i : i + _AT_ONCE] for i in range(0, len(missing), _AT_ONCE)]
        new = chain.from_iterable(self._loader.batches(groups))

        def item(key: Any) -> Any:
            kept_key = self._kept_key(key)
            if key in left:
                return self._kept.add(kept_key, next(new))
            # A file may have been damaged or removed meanwhile. The workers do not load this
            # clip, so it is loaded here.
            return self._kept.get(kept_key) or self._kept.add(kept_key, self._dataset[key])

        for batch in batches:
            yield self._collate(list(map(item, batch)))

    def _has(self, key: Any) -> bool:
        return self._kept_key(key) in self._kept
