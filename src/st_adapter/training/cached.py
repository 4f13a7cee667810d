"""Load batches through a prefix cache: clips in the cache are not decoded again."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from torch.utils.data import Dataset

from st_adapter.data.loading import BatchLoader
from st_adapter.training.prefix_cache import Key, PrefixCache


class CachedLoader:
    """Load batches like `BatchLoader`, with the output of the frozen blocks instead of clips.

    Args:
        cache: The cache; clips that are not in it yet are added.
        cache_key: Turns a key of the data set into one of the cache.
        dataset: The data set, as for `BatchLoader`.
        collate: Makes a batch of a list of items, as for `BatchLoader`.
        workers: Number of dataloader workers, as for `BatchLoader`.
        options: Further options of `BatchLoader`.
    """

    def __init__(
        self,
        cache: PrefixCache,
        cache_key: Callable[[Any], Key],
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], Any],
        workers: int,
        **options: bool,
    ) -> None:
        self._cache, self._cache_key = cache, cache_key
        self._dataset, self._collate = dataset, collate
        self._loader = BatchLoader(dataset, list, workers, **options)

    def batches(self, keys: Iterable[list[Any]]) -> Iterator[Any]:
        """Yield a batch for each list of keys, in order."""
        known = {key for batch in keys for key in batch if self._cache_key(key) in self._cache}
        missing = [[key for key in batch if key not in known] for batch in keys]
        new = chain.from_iterable(self._loader.batches([batch for batch in missing if batch]))

        def item(key: Any) -> Any:
            cache_key = self._cache_key(key)
            if key not in known:
                return self._cache.add(cache_key, next(new))
            # A file of the cache may have been damaged or removed meanwhile. The workers do not
            # load this clip, so it is loaded here.
            return self._cache.get(cache_key) or self._cache.add(cache_key, self._dataset[key])

        for batch in keys:
            yield self._collate(list(map(item, batch)))
