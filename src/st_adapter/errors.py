"""The errors a user can meet. Each message says what was wrong, what was given, what would do."""


class StAdapterError(Exception):
    """Base of every error that the command line answers with one line instead of a traceback."""


class ArgumentError(StAdapterError, ValueError):
    """An argument, flag or configuration that makes no sense."""


class DataError(StAdapterError, ValueError):
    """A data set that cannot be used as it was given."""


class VideoError(StAdapterError):
    """A media file that yields no frames. The message starts with its path."""


class UnreachableError(VideoError):
    """A video that cannot be had now, but perhaps later: a disk or network fails, say."""


class CheckpointError(StAdapterError):
    """A weights file or run folder that does not fit or cannot be read."""


class TrainingError(StAdapterError):
    """Training cannot go on, for example because the disk is full or a process was killed."""


class DivergedError(TrainingError):
    """The loss was NaN or infinite several steps in a row."""


class MemoryShortError(StAdapterError):
    """An allocation failed in the middle of work."""


def did_you_mean(word: str, choices: list[str]) -> str:
    """Return `"; did you mean A or B?"` for the near misses of `word`, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(word, choices, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
