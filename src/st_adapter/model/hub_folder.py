"""Adapter folders on the Hugging Face hub: download their two files, and check them."""

import re
from hashlib import sha1, sha256
from pathlib import Path

from st_adapter.common.hub import hub_problem, is_outage, parse_hub_name
from st_adapter.common.remarks import note
from st_adapter.errors import CheckpointError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(name: str, files: tuple[str, ...]) -> Path:
    """Return a local folder with files of a repository on the hub, of one commit.

    The folder is in the cache of huggingface_hub. If the hub cannot be reached, the files of the
    last download are used, and a note says so. For a commit that is in the cache, the hub is not
    asked.

    Args:
        name: Such as "hf:user/name" or "hf:user/name@revision"; the revision is a branch, a tag or
            a commit.
        files: Names of the files. No other file is downloaded.

    Raises:
        ArgumentError: The name is invalid.
        CheckpointError: The repository, the revision or a file does not exist or may not be read;
            the hub cannot be reached and the files are not in the cache; or a file is damaged.
    """
    repository, revision = parse_hub_name(name)
    folder = None
    if _COMMIT.fullmatch(revision or ""):
        folder = _cached(repository, revision, files)
    if folder is None:
        folder = _download(name, repository, revision, files)
    for file in files:
        _check_content(name, folder / file)
    return folder


def _download(name: str, repository: str, revision: str | None, files: tuple[str, ...]) -> Path:
    """Download the files, or take those in the cache if the hub cannot be reached."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    first = files[0]
    try:
        # hf_hub_download alone would not tell whether it asked the hub or only looked in the cache.
        url = hf_hub_url(repository, first, revision=revision)
        get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        folder = Path(hf_hub_download(repository, first, revision=revision)).parent
        for file in files[1:]:
            hf_hub_download(repository, file, revision=folder.name)  # of the same commit
        return folder
    except errors.RemoteEntryNotFoundError as error:
        raise CheckpointError(
            f"{name} is not an adapter of st-adapter: it does not contain {_missing(error, files)}"
            f"; an image model of the hub is a backbone, as in --backbone hf:{repository}"
        ) from error
    except Exception as error:
        problem = hub_problem(error, repository, revision)
        cached = _cached(repository, revision, files) if is_outage(error) else None
        if problem is None or cached is None:
            if problem is None:
                raise
            advice = "; it is not in the cache" if is_outage(error) else ""
            raise CheckpointError(f"{name} cannot be downloaded: {problem}{advice}") from error
        if not isinstance(error, errors.OfflineModeIsEnabled):
            note(f"{problem}; using {name} from the cache, commit {cached.name[:12]}")
        return cached


def _missing(error: Exception, files: tuple[str, ...]) -> str:
    """Return the name of the file that an error is about."""
    return next((file for file in files if file in str(error)), files[0])


def _cached(repository: str, revision: str | None, files: tuple[str, ...]) -> Path | None:
    """Return the folder in the cache that has all files, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, file, revision=revision) for file in files]
    folders = {Path(path).parent for path in found if isinstance(path, str)}
    complete = all(isinstance(path, str) for path in found) and len(folders) == 1
    return folders.pop() if complete else None


def _check_content(name: str, file: Path) -> None:
    """Check a file in the cache against the digest that the hub states, which is its name there.

    The digest is the SHA-256 of a large file, and the one of git for a small file, as the docs of
    `huggingface_hub.hf_hub_url` say. Neither huggingface_hub nor safetensors notices a changed
    byte. Without symbolic links, as on some Windows machines, the cache does not keep the digest.
    """
    if not file.is_symlink():
        return
    digest, content = file.readlink().name, file.read_bytes()
    if len(digest) == 64:
        found = [sha256(content).hexdigest()]
    elif len(digest) == 40:  # a small file: the digest of git, or in some mirrors a plain one
        bytes_of_git = b"blob %d\0" % len(content) + content
        found = [sha1(b, usedforsecurity=False).hexdigest() for b in (bytes_of_git, content)]
    else:
        return
    if digest not in found:
        raise CheckpointError(
            f"{file.name} of {name} is damaged: its digest is {found[0][:12]}, and the hub's is "
            f"{digest[:12]}; remove {file.resolve()} and try again"
        )
