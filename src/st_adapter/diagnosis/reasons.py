"""Reasons to try something next. Each is a sentence with numbers, or None if it does not apply."""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from st_adapter.data.formats.listing import counted
from st_adapter.diagnosis.facts import RunFacts
from st_adapter.diagnosis.measures import interval_of, metric_of, right_and_total
from st_adapter.diagnosis.warnings import (
    not_above_guessing,
    order_is_ignored,
    overfitting,
    percent,
    shared_scenes,
    told_by_files,
    useless_classes,
    wide_interval,
)
from st_adapter.evaluation.metrics import METRICS

_GOOD = 0.9
"""Score from which a change of the model or of training is not worth proposing."""

_FEW = 12
"""Training videos per class below which more videos help more than anything else."""

_FEW_VALIDATION = 20
"""Validation videos below which a single one changes the result by more than 5 points."""

_UNEVEN = 5
"""How many times as many training videos as the smallest class the largest one must have."""

_ENOUGH_TO_LEARN = (20, 40, 50)
"""Training videos per class, validation videos, and optimizer steps after which an image model
with pretrained weights is better than guessing, if labels say what the videos show."""

_CONFUSED = 0.2
"""Share of the videos of two classes that must be taken for the other class."""

_SHORT_SPAN = 0.3
"""Share of a video that a clip must span for its place not to matter much."""

_LONG_GAP_SECONDS = 2.0
"""Time between two frames of a clip in which a short event goes unseen."""

_STILL_FALLING = 0.05
"""Decrease of both losses in the last epoch after which more epochs are likely to help."""

_SMALL_SIZE, _FEW_FRAMES = 160, 8

_OPPOSITES = (
    *("sit stand", "open close", "push pull", "up down", "in out", "enter leave", "enter exit"),
    *("approach recede", "come go", "load unload", "wrap unwrap", "fold unfold", "cover uncover"),
    *("pick put", "pick place", "lift drop", "raise lower", "start stop", "connect disconnect"),
    *("assemble disassemble", "plug unplug", "zip unzip", "lock unlock", "button unbutton"),
    *("fill empty", "expand shrink", "grow shrink", "throw catch", "forward backward", "on off"),
)
"""Words whose actions show each other when played backwards."""

_SIDES = ("left right", "clockwise counterclockwise", "clockwise anticlockwise")

_PAIRED = {word for pair in (*_OPPOSITES, *_SIDES) for word in pair.split()}
_ARTICLES = {"a", "an", "the"}


def diverged(facts: RunFacts) -> str | None:
    """The loss became NaN or infinite, or ended far above that of guessing."""
    if facts.left_out:
        return f"the loss was NaN or infinite in {counted(facts.left_out, 'step')} of {facts.steps}"
    losses = [epoch.train_loss for epoch in facts.epochs if epoch.train_loss is not None]
    guess = _loss_of_guessing(facts)
    if guess and losses and losses[-1] > 1.5 * max(guess, losses[0]):
        return (
            f"the training loss rose from {losses[0]:.2f} to {losses[-1]:.2f}; guessing gives "
            f"{guess:.2f}"
        )
    return None


def random_weights(facts: RunFacts) -> str | None:
    """The image model was not pretrained."""
    if facts.config.weights != "random":
        return None
    count = sum(facts.train_counts.values())
    videos = counted(count, "training video") if count else "the training videos"
    return f"the image model has random weights, and {videos} cannot replace pretraining"


def scenes(facts: RunFacts) -> str | None:
    """The validation part resembles the training part."""
    return shared_scenes(facts.videos) if facts.videos else None


def files(facts: RunFacts) -> str | None:
    """Facts about the files tell the classes apart."""
    return told_by_files(facts.videos) if facts.videos else None


def mirrored(facts: RunFacts) -> str | None:
    """Classes named left and right are confused, and clips are mirrored."""
    if not facts.config.flip or facts.config.mirror not in (None, "same"):
        return None
    return _confusion(facts, _SIDES)


def opposite_in_time(facts: RunFacts) -> str | None:
    """Classes that are each other's reversal are confused."""
    if facts.config.reversal is not None:
        return None
    return _confusion(facts, _OPPOSITES)


def opposite_classes(facts: RunFacts) -> tuple[str, str]:
    """Return the two classes that `opposite_in_time` is about."""
    return next(pair for pair, _, _ in _confused(facts, _OPPOSITES))


def _confusion(facts: RunFacts, opposites: Sequence[str]) -> str | None:
    for (a, b), wrong, total in _confused(facts, opposites):
        return f"{wrong} of {counted(total, 'video')} of {a} and {b} are taken for the other class"
    return None


def _confused(
    facts: RunFacts, opposites: Sequence[str]
) -> Iterator[tuple[tuple[str, str], int, int]]:
    """Yield pairs of classes, the videos taken for the other of the two, and all their videos."""
    totals = {label: total for label, (_, total) in right_and_total(facts.evaluation).items()}
    for (i, a), (j, b) in combinations(enumerate(totals), 2):
        confusion, total = facts.evaluation["confusion"], totals[a] + totals[b]
        wrong = confusion[i][j] + confusion[j][i]
        if total and wrong >= _CONFUSED * total and _are_opposite(a, b, opposites):
            yield (a, b), wrong, total


