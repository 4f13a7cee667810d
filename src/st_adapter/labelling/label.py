"""Label many videos into a table, or continue to do so."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from st_adapter.common.interrupt import Interrupted, deferred_interrupt
from st_adapter.common.lock import alone_in
from st_adapter.common.progress import bar
from st_adapter.common.remarks import say
from st_adapter.data.formats.listing import counted
from st_adapter.data.video.reader import Decoder
from st_adapter.errors import ArgumentError
from st_adapter.labelling.earlier import check_earlier
from st_adapter.labelling.formats import check_format
from st_adapter.labelling.labeller import Job, Labeller
from st_adapter.labelling.parts import Parts
from st_adapter.labelling.plan import make_plan
from st_adapter.labelling.processes import label_in_processes
from st_adapter.labelling.rows import read_rows
from st_adapter.labelling.runs import find_runs
from st_adapter.labelling.work import Batches, label_ranges
from st_adapter.wording import setting

_FEW_ROWS = 8
"""Starting dataloader workers takes longer than decoding so few videos."""

_STOPPED = "stopped; run the same command again to continue"


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A finished table of labels.

    Attributes:
        file: The table.
        num_videos: Number of its rows.
        num_failed: Number of videos that could not be read. Their rows have an error and no labels.
        was_complete: Whether an earlier call had finished the table. This one wrote nothing.
    """

    file: Path
    num_videos: int
    num_failed: int
    was_complete: bool = False


def label_videos(
    runs: str | Path | Sequence[str | Path],
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    top: int = 3,
    workers: int = 2,
    processes: int = 1,
    shard: tuple[int, int] | None = None,
    ray: str | None = None,
    videos: str | Path | None = None,
    weights: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    views: tuple[int, int] | None = None,
    frames: int | None = None,
    size: int | None = None,
    threshold: float | None = None,
    calibrated: bool = True,
    batch_size: int = 8,
    decoder: Decoder = "pyav",
    compile: bool = False,
) -> Labelled:
    """Label many videos with one or more runs and write a table with one row per video.

    If a call is interrupted, even by a kill, the same call continues it. Rows that are done are
    kept in the folder `OUT.parts` next to the table and joined at the end. Only the list of paths
    is in memory as a whole.

    Several runs share one image model in memory, and each video is decoded once for all runs that
    cut clips in the same way. Their columns start with the names of the run folders.

    Examples:
        >>> done = st_adapter.label_videos("run", "clips/", "labels.jsonl")  # doctest: +SKIP
        >>> print(done.num_videos, done.num_failed)  # doctest: +SKIP
        12000 3

    Args:
        runs: One or more run folders, adapter folders or names on the hub ("hf:user/name"). Several
            must have been trained on the same image model, with methods that leave it unchanged.
        inputs: Video files, folders of them, lists (.txt with a path per line), tables (.csv, .tsv
            or .parquet with the column `path` and perhaps `start_seconds` and `end_seconds`),
            WebDataset shards (.tar), or URLs. Labels in them are ignored.
        out: The table to write, a .jsonl, .csv or .parquet file.
        top: Number of labels per video, at least 1. With several heads, also of each head.
        workers: Number of processes that decode in the background, for each model; 0 decodes in the
            process of the model.
        processes: Number of processes that label, each with its own model. Each takes a GPU of its
            own if there are several. They are spawned, so a program needs the usual guard
            `if __name__ == "__main__":`.
        shard: Label one part only: its number from 1, and the number of parts, such as (1, 4). The
            name of the table gets `-00001-of-00004` before its suffix. All parts in order have each
            video once.
        ray: Label on a Ray cluster: its address, "auto" for the one that this machine belongs to,
            or "local" to start one on this machine. All machines must see the same files. Needs
            `pip install 'st-adapter[ray]'`.
        videos: Folder that the paths in lists and tables are relative to. By default the folder of
            the list.
        weights, device, precision, views, frames, size, threshold, calibrated, batch_size, decoder,
            compile: As for `Predictor`.

    Returns:
        The finished table and the number of videos in it.

    Raises:
        ArgumentError: An argument is invalid, the runs cannot share an image model, the table
            exists with other rows, or its parts belong to another call.
        DataError: A list, a table or a shard cannot be read.
        CheckpointError: A run cannot be read or does not fit the image model.
        LabellingError: A process or a Ray cluster failed. The same call goes on.
        MemoryShortError: A batch does not fit in memory.
        KeyboardInterrupt: Ctrl-C or SIGTERM came. The same call goes on.
    """
    file = _table(Path(out), shard)
    _check_counts(top=top, processes=processes, workers=workers, batch_size=batch_size)
    if ray is not None and processes > 1:
        raise ArgumentError(f"use {setting('ray')} or {setting('processes')}, not both")
    settings: dict[str, Any] = {"weights": weights, "device": device, "precision": precision}
    settings |= {"views": views, "frames": frames, "size": size, "batch_size": batch_size}
    settings |= {"threshold": threshold, "calibrated": calibrated}
    settings |= {"decoder": decoder, "compile": compile}
    found = find_runs(_several(runs))
    rows = read_rows(_several(inputs), videos)
    if shard is not None:
        rows = rows.shard(*shard)
    job = Job(runs=found, rows=rows, top=top, workers=workers, settings=settings)
    try:
        return _label(job, file, shard, processes, ray)
    except KeyboardInterrupt as error:
        raise Interrupted(_STOPPED) from error


