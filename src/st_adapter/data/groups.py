"""What videos were taken from: groups that are never divided between training and validation."""

import os
import re
from collections.abc import Sequence

from st_adapter.common.paths import full_path
from st_adapter.common.remarks import note
from st_adapter.data.formats.listing import Listing, counted
from st_adapter.errors import DataError


def groups_of(listing: Listing, pattern: str | None, *, required: bool) -> list[str]:
    """Return the group of each example.

    An example without a group forms a group of its own, with the other segments of its file.

    Args:
        listing: The examples, with groups if the data name them.
        pattern: Regular expression that forms groups from paths instead.
        required: Whether videos may be held out by groups, so that a pattern has to form some.
            Otherwise a pattern that does not is noted, and videos count by themselves.

    Returns:
        Names of groups, or [] if neither the data nor the pattern forms groups.

    Raises:
        DataError: Groups are required, and the pattern matches none of the paths, or the same text
            in all of them.
    """
    given = listing.groups
    if pattern is not None:
        try:
            given = _matches([full_path(path) for path in listing.paths], re.compile(pattern))
        except DataError as error:
            if required:
                raise
            note(f"{error}; each video counts by itself")
            return []
    if not any(given):
        return []
    return [group or full_path(path) for group, path in zip(given, listing.paths, strict=True)]


def _matches(names: Sequence[str], pattern: re.Pattern[str]) -> list[str]:
    """Return what the pattern matches in each path, or "" where it does not match.

    Only the part of a path below the deepest folder that all files share is matched, so that the
    place of the data on the disk does not matter. This part starts with a slash.
    """
    shared = os.path.commonprefix(list(names))  # noqa: RUF071  addresses are not paths
    shared = shared.rpartition("/")[0]
    matches = [pattern.search(name[len(shared) :]) for name in names]
    groups = [match.group() if match else "" for match in matches]
    if not any(matches):
        raise DataError(
            f"the group {pattern.pattern!r} matches none of the paths, such as {names[0]}"
        )
    if len(set(names)) > 1 and len(set(groups)) < 2:
        raise DataError(
            f"the group {pattern.pattern!r} gives the same match {groups[0]!r} for every "
            f"path in {shared or '/'} ({counted(len(set(names)), 'path')}); it must match the part "
            "that differs between groups, such as _g\\d+ in UCF101"
        )
    return groups