def _are_opposite(a: str, b: str, opposites: Sequence[str]) -> bool:
    pairs = [pair.split() for pair in opposites]
    return any(_differ_by(a, b, x, y) or _differ_by(b, a, x, y) for x, y in pairs)


def _differ_by(a: str, b: str, first: str, second: str) -> bool:
    """Whether two names differ in one pair of words, such as "Sit down" and "Stand up"."""
    has = [any(_is_form(w, word) for w in _words(name)) for name, word in ((a, first), (b, second))]
    return all(has) and _other_words(a) == _other_words(b)


def _other_words(name: str) -> set[str]:
    """Return the words of a name that have no opposite."""
    return {w for w in _words(name) if not any(_is_form(w, word) for word in _PAIRED)} - _ARTICLES


def _words(name: str) -> list[str]:
    """Split names such as "sit down", "SitDown" and "sit_down" into words."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]


def _is_form(text: str, word: str) -> bool:
    """Whether a text is a form of a word, such as "opens", "closing" or "sitting"."""
    return bool(re.fullmatch(rf"{word.removesuffix('e')}(e|{word[-1]})?(s|es|ed|ing)?", text))


def unlearnable_labels(facts: RunFacts) -> str | None:
    """Nothing was learnt, although there was enough to learn from."""
    videos, validation, steps = _ENOUGH_TO_LEARN
    score, guess = facts.score, facts.guess
    if score is None or guess is None or not facts.is_no_better_than_guessing:
        return None
    enough = (facts.median_train_count or 0) >= videos
    enough &= facts.evaluation["num_videos"] >= validation and facts.steps >= steps
    if not enough or score > guess + 0.1 * (1 - guess):
        return None
    found = facts.videos and facts.videos.scenes
    apart = ""
    if found and found.alike_apart:
        apart = (
            f"; {found.alike_apart} of {counted(found.alike, 'pair')} of training videos that look "
            "the same have different labels"
        )
    return (
        f"{METRICS[metric_of(facts.evaluation)]} is {percent(score)} and guessing reaches "
        f"{percent(guess)}, although there are {facts.median_train_count:.0f} training videos per "
        f"class{apart}"
    )


def few_videos(facts: RunFacts) -> str | None:
    """There are too few training videos per class."""
    count = facts.median_train_count
    if count is None or count >= _FEW or _is_good(facts):
        return None
    return f"there are only {counted(round(count), 'training video')} per class"


def uneven_classes(facts: RunFacts) -> str | None:
    """A class with few training videos does worse than the others."""
    counts, results = facts.train_counts, right_and_total(facts.evaluation)
    if not counts or not results:
        return None
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    right, total = results.get(least, (0, 0))
    others = [v for label, v in results.items() if label != least]
    accuracy = sum(r for r, _ in others) / max(1, sum(n for _, n in others))
    if counts[most] < _UNEVEN * counts[least] or not total or right / total > accuracy - 0.1:
        return None
    return (
        f"{least} has {counted(counts[least], 'training video')} and {most} has {counts[most]}; "
        f"{right} of {counted(total, 'video')} of {least} are right, and {percent(accuracy)} of "
        "the others"
    )


def weak_class(facts: RunFacts) -> str | None:
    """A class is hardly recognised."""
    return useless_classes(facts.evaluation)


def short_clips(facts: RunFacts) -> str | None:
    """A clip covers a small part of a video."""
    span, seconds = clip_seconds(facts), facts.videos and facts.videos.median_seconds
    views = facts.config.clip.views[0]
    if not span or not seconds or _is_good(facts) or span * views >= _SHORT_SPAN * seconds:
        return None
    return (
        f"a clip of {facts.config.frames} frames with stride {facts.config.stride} spans "
        f"{span:.1f} s of videos that are {seconds:.1f} s long"
    )


def clip_seconds(facts: RunFacts) -> float | None:
    """Return the time that a clip spans if its frames have a fixed distance."""
    rate = facts.videos and facts.videos.frames_per_second
    if not rate or not facts.config.stride:
        return None
    return (facts.config.frames - 1) * facts.config.stride / rate


def long_gaps(facts: RunFacts) -> str | None:
    """Frames spread over a long video are far apart."""
    seconds = facts.videos and facts.videos.median_seconds
    frames = facts.config.frames
    if facts.config.stride or not seconds or _is_good(facts):
        return None
    if seconds / frames < _LONG_GAP_SECONDS:
        return None
    return (
        f"{frames} frames are spread over videos of {seconds:.0f} s, one every "
        f"{seconds / frames:.1f} s, so that short events go unseen"
    )


def few_validation_videos(facts: RunFacts) -> str | None:
    """There are so few validation videos that neither accuracy nor loss can be acted on."""
    few = facts.evaluation.get("num_videos", 0) < _FEW_VALIDATION
    return wide_interval(facts.evaluation) if few and not facts.config.folds else None


def uncertain(facts: RunFacts) -> str | None:
    """The accuracy is too uncertain to compare it with that of another run."""
    if few_validation_videos(facts) or facts.config.folds:  # every video measures already
        return None
    return wide_interval(facts.evaluation)


def still_learning(facts: RunFacts) -> str | None:
    """Both losses still fall."""
    if len(facts.epochs) < 2 or _is_good(facts, 0.95):
        return None
    before, last = facts.epochs[-2:]
    losses = (before.train_loss, last.train_loss, before.val_loss, last.val_loss)
    if None in losses:
        return None
    a, b, c, d = (loss or 0.0 for loss in losses)
    if b > (1 - _STILL_FALLING) * a or d > (1 - _STILL_FALLING) * c:
        return None
    return (
        f"both losses still fell in the last of {len(facts.epochs)} epochs: training from {a:.2f} "
        f"to {b:.2f}, validation from {c:.2f} to {d:.2f}"
    )


def overfits(facts: RunFacts) -> str | None:
    """The model memorises the training videos."""
    text = overfitting(facts)
    if text is not None or not facts.epochs or _is_good(facts):
        return text
    last, guess = facts.epochs[-1], _loss_of_guessing(facts)
    if not guess or last.train_loss is None or last.val_loss is None:
        return None
    if last.train_loss > 0.2 * guess or last.val_loss < 3 * last.train_loss:
        return None
    return (
        f"the training loss is {last.train_loss:.2f} and the validation loss {last.val_loss:.2f} "
        f"after {counted(last.number, 'epoch')}"
    )


def learns_little(facts: RunFacts) -> str | None:
    """The training loss has settled at a high value."""
    losses = [epoch.train_loss for epoch in facts.epochs if epoch.train_loss is not None]
    guess = _loss_of_guessing(facts)
    if not guess or len(losses) < 3 or losses[-1] < 0.5 * guess or _is_good(facts):
        return None
    if losses[-1] < (1 - _STILL_FALLING) * losses[-2]:
        return None
    return (
        f"the training loss has settled at {losses[-1]:.2f} after {len(losses)} epochs; guessing "
        f"gives {guess:.2f}"
    )


def one_frame_is_enough(facts: RunFacts) -> str | None:
    """A single frame, or frames in any order, are as good as the clip."""
    score = facts.score
    one_frame = (facts.evaluation.get("baselines") or {}).get("one_frame")
    if score is not None and one_frame is not None and one_frame >= score - 0.01:
        return (
            f"a linear probe on one frame reaches {percent(one_frame)}, and this classifier "
            f"{percent(score)} with {facts.config.frames} frames"
        )
    temporal = facts.evaluation.get("temporal")
    if temporal and order_is_ignored(facts.evaluation):
        return (
            f"accuracy is {percent(temporal['in_order'])} with frames in order and "
            f"{percent(temporal['shuffled'])} with frames shuffled"
        )
    return None


def needs_order(facts: RunFacts) -> str | None:
    """The order of frames matters, and there are few of them."""
    temporal, frames = facts.evaluation.get("temporal"), facts.config.frames
    if not temporal or frames > _FEW_FRAMES or _is_good(facts):
        return None
    lost = temporal["in_order"] - temporal["shuffled"]
    if lost < 0.1:
        return None
    return f"shuffling the {frames} frames costs {100 * lost:.0f} points, so motion matters"


def small_pictures(facts: RunFacts) -> str | None:
    """Clips are small, and the result could be better."""
    size = facts.config.size
    if size > _SMALL_SIZE or _is_good(facts):
        return None
    return f"clips are {size} pixels wide and high, and small objects disappear at this size"


def could_be_better(facts: RunFacts) -> str | None:
    """Nothing stands out, but the result is not good."""
    score = facts.score
    if score is None or _is_good(facts):
        return None
    return (
        f"{METRICS[metric_of(facts.evaluation)]} is {percent(score)}, and nothing else stands out"
    )


def looks_good(facts: RunFacts) -> str | None:
    """There is nothing to mend."""
    interval, score = interval_of(facts.evaluation), facts.score
    if score is None or not _is_good(facts) or not_above_guessing(facts.evaluation):
        return None
    sure = f" ({percent(interval[0])} to {percent(interval[1])})" if interval else ""
    return f"{METRICS[metric_of(facts.evaluation)]} is {percent(score)}{sure}"


def _is_good(facts: RunFacts, least: float = _GOOD) -> bool:
    return facts.score is not None and facts.score >= least


def _loss_of_guessing(facts: RunFacts) -> float | None:
    """Return the cross-entropy of equal scores; None for several labels or heads."""
    counts = right_and_total(facts.evaluation) or facts.train_counts
    several = facts.evaluation.get("heads") or metric_of(facts.evaluation) != "top1"
    return math.log(len(counts)) if len(counts) > 1 and not several else None