def _label(
    job: Job, file: Path, shard: tuple[int, int] | None, processes: int, ray: str | None
) -> Labelled:
    """Label the rows that are missing, unless the table is there."""
    parts = Parts(file, len(job.rows))
    if file.exists() and not parts.folder.exists():
        return _complete(job, file)
    plan = make_plan(job, file.suffix, shard)
    with alone_in(parts.folder):
        if file.exists():  # another process finished it, or one was killed while it cleaned up
            complete = _complete(job, file)
            parts.begin(plan)
            parts.clear()
        else:
            parts.begin(plan)
            try:
                _label_missing(job, parts, processes, ray)
            except BaseException:
                if not parts.done():  # nothing to keep, for example if the weights were not found
                    parts.clear()
                raise
            complete = Labelled(
                file=file, num_videos=len(job.rows), num_failed=parts.join(job.columns())
            )
    with suppress(OSError):  # another process has just locked it
        parts.folder.rmdir()
    return complete


def _complete(job: Job, file: Path) -> Labelled:
    failed = check_earlier(file, job.columns(), job.rows)
    say(
        f"{file} is complete: it has {counted(len(job.rows), 'row')}, one for each video; to "
        "label again, remove it"
    )
    return Labelled(file=file, num_videos=len(job.rows), num_failed=failed, was_complete=True)


def _label_missing(job: Job, parts: Parts, processes: int, ray: str | None) -> None:
    missing = parts.missing()
    left = sum(map(len, missing))
    if not left:
        return
    before = len(job.rows) - left
    say(
        counted(len(job.rows), "video")
        + (f", of which {before:,} are labelled already" if before else "")
    )
    with deferred_interrupt() as stop, bar("labelling", len(job.rows), before) as progress:
        if ray is not None:
            from st_adapter.labelling.on_ray import label_on_ray

            label_on_ray(job, missing, parts, ray, progress.advance, stop.is_set)
        elif processes > 1:
            label_in_processes(job, missing, parts, processes, progress.advance, stop.is_set)
        else:
            labeller = Labeller(job if left > _FEW_ROWS else replace(job, workers=0))
            batches = Batches(missing, job.batch_rows())
            label_ranges(labeller, batches, parts, progress.advance, stop.is_set)
        if stop.is_set() and parts.missing():
            raise Interrupted(_STOPPED)


def _table(out: Path, shard: tuple[int, int] | None) -> Path:
    """Return the path of the table, or of its part."""
    check_format(out)
    if shard is None:
        return out
    number, count = shard
    if not 1 <= number <= count:
        raise ArgumentError(
            f"{setting('shard')} must be a number from 1 and the number of parts, such as 1/4, "
            f"not {number}/{count}"
        )
    return out.with_name(f"{out.stem}-{number:05d}-of-{count:05d}{out.suffix}")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        lowest = 0 if name == "workers" else 1
        if count < lowest:
            raise ArgumentError(f"{setting(name)} must be at least {lowest}, not {count}")


def _several(given: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [given] if isinstance(given, str | Path) else given
