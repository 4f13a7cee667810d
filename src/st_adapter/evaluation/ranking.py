"""From the scores of one video to its labels, best first."""

from dataclasses import dataclass
from itertools import product

from jaxtyping import Float
from numpy import ndarray

from st_adapter.common.task import Task
from st_adapter.evaluation.decisions import predicted_classes
from st_adapter.model.spec import ModelSpec

_COMBINED = 20
"""Number of combinations to keep. With n classes per head, the n best combinations are always among
those of the n best classes of each head, so the other classes need not be looked at.
"""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The labels of one video, best first. `Prediction` describes them in detail.

    Attributes:
        predicted: The predicted label, or a list of them.
        scores: Pairs of label and score.
        heads: The pairs of each head, if there are several.
    """

    predicted: str | list[str]
    scores: list[tuple[str, float]]
    heads: dict[str, list[tuple[str, float]]]


def rank(scores: Float[ndarray, "1 classes"], spec: ModelSpec) -> Ranking:
    """Rank the labels of a video.

    Args:
        scores: Calibrated scores in 0..1.
        spec: The record of the classifier, with the threshold to use.
    """
    task, labels = spec.task, spec.labels
    pairs = list(zip(labels, scores[0].tolist(), strict=True))
    heads = {
        name: _ranked([(label.removeprefix(f"{name}/"), s) for label, s in pairs[own]])
        for name, own in (task.slices(len(pairs)) if task.heads else ())
    }
    names = [labels[i] for i in predicted_classes(scores, task, spec.threshold)[0]]
    if heads:
        best = _combinations(list(heads.values()))
    else:
        best = sorted(_ranked(pairs), key=lambda pair: pair[0] not in names)
    return Ranking(predicted=names[0] if task == Task() else names, scores=best, heads=heads)


def _ranked(pairs: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(pairs, key=lambda pair: -pair[1])


def _combinations(heads: list[list[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Return the most probable combinations of one class per head, best first."""
    best = [("", 1.0)]
    for ranked in heads:
        pairs = product(best, ranked[:_COMBINED])
        best = _ranked([(f"{a} {b}".strip(), p * q) for (a, p), (b, q) in pairs])[:_COMBINED]
    return best
