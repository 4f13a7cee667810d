"""The errors that users see. Each message says what is wrong, what was given and what to do."""


class StAdapterError(Exception):
    """Base class of all errors that this package raises on purpose.

    Catch it to handle every one of them. The command line prints its message as one line, without
    a traceback. Messages name settings as the caller gives them: as flags (`--batch-size`) in the
    command, and as arguments (`batch_size`) in a program.
    """


class ArgumentError(StAdapterError, ValueError):
    """An argument, flag or configuration value is invalid, or conflicts with another."""


class DataError(StAdapterError, ValueError):
    """A data set cannot be used, for example because a list is malformed or a class is missing."""


class VideoError(StAdapterError):
    """A video file cannot be decoded. The message starts with its path."""


class UnreachableError(VideoError):
    """A video cannot be read at the moment, for example because a disk or the network failed."""


class CheckpointError(StAdapterError):
    """A weights file or run folder cannot be read, or does not fit the model."""


class TrainingError(StAdapterError):
    """Training cannot continue, for example because the disk is full or a process was killed.

    The run folder keeps the last good state, from which `train` can resume.
    """


class DivergedError(TrainingError):
    """The loss was NaN or infinite for several steps in a row."""


class LabellingError(StAdapterError):
    """Labelling cannot continue, for example because a process was killed.

    Rows that are done are kept. The same call goes on from there.
    """


class ExportError(StAdapterError):
    """A classifier cannot be exported, or the exported one computes something else.

    No file was written.
    """


class MemoryShortError(StAdapterError):
    """The CPU or GPU ran out of memory. The message says which settings need less."""


def did_you_mean(word: str, choices: list[str]) -> str:
    """Return `"; did you mean A or B?"` if some choices are similar to `word`, else ""."""
    from difflib import get_close_matches

    near = get_close_matches(word, choices, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
