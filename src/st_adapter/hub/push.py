"""Upload a trained classifier to the Hugging Face hub."""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from st_adapter.common.files import read_json
from st_adapter.common.hub import hub_problem, limited_waits, parse_hub_name
from st_adapter.common.remarks import note, say
from st_adapter.errors import ArgumentError
from st_adapter.hub.upload_folder import FILES, write_upload
from st_adapter.model.checkpoint import CONFIG_FILE, find
from st_adapter.report.parts import size
from st_adapter.wording import setting

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")

_OTHERS = {".gitattributes", "README.md"}
"""Files that any repository may have before the first upload."""


def push(
    run: str | Path,
    name: str,
    *,
    out: str | Path | None = None,
    private: bool | None = None,
    license: str | None = None,
    message: str = "Upload st-adapter",
) -> str:
    """Upload the adapter of a run to the Hugging Face hub, with a model card.

    The repository gets one commit with the two files of the adapter folder, a model card
    (`README.md`) and, if the run has been evaluated, its measures (`eval.json`) and a picture of
    them (`results.png`). Names of classes are uploaded. Videos, their names, paths on this machine
    and the weights of the image model are not.

    Log in once with `hf auth login`, or set the environment variable HF_TOKEN. Afterwards, the name
    "hf:user/name" can be given wherever a run is taken.

    Examples:
        >>> st_adapter.push("run", "me/gestures", private=False)  # doctest: +SKIP
        'https://huggingface.co/me/gestures'
        >>> predictor = st_adapter.Predictor("hf:me/gestures")  # doctest: +SKIP

    Args:
        run: A run folder or an adapter folder. An adapter folder does not record an evaluation.
        name: Name of the repository, "user/name", or "user/name@branch" for another branch than
            `main`. Both are created if they do not exist.
        out: Folder to create and to write the files to, instead of uploading them.
        private: Whether only you can see a new repository. None makes a new one private, and leaves
            the visibility of an existing one.
        license: Licence of the adapter, by its identifier on the hub, such as "apache-2.0".
        message: Message of the commit.

    Returns:
        The address of the repository, or the path of the folder if `out` is given.

    Raises:
        CheckpointError: The run cannot be read, or contains several folds.
        ArgumentError: The adapter is of no use to others, the name is invalid, the repository
            contains something else or has another visibility, or the hub refuses the upload or
            cannot be reached.
    """
    repository, branch = parse_hub_name(name)
    hub_name = f"hf:{repository}{f'@{branch}' if branch else ''}"
    if license is not None and not _LICENSE.fullmatch(license):
        raise ArgumentError(
            f"{setting('license')} must be an identifier of the hub, such as apache-2.0, "
            f"cc-by-4.0 or other, not {license!r}"
        )
    adapter = find(Path(run))
    _check_login(repository, out)
    if out is not None:
        folder = Path(out)
        if folder.exists():
            raise ArgumentError(f"{folder} already exists; choose another {setting('out')}")
        write_upload(Path(run), adapter, folder, hub_name, license)
        return str(folder)
    with tempfile.TemporaryDirectory(prefix="st-adapter-push-") as temporary:
        write_upload(Path(run), adapter, Path(temporary), hub_name, license)
        try:
            with limited_waits():
                return _upload(Path(temporary), repository, branch, private, message)
        except ArgumentError:
            raise
        except Exception as error:
            problem = _problem(error, repository, branch)
            if problem is None:
                raise
            raise ArgumentError(f"{repository} was not uploaded: {problem}") from error


def _problem(error: Exception, repository: str, branch: str | None) -> str | None:
    """Say in one line what went wrong with an upload; return None for an error of another kind."""
    if isinstance(error.__cause__, Exception) and isinstance(error, RuntimeError):
        error = error.__cause__  # uploads in threads wrap the error of the request
    problem = hub_problem(error, repository, branch)
    if problem is None and isinstance(error, ValueError):  # the hub refuses the model card
        return str(error)
    return problem


def _check_login(repository: str, out: str | Path | None) -> None:
    """Raise ArgumentError if an upload would be refused, before anything is computed."""
    from huggingface_hub import get_token

    if out is None and get_token() is None:
        raise ArgumentError(
            f"{repository} was not uploaded: you are not logged in to the hub; make a token that "
            "may write, and log in with `hf auth login` or set HF_TOKEN"
        )


def _upload(
    folder: Path, repository: str, branch: str | None, private: bool | None, message: str
) -> str:
    """Make the repository and the branch if they do not exist, and one commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    before = _repository(api, repository, branch, private)
    new = sorted(path.name for path in folder.iterdir())
    old = {file.rfilename for file in before.siblings or ()}
    commit = api.create_commit(
        repository,
        [
            *(CommitOperationAdd(file, folder / file) for file in new),
            *(CommitOperationDelete(file) for file in FILES if file in old and file not in new),
        ],
        commit_message=message,
        revision=branch,
    )
    sizes = [f"{file} ({size((folder / file).stat().st_size)})" for file in new]
    if commit.oid == before.sha:
        say(f"nothing has changed since the last upload, commit {commit.oid[:12]}")
    else:
        say(f"uploaded {', '.join(sizes)}; commit {commit.oid[:12]}")
    if before.private:
        say(f"{repository} is private; its page has the setting to share it")
    address = f"{api.endpoint}/{repository}"
    return f"{address}/tree/{branch}" if branch else address


def _repository(
    api: "HfApi", repository: str, branch: str | None, private: bool | None
) -> "ModelInfo":
    """Return what is in the branch of a repository, both of which are created if necessary."""
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    seconds = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = api.model_info(repository, timeout=seconds)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=private is not False)
        info = api.model_info(repository, timeout=seconds)
    else:
        _check_visibility(info, private)
        _check_content(api, info)
    if branch is None:
        return info
    try:
        return api.model_info(repository, revision=branch, timeout=seconds)
    except RevisionNotFoundError:
        api.create_branch(repository, branch=branch)
        return api.model_info(repository, revision=branch, timeout=seconds)


def _check_visibility(info: "ModelInfo", private: bool | None) -> None:
    """Raise ArgumentError if an existing repository has another visibility than is wanted."""
    if private is not None and private != bool(info.private):
        found = "private" if info.private else "public"
        raise ArgumentError(
            f"{info.id} was not uploaded: it exists and is {found}; change that in its settings on "
            "the hub first"
        )


def _check_content(api: "HfApi", info: "ModelInfo") -> None:
    """Raise ArgumentError if an existing repository contains something else than an adapter."""
    names = {file.rfilename for file in info.siblings or ()}
    if CONFIG_FILE in names:
        file = Path(api.hf_hub_download(info.id, CONFIG_FILE, revision=info.sha))
        is_ours = "format_version" in read_json(file)
    else:
        is_ours = names <= _OTHERS
    if not is_ours:
        raise ArgumentError(
            f"{info.id} was not uploaded: this repository contains another model; choose another "
            "name"
        )
    if names <= _OTHERS and "README.md" in names:
        note(f"replacing the README.md of {info.id}")
