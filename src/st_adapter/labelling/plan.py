"""What a command labels, as digests: a table is only continued by the command that began it."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from st_adapter.labelling.labeller import Job

_VERSION = 1
"""Version of the format of parts; parts of another version are not continued."""

_FREE = ("device", "decoder", "compile")
"""Settings that only say how to compute, so that a table can be continued with other ones."""

_MEANINGS = {
    "videos": "other videos",
    "runs": "other runs",
    "settings": "other settings",
    "version": "another version of st-adapter",
}
"""What it means if a part of the plan differs."""


def make_plan(job: Job, suffix: str, shard: tuple[int, int] | None) -> dict[str, Any]:
    """Return digests of everything that decides the content of the table.

    Args:
        job: What is labelled.
        suffix: Suffix of the table.
        shard: Number of the part that is labelled, and the number of parts.
    """
    settings = {n: v for n, v in job.settings.items() if n not in _FREE}
    return {
        "version": _VERSION,
        "rows": len(job.rows),
        "videos": job.rows.videos.digest(),
        "runs": _digest([(run.name, run.digest()) for run in job.runs]),
        "settings": _digest([sorted(settings.items()), job.top, suffix, shard]),
    }


def differences(plan: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say in words in what two plans differ; "" if they are equal."""
    return " and ".join(text for n, text in _MEANINGS.items() if plan.get(n) != other.get(n))


def _digest(value: Any) -> str:
    return sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()
