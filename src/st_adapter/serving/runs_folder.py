"""A folder of runs that is watched: runs that appear in it are served, others no longer."""

import threading
from pathlib import Path

from st_adapter.common.remarks import note, say
from st_adapter.errors import ArgumentError, StAdapterError
from st_adapter.labelling.runs import read_runs
from st_adapter.model import checkpoint
from st_adapter.serving.tasks import Tasks

_POLL_SECONDS = 1.0

_Signature = tuple[tuple[int, int], ...]
"""Time of change and size of each file of an adapter."""


class RunsFolder:
    """Keeps tasks in step with a folder, in a thread.

    A run is loaded when its files have not changed since the last look, so that a copy that is
    under way is left alone. A run that cannot be loaded is reported once, and tried again when it
    changes; if it takes the place of another, that one is served until then.

    Args:
        folder: The folder. Its subfolders that are runs are served under their names.
        tasks: Where runs are added and removed.

    Raises:
        ArgumentError: The folder does not exist.
    """

    def __init__(self, folder: Path, tasks: Tasks) -> None:
        if not folder.is_dir():
            raise ArgumentError(f"{folder}: no such folder")
        self._folder, self._tasks = folder, tasks
        self._fixed = tasks.names()
        self._seen: dict[str, _Signature] = {}
        self._served: dict[str, _Signature] = {}
        self._ended = threading.Event()
        self.look()
        self.look()  # what does not change between two looks is served from the start
        threading.Thread(target=self._watch, name="runs", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Look once, and add or remove what has changed."""
        found = self._find()
        if found is None:
            return
        for name in [*self._served]:
            if name not in found:
                del self._served[name]
                if name in self._fixed:
                    self._tasks.report(name, None)
                else:
                    self._tasks.remove(name)
                    say(f"{name}: removed")
        for name, signature in sorted(found.items()):
            if signature == self._seen.get(name) and signature != self._served.get(name):
                self._served[name] = signature
                self._load(name)
        self._seen = found

    def _find(self) -> dict[str, _Signature] | None:
        """Return the runs in the folder with the state of their files.

        None if the folder cannot be listed, for example during a network error. Nothing is changed
        then.
        """
        found = {}
        try:
            folders = [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        except OSError:
            return None
        for path in folders:
            for place in (path, path / "adapter"):
                try:
                    states = [
                        (place / name).stat()
                        for name in (checkpoint.CONFIG_FILE, checkpoint.TENSOR_FILE)
                    ]
                except OSError:
                    continue
                found[path.name] = tuple((state.st_mtime_ns, state.st_size) for state in states)
                break
        return found

    def _load(self, name: str) -> None:
        try:
            if name in self._fixed:
                raise ArgumentError("another run of this name is served already")
            (run,) = read_runs([self._folder / name])
            self._tasks.add(run)
            say(f"{name}: added")
        except Exception as error:  # of any kind: the thread must go on with the other runs
            is_told = isinstance(error, StAdapterError | OSError)
            text = " ".join((str(error) if is_told else repr(error)).split())
            self._tasks.report(name, text)
            note(f"{name}: cannot be served: {text}")
