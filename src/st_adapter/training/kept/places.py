"""Where features are kept: in memory, or in a folder that several processes and runs can share."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from st_adapter.common.remarks import note
from st_adapter.training.kept.files import DamagedError, Item, read_item, write_item
from st_adapter.wording import setting

_SHARE = 8
"""A process writes this share of what is left in a folder before it looks again what is left.

So that as many processes can write at the same time without exceeding the limit together.
"""


class Key(NamedTuple):
    """Which clips of which video.

    Attributes:
        part: Whether the video is one of the training or of the validation videos.
        choice: Which clips of it: the number of a draw of random training clips, or the numbers of
            views in time and space.
        video: Index of the video in that part.
    """

    part: Literal["train", "val"]
    choice: int | tuple[int, int]
    video: int


class InMemory:
    """Keeps items until this process ends.

    Args:
        most_bytes: Most bytes to keep. Items that do not fit are not kept.
    """

    def __init__(self, most_bytes: float) -> None:
        self._room = most_bytes
        self._items: dict[Key, Item] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    @property
    def is_full(self) -> bool:
        """Whether nothing more fits."""
        return self._room <= 0

    def get(self, key: Key) -> Item | None:
        """Return the item of a key, or None if there is none."""
        return self._items.get(key)

    def put(self, key: Key, item: Item, size: int) -> None:
        """Keep an item of so many bytes, if it fits."""
        if size <= self._room:
            self._items[key] = item
            self._room -= size


class InFolder:
    """Keeps items in files.

    Any number of processes, also on other machines, can use the same folder: a file appears there
    only when it is complete.

    Args:
        folder: The folder.
        most_bytes: Most bytes in the folder, with those that other runs have written.
        file_of: Returns the file of a key, or None if the key must not be kept.
        num_processes: Number of processes of this run, which write at the same time.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: float,
        file_of: Callable[[Key], Path | None],
        num_processes: int = 1,
    ) -> None:
        self._folder, self._most = folder, most_bytes
        self._file_of = file_of
        self._share = 1 / (_SHARE * num_processes)
        self._allowance = 0.0  # bytes that may be written before looking again
        self.is_full = False

    def __contains__(self, key: Key) -> bool:
        file = self._file_of(key)
        return file is not None and file.exists()

    def get(self, key: Key) -> Item | None:
        """Return the item of a key, or None if its file is missing or damaged.

        A damaged file is replaced when the item is kept again.
        """
        file = self._file_of(key)
        if file is None:
            return None
        try:
            return read_item(file, key.video)
        except FileNotFoundError:
            return None
        except (DamagedError, OSError) as error:
            note(f"kept features are computed again, because their file cannot be read: {error}")
            return None

    def put(self, key: Key, item: Item, size: int) -> None:
        """Write an item of so many bytes, if it fits. A full disk ends the keeping with a note."""
        file = self._file_of(key)
        if file is None or not self._has_room(size):
            return
        try:
            write_item(file, item)
        except OSError as error:
            self.is_full = True
            note(
                f"no more features are kept: {error}; the image model runs on the remaining clips "
                "in every epoch"
            )

    def _has_room(self, size: int) -> bool:
        if size > self._allowance and not self.is_full:
            left = self._most - bytes_in(self._folder)
            self._allowance = max(left * self._share, size)
            if size > left:
                self.is_full = True
                limit = setting("keep-features", f"{self._most / 2**30:.3g}")
                note(
                    f"{self._folder} has no room for more features within {limit} GB; the image "
                    "model runs on the remaining clips in every epoch"
                )
        if self.is_full:
            return False
        self._allowance -= size
        return True


def bytes_in(folder: Path) -> int:
    """Return the bytes of all kept features in a folder."""
    total = 0
    for file in folder.glob("[0-9a-f][0-9a-f]/*.safetensors"):
        with suppress(FileNotFoundError):  # another process has just removed or replaced it
            total += file.stat().st_size
    return total
