"""What shards hold: videos, where their bytes lie, and the files beside them that name classes."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from st_adapter.common.paths import VIDEO_SUFFIXES
from st_adapter.data.archives import tar
from st_adapter.data.archives.index_store import Store
from st_adapter.data.archives.tar import Place
from st_adapter.errors import DataError, UnreachableError, VideoError

LABEL_SUFFIXES = (".json", ".cls", ".label", ".txt")
_MOST_BYTES = 1 << 16
"""Of a label's file."""

_KEPT = 8
"""A process keeps what so many shards hold, however many there are."""


class Sample(NamedTuple):
    """A video of a shard.

    Attributes:
        name: within the shard.
        texts: suffix to text of the files of the same name that may hold labels.
    """

    name: str
    first_byte: int
    num_bytes: int
    texts: dict[str, str]


def read_samples(shard: str, store: Store | None) -> list[Sample]:
    """The videos of a shard, from its directory or as remembered.

    Raises:
        DataError: it cannot be read, or two videos have one key.
        OSError: it is not there.
    """
    version = tar.version(shard)
    known = store.read("shard", shard, version) if store else None
    if known is not None:
        return [Sample(*sample) for sample in known]
    samples = _scan(shard)
    if store:
        store.write("shard", shard, version, samples)
    return samples


def find(path: Path, store: Store | None = None) -> Place | None:
    """Where a video in a shard lies; None where a path does not lead into one.

    Raises:
        VideoError: it is not there.
    """
    member = tar.split_member(path)
    if member is None:
        return None
    shard, name = member
    try:
        places = _places(shard, tar.version(shard), store)
    except (OSError, DataError) as error:
        raise UnreachableError(f"{path}: {error}") from error
    if name not in places:
        raise VideoError(f"{path}: no such file in the shard")
    return Place(shard, *places[name])


@lru_cache(maxsize=_KEPT)
def _places(
    shard: str, version: tuple[int, int], store: Store | None
) -> dict[str, tuple[int, int]]:
    return {sample.name: sample[1:3] for sample in read_samples(shard, store)}


def _scan(shard: str) -> list[Sample]:
    """Read a directory, and group by keys as WebDataset does: a name up to its first point."""
    videos: dict[str, tuple[str, int, int]] = {}
    texts: dict[str, dict[str, str]] = {}
    with tar.open_shard(shard) as opened:
        for member in opened:
            name = tar.member_name(member.name)
            folder, _, base = name.rpartition("/")
            stem, _, rest = base.partition(".")
            key, suffix = f"{folder}/{stem}", f".{rest.rpartition('.')[2].lower()}"
            if not member.isreg():
                continue
            if suffix in VIDEO_SUFFIXES:
                if key in videos:
                    raise DataError(
                        f"{shard}: {videos[key][0]} and {name} have one key; in WebDataset's "
                        "shards a key ends at the first point"
                    )
                videos[key] = name, member.offset_data, member.size
            elif suffix in LABEL_SUFFIXES and member.size <= _MOST_BYTES:
                file = opened.extractfile(member)
                text = file.read().decode("utf-8-sig", "replace") if file else ""
                texts.setdefault(key, {})[suffix] = text
    return [Sample(*video, texts.get(key, {})) for key, video in videos.items()]
