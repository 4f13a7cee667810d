"""Read the formats that data sets are published in."""

from pathlib import Path

from st_adapter.config import DataConfig
from st_adapter.data.formats import (
    charades,
    epic,
    folders,
    hmdb51,
    json_lists,
    kinetics,
    lists,
    shards,
    tables,
)
from st_adapter.data.formats.listing import Listing, Root, read_csv, read_lines
from st_adapter.errors import DataError
from st_adapter.wording import setting

_FORMS = "a folder, a .csv, .parquet or .json table, a .txt list, or .tar shards"


def read_listing(path: Path, options: DataConfig) -> Listing:
    """Read DATA in any supported format, which is recognised from its name and contents.

    Args:
        path: A folder, a file, or an address of shards.
        options: The folder of the videos, the names of columns, and which split to use.

    Raises:
        DataError: The format is unknown, or the contents do not follow it.
    """
    if str(path).startswith("file:"):
        raise DataError(f"{path}: give the path of a local file, without file:")
    is_hmdb51 = path.is_dir() and hmdb51.matches(path)
    if not is_hmdb51 and shards.matches(path):
        if options.videos:
            raise DataError(f"{path} contains its own videos; remove {setting('videos')}")
        return shards.read(path, options.column_names)
    if not path.exists():
        raise DataError(f"{path} does not exist; DATA is {_FORMS}")
    folder = path if path.is_dir() else path.parent
    root = Root(Path(options.videos) if options.videos else folder, path)
    if not Path(root.folder).is_dir():
        raise DataError(
            f"{root.folder} is not a folder; {setting('videos')} takes the folder that contains "
            "the videos"
        )
    if path.is_dir():
        return hmdb51.read(path, root, options.split) if is_hmdb51 else folders.read(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path, root, options)
    if suffix == ".parquet":
        return tables.read(path, root, options.column_names)
    if suffix == ".json":
        return json_lists.read(path, root)
    if suffix == ".txt":
        is_table = tables.separator_of(path, options.column_names) is not None
        return tables.read(path, root, options.column_names) if is_table else lists.read(path, root)
    raise DataError(f"{path}: DATA is {_FORMS}, not {path.suffix!r}")


def _read_csv(path: Path, root: Root, options: DataConfig) -> Listing:
    """Read a table, whose header tells its format, or a list of PySlowFast, which has no header."""
    header, _ = read_csv(path)
    if not options.column_names:
        for columns, read in (
            (kinetics.HEADER, kinetics.read),
            (epic.HEADER, epic.read),
            (charades.HEADER, charades.read),
        ):
            if columns <= set(header):
                return read(path, root)
        lines = read_lines(path)
        if lines and lists.is_list(lines[0][1]):
            return lists.read(path, root)
    return tables.read(path, root, options.column_names)
