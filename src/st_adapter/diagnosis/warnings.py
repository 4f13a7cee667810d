"""Warnings about the result of a run, each in one line with the number behind it.

A rule is a function that returns the line, or None if there is nothing to warn about. `OF_RESULTS`,
`OF_TRAINING` and `OF_VIDEOS` below list all rules.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

from st_adapter.data.formats.listing import counted, examples
from st_adapter.diagnosis.facts import Epoch, RunFacts, VideoFacts
from st_adapter.diagnosis.file_facts import FileFacts
from st_adapter.diagnosis.measures import (
    Evaluation,
    guess_of,
    interval_of,
    metric_of,
    right_and_total,
    score_of,
)
from st_adapter.evaluation.intervals import wilson
from st_adapter.evaluation.metrics import METRICS

_Seen = TypeVar("_Seen")

_WIDE = 0.15
"""Width of an interval from which the score says little."""

_WEAK_CLASS = 0.5
"""Accuracy of a class, as a share of that of the other classes, up to which it is hardly
recognised."""

_LEAST_IN_CLASS = 4
"""Fewest validation videos of a class for a warning about it."""

_LOSS_RISE, _LEAST_LOSS_RISE = 0.1, 0.05
"""How far the validation loss must rise above its lowest value: as a share of it, and in total."""

_SHARED = 0.05
"""Share of validation videos with a training video of their scene from which accuracy misleads.

In the official split of UCF101, archives of the same broadcast are in both parts: 2% of the
validation videos of six classes have such a twin.
"""

_LEAST_OF_LABEL = 3
"""Fewest validation videos of a class from which a warning names the class."""

_LEAST_APART, _APART = 2, 0.25
"""Fewest pairs of training videos that look the same and have different labels, and their share of
all pairs that look the same, from which labels are in doubt. In UCF101 and ARID, none of 139 such
pairs has different labels.
"""

_TOLD_BY_FILES, _LABEL_TOLD_BY_FILES = 0.5, 0.9
"""Share of the gap between guessing and 100% that file facts must close, for all classes and for
one class against all others.

