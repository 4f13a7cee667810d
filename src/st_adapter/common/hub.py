"""Names of repositories on the Hugging Face hub, and errors of the hub in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from st_adapter.errors import ArgumentError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_PREFIX = "hf:"

_REPOSITORY = re.compile(r"(?!.*(\.\.|--))[a-zA-Z0-9][\w.-]*/\w([\w.-]*\w)?", re.ASCII)

_REVISION = re.compile(r"(?!.*\.\.)[\w+-][\w./+-]*")
"""Matches a branch, tag or commit. Git allows more, but not "..", which could leave the cache."""

_UPLOAD_SECONDS = 60.0
"""Longest wait for any one answer to an upload. The hub's own client waits forever."""


def is_hub_name(run: str | Path) -> bool:
    """Return whether a RUN is a name such as hf:user/name, and not a path.

    >>> is_hub_name("hf:user/name"), is_hub_name("hf://datasets/user/name/clip.mp4")
    (True, False)
    """
    text = str(run)
    return text.startswith(_PREFIX) and not text.startswith(f"{_PREFIX}/")


def parse_hub_name(name: str | Path) -> tuple[str, str | None]:
    """Split a name, with or without its prefix, into repository and revision.

    >>> parse_hub_name("hf:user/name@v1")
    ('user/name', 'v1')

    Args:
        name: Such as "hf:user/name" or "user/name@branch".

    Raises:
        ArgumentError: The hub does not allow such a name.
    """
    repository, at, revision = str(name).removeprefix(_PREFIX).partition("@")
    reason = ""
    if not _REPOSITORY.fullmatch(repository):
        reason = "expected user/name, perhaps with @ and a branch, tag or commit"
    elif at and not _REVISION.fullmatch(revision):
        reason = f"{revision!r} is not a branch, tag or commit"
    if reason:
        raise ArgumentError(f"{str(name)!r} is not the name of a repository on the hub: {reason}")
    return repository, revision or None


def refuse_hub_name(run: Path) -> None:
    """Raise ArgumentError for a name on the hub, where the record of a training is needed."""
    if is_hub_name(run):
        raise ArgumentError(
            f"{run} is an adapter on the hub, which does not record how it was trained; give the "
            "folder of the run"
        )


def is_outage(error: Exception) -> bool:
    """Return whether an error means that the hub could not be reached, or could not answer."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    # Versions of huggingface_hub use different libraries for requests.
    library = type(error).__module__.partition(".")[0]
    is_request = library in ("httpx", "httpx2")
    return is_request or isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError)


def hub_problem(error: Exception, repository: str, revision: str | None = None) -> str | None:
    """Say in one line what went wrong with the hub; return None for any other error.

    Args:
        error: What huggingface_hub raised.
        repository: The repository that was asked for.
        revision: The branch, tag or commit that was asked for.
    """
    from huggingface_hub import errors, get_token

    token = get_token()
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the hub is not asked, because its offline mode is on (HF_HUB_OFFLINE)"
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated; ask for access on its page on the hub"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} does not have a branch, tag or commit {revision or 'main'!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        why = "your token may not read it" if token else "it is private and you are not logged in"
        login = "" if token else "; log in with `hf auth login`, or set HF_TOKEN"
        return f"{repository} does not exist on the hub, or {why}{login}"
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error)
    if isinstance(error, errors.HFValidationError):
        return str(error)
    if is_outage(error):
        name = type(error.__cause__ or error).__name__
        if "Timeout" in name:
            return "the hub did not answer in time"
        return f"the hub cannot be reached ({name})"
    # Errors of hf_xet, which transfers large files, are of its own classes or RuntimeErrors.
    library = type(error).__module__.partition(".")[0]
    if library in ("huggingface_hub", "hf_xet") or isinstance(error, RuntimeError):
        return f"the transfer failed ({' '.join(str(error).split()) or type(error).__name__})"
    return None


def _refusal(error: "HfHubHTTPError") -> str:
    """Say why the hub refused a request."""
    code = error.response.status_code
    said = " ".join((error.server_message or "").split())
    if code == 401:
        return (
            "the hub does not accept your token; make one that may write at its page of settings, "
            "and log in with `hf auth login`, or set HF_TOKEN"
        )
    what = f"the hub answered with error {code}"
    if code == 403:
        what = "your token does not have the permission for this"
    return f"{what} ({said})" if said else what


@contextmanager
def limited_waits() -> Iterator[None]:
    """Limit the wait for each answer of the hub while uploading."""
    from huggingface_hub import get_session

    session = get_session()
    before = session.timeout
    session.timeout = _UPLOAD_SECONDS
    try:
        yield
    finally:
        session.timeout = before
