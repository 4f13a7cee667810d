"""Timelines as the program makes them, with scores made up."""

from pathlib import Path

import numpy as np

from st_adapter import Span, Timeline
from st_adapter.evaluation.spans import runs_of_labels


def make_timeline(path, labels, seconds, *, step=1.0, change=5, rate=10.0, seed=0):
    """A timeline whose label changes about every `change` windows."""
    rng = np.random.default_rng(seed)
    starts = np.arange(max(1, int(seconds / step) - 1)) * step
    state = rng.integers(0, len(labels), len(starts) // change + 1).repeat(change)[: len(starts)]
    logits = rng.normal(size=(len(starts), len(labels)))
    logits[np.arange(len(starts)), state] += 4
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    edges = np.concatenate([[0.0], starts[1:] + step / 2, [seconds]]).round(3).tolist()
    spans = [
        Span(
            start_seconds=edges[first],
            end_seconds=edges[end],
            start_frame=round(edges[first] * rate),
            end_frame=round(edges[end] * rate),
            label=labels[label],
            score=float(scores[first:end, label].mean()),
        )
        for label, first, end in runs_of_labels([[i] for i in scores.argmax(1)], len(labels))
    ]
    return Timeline(
        path=Path(path),
        labels=tuple(labels),
        duration_seconds=seconds,
        frames_per_second=rate,
        window_seconds=2 * step,
        step_seconds=step,
        one_pass=False,
        window_starts=starts,
        window_ends=starts + 2 * step,
        scores=scores,
        spans=spans,
    )
