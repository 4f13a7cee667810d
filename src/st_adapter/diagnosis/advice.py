"""What to try next after a run, in order, each with the reason and the command."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from st_adapter.diagnosis import reasons
from st_adapter.diagnosis.facts import RunFacts, read_facts
from st_adapter.diagnosis.warnings import overfitted_epochs, weak_classes
from st_adapter.methods import METHODS
from st_adapter.wording import as_flags

_STRONG = "vit_base_patch16_clip_quickgelu_224.openai"
"""The image model to propose: the default of `train`."""

_SOURCE_IN_NAME = r"[^/]*?(?=[0-9]+\.[^/.]+$)"
"""Matches the name of a file without its last number, which `scenes.source_of` also compares."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One thing to try next.

    Attributes:
        cause: What is likely to limit the result, such as "overfitting".
        reason: What in the run shows this, with numbers.
        action: What to do about it.
        command: A command line that does it, or that shows more.
    """

    cause: str
    reason: str
    action: str
    command: str


@dataclass(frozen=True)
class Rule:
    """When to give a piece of advice: if `reason` is not None.

    Attributes:
        cause: What is likely to limit the result.
        reason: Returns what shows this in a run, with numbers, or None.
        action: What to do about it.
        command: Returns the command line for a run.
    """

    cause: str
    reason: Callable[[RunFacts], str | None]
    action: str | Callable[[RunFacts], str]
    command: Callable[[RunFacts], str]


def advise(run: str | Path) -> list[Advice]:
    """Return what to try next after a training run, most promising first.

    This looks at the evaluation, at the losses during training, at the settings, and at what
    `train` found out about the videos. No video is opened.

    Examples:
        >>> for advice in advise("run"):  # doctest: +SKIP
        ...     print(f"{advice.action}: {advice.reason}")

    Args:
        run: A run folder.

    Returns:
        Pieces of advice, each with a reason and a command. The list is empty if the run has not
        been evaluated and nothing went wrong in training.

    Raises:
        ArgumentError: The folder does not contain a run, or its files are damaged.
    """
    return find_advice(read_facts(Path(run)))


def find_advice(facts: RunFacts) -> list[Advice]:
    """Apply all rules, in order.

    Rules that propose something for a result without a visible cause are left out if there is one.
    """
    found: list[Advice] = []
    for rule in (*CAUSES, *IDEAS):
        reason = rule.reason(facts)
        if reason is not None and not (found and rule.reason in _ONLY_ALONE):
            action = rule.action if isinstance(rule.action, str) else rule.action(facts)
            command = rule.command(facts)
            found.append(Advice(cause=rule.cause, reason=reason, action=action, command=command))
    return found


def _again(facts: RunFacts, **settings: Any) -> str:
    """Return the command that trains once more with the same settings, apart from some."""
    return _command(
        "train",
        facts.data or "DATA",
        *("--out", _next_folder(facts.folder)),
        *("--config", facts.folder / "config.json"),
        **settings,
    )


def _command(verb: str, *arguments: Any, **settings: Any) -> str:
    return shlex.join(["st-adapter", verb, *map(str, arguments), *as_flags(settings)])


def _next_folder(folder: Path) -> Path:
    """Return a folder next to a run that does not exist: "run-2" for "run"."""
    names = (folder.with_name(f"{folder.absolute().name}-{number}") for number in count(2))
    return next(path for path in names if not path.exists())


def _lower_rate(facts: RunFacts) -> str:
    return _again(facts, **_scaled_rate(facts, 1 / 3), precision="float32")


def _scaled_rate(facts: RunFacts, factor: float) -> dict[str, float]:
    """Return the setting that gives another learning rate."""
    config = facts.config
    name = "lr" if config.lr is not None else "lr_per_256"
    return {name: float(f"{(config.lr or config.lr_per_256 or 0) * factor:.2g}")}


def _whole_sources(facts: RunFacts) -> str:
    """Return how to keep sources apart, or how to list the videos if their names do not help."""
    videos = facts.videos
    if videos and videos.held_out and videos.scenes and videos.scenes.by_name:
        return _again(facts, group=_SOURCE_IN_NAME)
    return _command("check", facts.data or "DATA", **_own_validation(facts))


def _own_validation(facts: RunFacts) -> dict[str, str]:
    return {"val": facts.config.val} if facts.config.val else {}


def _same_format(facts: RunFacts) -> str:
    rate = facts.videos and facts.videos.frames_per_second
    options = ["-vf", "scale=-2:240", *(["-r", f"{rate:.4g}"] if rate else [])]
    return shlex.join(["ffmpeg", "-i", "VIDEO", *options, "NEW_VIDEO"])


def _reversal(facts: RunFacts) -> str:
    pair = reasons.opposite_classes(facts)
    settings: dict[str, Any] = {"frames": max(16, facts.config.frames)}
    if not set("=,") & set("".join(pair)):
        settings["reversal"] = "=".join(pair)
    if not METHODS[facts.config.method].sees_order:
        settings["method"] = "st-adapter"
    return _again(facts, **settings)


def _more_epochs(facts: RunFacts) -> str:
    epochs = 2 * max(1, len(facts.epochs))
    if not facts.can_resume or not facts.data:
        return _again(facts, epochs=epochs)
    return _command("train", facts.data, "--out", facts.folder, "--resume", epochs=epochs)


def _regularise(facts: RunFacts) -> str:
    found = overfitted_epochs(facts)
    settings: dict[str, Any] = {"randaugment": True, "dropout": 0.5}
    if found:
        settings["epochs"] = found[0].number
    # Adapters in the last blocks only: fewer parameters that can memorise videos.
    if facts.config.adapter_layers == "all" and METHODS[facts.config.method].adapters != "none":
        settings["adapter_layers"] = 4
    return _again(facts, **settings)


def _fit_more(facts: RunFacts) -> str:
    """Return how to train more: adapters everywhere first, then a higher rate."""
    config = facts.config
    if METHODS[config.method].adapters == "none":
        return _again(facts, method="st-adapter")
    if (config.adapter_layers, config.positions) != ("all", "all"):
        return _again(facts, adapter_layers="all", positions="all")
    return _again(facts, kernel_size=(3, 3, 3), **_scaled_rate(facts, 3))


def _better_model(facts: RunFacts) -> str:
    if facts.config.backbone == _STRONG:
        return _again(facts, frames=2 * facts.config.frames, size=224)
    places = {} if facts.config.positions == "all" else {"positions": "all"}
    return _again(facts, backbone=_STRONG, weights="hub", size=224, **places)


def _cheaper_or_better(facts: RunFacts) -> str:
    if reasons.could_be_better(facts):
        return _better_model(facts)
    return _again(facts, frames=max(2, facts.config.frames // 2))


def _more_of(facts: RunFacts) -> str:
    counts = facts.train_counts
    return f"add videos of {min(counts, key=counts.__getitem__)}"


def _look_at_class(facts: RunFacts) -> str:
    label = next(iter(weak_classes(facts.evaluation)))
    return f"look at the videos of {label}: correct their labels, or add clearer ones"


def _cover_more(facts: RunFacts) -> str:
    span, seconds = reasons.clip_seconds(facts), facts.videos and facts.videos.median_seconds
    if span and seconds and seconds > 60:  # too long to be shown in a few frames
        return _again(facts, frames=16, views="5x1")
    return _again(facts, stride=0, frames=max(16, facts.config.frames))


def _narrower_gaps(facts: RunFacts) -> str:
    rate = (facts.videos and facts.videos.frames_per_second) or 25
    return _again(facts, frames=16, stride=max(1, round(rate / 4)), views="5x1")


def _prepare_data(facts: RunFacts) -> str:
    return _command("check", facts.data or "DATA", **_own_validation(facts))


def _report(facts: RunFacts) -> str:
    return _command("report", facts.folder)


def _folds(facts: RunFacts) -> str:
    if facts.videos and not facts.videos.held_out:
        return _command("evaluate", facts.folder, "MORE_VIDEOS")
    # Patience chooses an epoch, which nothing may in a cross-validation.
    return _again(facts, folds=5, **({"patience": 0} if facts.config.patience else {}))


def _class_means(facts: RunFacts) -> str:
    return _again(facts, head_init="prototype")


CAUSES: tuple[Rule, ...] = (
    # Nothing can be learnt.
    Rule("divergence", reasons.diverged, "lower the learning rate", _lower_rate),
    Rule(
        "random weights",
        reasons.random_weights,
        "start from a pretrained image model",
        lambda facts: _again(facts, weights="hub"),
    ),
    # What was learnt, or measured, is something else than the classes.
    Rule("shared scenes", reasons.scenes, "hold out whole sources", _whole_sources),
    Rule("file facts", reasons.files, "give all videos the same format", _same_format),
    Rule(
        "mirrored classes",
        reasons.mirrored,
        "swap left and right when a clip is mirrored",
        lambda facts: _again(facts, mirror="names"),
    ),
    Rule(
        "opposite classes",
        reasons.opposite_in_time,
        "also train on reversed clips, with more frames",
        _reversal,
    ),
    Rule(
        "labels",
        reasons.unlearnable_labels,
        "compare the labels with the videos in the report",
        _report,
    ),
    # There is too little of some videos.
    Rule("uneven classes", reasons.uneven_classes, _more_of, _prepare_data),
    Rule("useless class", reasons.weak_class, _look_at_class, _report),
    Rule(
        "few videos",
        reasons.few_videos,
        "add videos; until then, start the classifier from class means",
        _class_means,
    ),
    # The clips miss something.
    Rule("short clips", reasons.short_clips, "spread the frames over the video", _cover_more),
    Rule(
        "long gaps", reasons.long_gaps, "take frames closer together, in more views", _narrower_gaps
    ),
    # Training stopped too early, or too late.
    Rule("too few epochs", reasons.still_learning, "train for more epochs", _more_epochs),
    Rule(
        "few validation videos",
        reasons.few_validation_videos,
        "measure on every video in turn",
        _folds,
    ),
    Rule(
        "overfitting",
        reasons.overfits,
        "regularise, with fewer adapters and epochs",
        _regularise,
    ),
    Rule("underfitting", reasons.learns_little, "let training change more", _fit_more),
    Rule("uncertain result", reasons.uncertain, "measure on every video in turn", _folds),
)
"""What can limit a result, in the order of its weight: what makes later rules unreliable first."""

IDEAS: tuple[Rule, ...] = (
    Rule(
        "one frame is enough",
        reasons.one_frame_is_enough,
        lambda facts: (
            "use a stronger image model"
            if reasons.could_be_better(facts)
            else "use fewer frames, which is cheaper"
        ),
        _cheaper_or_better,
    ),
    Rule(
        "few frames",
        reasons.needs_order,
        "show motion in more frames",
        lambda facts: _again(facts, frames=2 * facts.config.frames),
    ),
    Rule(
        "small pictures",
        reasons.small_pictures,
        "use larger clips",
        lambda facts: _again(facts, size=224),
    ),
    Rule("image model", reasons.could_be_better, "use a stronger image model", _better_model),
    Rule(
        "nothing",
        reasons.looks_good,
        "measure on videos from elsewhere before you rely on it",
        lambda facts: _command("evaluate", facts.folder, "NEW_VIDEOS"),
    ),
)
"""What may improve a result without a visible fault."""

_ONLY_ALONE = (reasons.could_be_better, reasons.looks_good)
"""Reasons that apply only without any other."""
