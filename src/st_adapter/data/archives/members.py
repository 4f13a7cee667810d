"""Contents of shards: videos, the position of their bytes, and files that name their classes."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from st_adapter.common.paths import VIDEO_SUFFIXES
from st_adapter.data.archives import tar
from st_adapter.data.archives.index_store import Store
from st_adapter.data.archives.tar import Place
from st_adapter.errors import DataError, UnreachableError, VideoError

LABEL_SUFFIXES = (".json", ".cls", ".label", ".txt")
"""Suffixes of files in a shard that can contain the label of the video with the same key."""
_MOST_BYTES = 1 << 16
"""Maximum size of a file with a label, so that large JSON files are not read."""

_KEPT = 8
"""Maximum number of shards whose contents a process keeps in memory."""


class Sample(NamedTuple):
    """A video in a shard.

    Attributes:
        name: Name within the shard.
        first_byte: Position of the video in the shard.
        num_bytes: Size of the video.
        texts: Contents of the files with the same key that may contain its label, by suffix.
    """

    name: str
    first_byte: int
    num_bytes: int
    texts: dict[str, str]


def read_samples(shard: str, store: Store | None) -> list[Sample]:
    """Return the videos of a shard, from the store if it has them.

    Args:
        shard: Path or URL of the shard.
        store: Remembers the contents of shards; None to read the shard.

    Raises:
        DataError: If the shard cannot be read, or two videos have the same key.
        OSError: If the shard does not exist.
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
    """Return the position of a video in its shard, or None if the path does not lead into a shard.

    Args:
        path: Path of a video.
        store: Remembers the contents of shards.

    Raises:
        UnreachableError: If the shard cannot be read.
        VideoError: If the shard does not contain the video.
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
    """Read the directory of a shard and group its files by key.

    As in WebDataset, the key of a file is its name up to the first dot.
    """
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
                        f"{shard}: {videos[key][0]} and {name} have the same key; in a WebDataset "
                        "shard, the key is the name up to the first dot"
                    )
                videos[key] = name, member.offset_data, member.size
            elif suffix in LABEL_SUFFIXES and member.size <= _MOST_BYTES:
                file = opened.extractfile(member)
                text = file.read().decode("utf-8-sig", "replace") if file else ""
                texts.setdefault(key, {})[suffix] = text
    return [Sample(*video, texts.get(key, {})) for key, video in videos.items()]
