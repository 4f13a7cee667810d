"""Batches of a run with a prefix cache: what is kept is not decoded."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from torch.utils.data import Dataset

from st_adapter.data.loading import BatchLoader
from st_adapter.training.prefix_cache import Key, PrefixCache


class CachedLoader:
    """Loads as `BatchLoader` does; clips give way to what the frozen blocks make of them.

    Args:
        cache: of that, made now or in an earlier epoch.
        kept_as: from a key of the dataset to one of the cache.
        dataset, collate, workers, options: as of `BatchLoader`.
    """

    def __init__(
        self,
        cache: PrefixCache,
        kept_as: Callable[[Any], Key],
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], Any],
        workers: int,
        **options: bool,
    ) -> None:
        self._cache, self._kept_as = cache, kept_as
        self._dataset, self._collate = dataset, collate
        self._loader = BatchLoader(dataset, list, workers, **options)

    def batches(self, keys: Iterable[list[Any]]) -> Iterator[Any]:
        """Yield a batch for each list of keys, in order."""
        known = {key for batch in keys for key in batch if self._kept_as(key) in self._cache}
        missing = [[key for key in batch if key not in known] for batch in keys]
        new = chain.from_iterable(self._loader.batches([batch for batch in missing if batch]))

        def item(key: Any) -> Any:
            kept_as = self._kept_as(key)
            if key not in known:
                return self._cache.add(kept_as, next(new))
            # A file that can no longer be read is made anew.
            return self._cache.get(kept_as) or self._cache.add(kept_as, self._dataset[key])

        for batch in keys:
            yield self._collate(list(map(item, batch)))