Frame rate and length say a little in most data: in the official split of six classes of UCF101,
which is a fair test, they close 0.3 to 0.4 of the gap, and recognise short dunks by their length
(0.86).
"""

_KEPT_WITHOUT_ORDER = 0.02
"""Largest loss of accuracy without the order of frames at which order does not matter."""

_LOST_WITHOUT_ORDER = 0.8
"""Share of the gain over guessing that must be lost for order to be all that matters."""


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """One reason not to trust a result, or to expect a poor one.

    Attributes:
        rule: Name of the rule, a key of one of the tables.
        text: One line with the number behind it.
    """

    rule: str
    text: str


def percent(value: float) -> str:
    """Return a share as text, without decimals."""
    return f"{value:.0%}"


def not_above_guessing(evaluation: Evaluation) -> str | None:
    """Warn if the interval includes what the most frequent class alone reaches."""
    score, interval, guess = score_of(evaluation), interval_of(evaluation), guess_of(evaluation)
    if score is None or interval is None or guess is None or interval[0] > guess[0]:
        return None
    clearly = "" if score <= guess[0] else "clearly "
    return (
        f"{METRICS[metric_of(evaluation)]} {percent(score)} ({_range(interval)} with 95% "
        f"confidence) is not {clearly}above {guess[1]}, which reaches {percent(guess[0])}"
    )


def wide_interval(evaluation: Evaluation) -> str | None:
    """Warn if the 95% interval is too wide to compare this result with another."""
    score, interval = score_of(evaluation), interval_of(evaluation)
    if score is None or interval is None or interval[1] - interval[0] <= _WIDE:
        return None
    groups = evaluation.get("num_groups")
    of_groups = f" from {counted(groups, 'source')}" if groups else ""
    return (
        f"{METRICS[metric_of(evaluation)]} {percent(score)} of "
        f"{counted(evaluation['num_videos'], 'validation video')}{of_groups} can be anything from "
        f"{_range(interval)}: the 95% interval is {100 * (interval[1] - interval[0]):.0f} points "
        "wide"
    )


def useless_classes(evaluation: Evaluation) -> str | None:
    """Warn of classes that are recognised far less often than the others."""
    weak = weak_classes(evaluation)
    if not weak:
        return None
    texts = [f"{label} ({right} of {total} videos)" for label, (right, total) in weak.items()]
    rest = {k: v for k, v in right_and_total(evaluation).items() if k not in weak}
    others = sum(right for right, _ in rest.values()) / sum(total for _, total in rest.values())
    classes = "class" if len(weak) == 1 else f"{len(weak)} classes"
    return (
        f"{classes} hardly recognised: {examples(texts)}; the others reach "
        f"{percent(others)} together"
    )


def weak_classes(evaluation: Evaluation) -> dict[str, tuple[int, int]]:
    """Return the correct and all videos of the classes that are hardly recognised, weakest first.

    Their 95% interval lies below that of all other classes together, and their accuracy is at most
    half of theirs.
    """
    counts = {k: v for k, v in right_and_total(evaluation).items() if v[1]}
    all_right = sum(right for right, _ in counts.values())
    all_videos = sum(total for _, total in counts.values())
    weak = {}
    for label, (right, total) in counts.items():
        rest_right, rest = all_right - right, all_videos - total
        if total < _LEAST_IN_CLASS or not rest:
            continue
        is_weak = right / total <= _WEAK_CLASS * rest_right / rest
        if is_weak and wilson(right / total, total)[1] < wilson(rest_right / rest, rest)[0]:
            weak[label] = (right, total)
    return dict(sorted(weak.items(), key=lambda item: item[1][0] / item[1][1]))


def unvalidated_classes(evaluation: Evaluation) -> str | None:
    """Warn of classes that the result says nothing about."""
    per_class = evaluation.get("per_class") or {}
    absent = [label for label, row in per_class.items() if not row["num_videos"]]
    if not absent:
        return None
    verb = "has" if len(absent) == 1 else "have"
    return (
        f"{len(absent)} of {counted(len(per_class), 'class', 'classes')} {verb} no validation "
        f"videos, so that nothing is known about {examples(absent)}"
    )


def order_of_frames(evaluation: Evaluation) -> str | None:
    """Warn if the order of frames changes nothing, or if nothing but the order counts."""
    temporal, guess = evaluation.get("temporal"), guess_of(evaluation)
    if not temporal:
        return None
    in_order, others = temporal["in_order"], {k: v for k, v in temporal.items() if k != "in_order"}
    numbers = f"{percent(in_order)} in order, {percent(others['reversed'])} reversed, "
    numbers += f"{percent(others['shuffled'])} shuffled, {percent(others['frozen'])} with one frame"
    if order_is_ignored(evaluation):
        return f"the order of frames does not matter to this classifier: {numbers}"
    gain = in_order - (guess[0] if guess else 0)
    # A clip played backwards can show another class, so that reversed scores may be below guessing.
    without_order = max(others["shuffled"], others["frozen"])
    if guess and gain > _WIDE and in_order - without_order >= _LOST_WITHOUT_ORDER * gain:
        return (
            f"the order of frames is all that matters to this classifier: {numbers}, where "
            f"{guess[1]} reaches {percent(guess[0])}"
        )
    return None


def order_is_ignored(evaluation: Evaluation) -> bool:
    """Whether frames in another order, as far as measured, give the same score."""
    temporal = evaluation.get("temporal")
    if not temporal:
        return False
    # One video may change by chance, which is more than 2 points of fewer than 50 videos.
    tolerated = max(_KEPT_WITHOUT_ORDER, 1 / max(1, evaluation["num_videos"])) + 1e-9
    lowest = min(temporal["reversed"], temporal["shuffled"])
    return bool(temporal["in_order"] - lowest <= tolerated)


def overfitting(facts: RunFacts) -> str | None:
    """Warn if the validation loss rises while the training loss falls."""
    found = overfitted_epochs(facts)
    if found is None:
        return None
    best, last = found
    return (
        f"overfitting since epoch {best.number}: by epoch {last.number} the training loss fell "
        f"from {best.train_loss:.2f} to {last.train_loss:.2f}, and the validation loss rose from "
        f"{best.val_loss:.2f} to {last.val_loss:.2f}"
    )


def overfitted_epochs(facts: RunFacts) -> tuple[Epoch, Epoch] | None:
    """Return the epoch with the lowest validation loss and the last one, if it overfits."""
    known = [e for e in facts.epochs if e.val_loss is not None and e.train_loss is not None]
    if len(known) < 2:
        return None
    best, last = min(known, key=lambda epoch: epoch.val_loss or 0), known[-1]
    assert best.val_loss is not None
    assert last.val_loss is not None
    assert best.train_loss is not None
    assert last.train_loss is not None
    rise = last.val_loss - best.val_loss
    rises = rise >= max(_LOSS_RISE * best.val_loss, _LEAST_LOSS_RISE)
    return (best, last) if rises and last.train_loss < best.train_loss else None


def shared_scenes(videos: VideoFacts) -> str | None:
    """Warn if validation videos look like training videos, or come from the same source."""
    scenes = videos.scenes
    if not scenes or scenes.shared < max(2, _SHARED * scenes.num_videos):
        return None
    ways = []
    if scenes.by_frame:
        ways.append(f"{scenes.by_frame} by nearly equal frames")
    if scenes.by_name:
        ways.append(f"{scenes.by_name} by name")
    pairs = [" and ".join(PurePath(path).name for path in pair) for pair in scenes.examples[:1]]
    such = f", such as {examples(pairs)}" if pairs else ""
    return (
        f"{scenes.shared} of {counted(scenes.num_videos, 'validation video')} share a scene with a "
        f"training video ({', '.join(ways)}){such}"
    )


def labels_of_alike(videos: VideoFacts) -> str | None:
    """Warn if training videos that look the same have different labels."""
    scenes = videos.scenes
    if not scenes or scenes.alike_apart < max(_LEAST_APART, _APART * scenes.alike):
        return None
    return (
        f"{scenes.alike_apart} of {counted(scenes.alike, 'pair')} of training videos that look the "
        "same have different labels: labels are wrong, or only motion tells these classes apart"
    )


def told_by_files(videos: VideoFacts) -> str | None:
    """Warn if a classifier that sees no picture does well."""
    files = videos.file_facts
    if not files or not files.uses:
        return None
    says = [line for line in (_told_classes(files), _told_class(files)) if line is not None]
    if not says:
        return None
    *most, last = files.uses
    uses = f"{', '.join(most)} and {last}" if most else last
    return f"a classifier that sees only {uses} {', and '.join(says)}"


def _told_classes(files: FileFacts) -> str | None:
    low, _ = wilson(files.accuracy, files.num_videos)
    if files.gain < _TOLD_BY_FILES or low <= files.largest_class:
        return None
    return (
        f"reaches {percent(files.accuracy)} of {counted(files.num_videos, 'validation video')} "
        f"(largest class: {percent(files.largest_class)})"
    )


def _told_class(files: FileFacts) -> str | None:
    if files.num_label < _LEAST_OF_LABEL:
        return None
    others = files.num_videos - files.num_label
    low, _ = wilson(files.found / files.num_label, files.num_label)
    if files.label_gain < _LABEL_TOLD_BY_FILES or low <= files.false_alarms / others:
        return None
    return (
        f"recognises {files.label} (right in {files.found} of its {files.num_label} videos, wrong "
        f"in {files.false_alarms} of {others} others)"
    )


OF_RESULTS: dict[str, Callable[[Evaluation], str | None]] = {
    "not above the largest class": not_above_guessing,
    "wide interval": wide_interval,
    "class hardly recognised": useless_classes,
    "class without validation videos": unvalidated_classes,
    "order of frames": order_of_frames,
}
"""Rules that look at an evaluation alone."""

OF_TRAINING: dict[str, Callable[[RunFacts], str | None]] = {"overfitting": overfitting}
"""Rules that look at the course of training."""

OF_VIDEOS: dict[str, Callable[[VideoFacts], str | None]] = {
    "shared scenes": shared_scenes,
    "labels of look-alikes": labels_of_alike,
    "file facts": told_by_files,
}
"""Rules that look at the videos of both parts."""


def result_warnings(evaluation: Evaluation) -> list[RunWarning]:
    """Return the warnings about an evaluation."""
    return _apply(OF_RESULTS, evaluation)


def video_warnings(videos: VideoFacts | None) -> list[RunWarning]:
    """Return the warnings about the videos of both parts."""
    return _apply(OF_VIDEOS, videos) if videos else []


def run_warnings(facts: RunFacts) -> list[RunWarning]:
    """Return all warnings about a run."""
    return [
        *result_warnings(facts.evaluation),
        *_apply(OF_TRAINING, facts),
        *video_warnings(facts.videos),
    ]


def _apply(rules: Mapping[str, Callable[[_Seen], str | None]], seen: _Seen) -> list[RunWarning]:
    lines = {name: rule(seen) for name, rule in rules.items()}
    return [RunWarning(rule=name, text=line) for name, line in lines.items() if line is not None]


def _range(interval: Sequence[float]) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"
