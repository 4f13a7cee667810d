"""The end of training: examine the run, store the findings, and print them."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path

from st_adapter.common.files import write_json
from st_adapter.common.remarks import note, say
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations, read_annotations
from st_adapter.data.video.packets import Probe
from st_adapter.diagnosis.advice import find_advice
from st_adapter.diagnosis.examine import examine
from st_adapter.diagnosis.facts import WARNINGS_FILE, read_facts
from st_adapter.diagnosis.warnings import run_warnings


def diagnose_run(
    folder: Path, data: Path, parts: Annotations, config: TrainConfig, probe: Probe
) -> None:
    """Write `warnings.json` into a run folder, and print the warnings and the first advice.

    The run is finished, and nothing that happens here may make it fail: videos may have been
    removed, the disk may be full, a file may be of an unforeseen kind, and the user may be tired of
    waiting. So any error, and Ctrl-C, ends up in a note.

    Args:
        folder: The run folder, with `eval.json`.
        data: DATA of the run.
        parts: The training and validation videos.
        config: The settings of the run.
        probe: Reads the properties of a video file.
    """
    try:
        _diagnose(folder, data, parts, config, probe)
    except (Exception, KeyboardInterrupt) as error:
        note(f"the run was not examined for warnings: {type(error).__name__}: {error}")


def _diagnose(
    folder: Path, data: Path, parts: Annotations, config: TrainConfig, probe: Probe
) -> None:
    held_out = config.val is None and not read_annotations(data, options=config.data).val
    videos = examine(parts, probe, held_out=held_out, workers=config.workers)
    facts = replace(read_facts(folder), videos=videos)
    warnings = run_warnings(facts)
    record = {"warnings": [asdict(warning) for warning in warnings], "facts": asdict(videos)}
    write_json(folder / WARNINGS_FILE, record)
    for warning in warnings:
        note(warning.text)
    for advice in find_advice(facts)[:1]:
        run = shlex.quote(str(folder))
        say(f"next: {advice.action} ({advice.cause}); st-adapter advise {run}")
