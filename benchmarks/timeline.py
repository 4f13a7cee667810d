"""Timelines of long videos: how right they are, by way, window and smoothing, and how fast.

    python scripts/make_long_videos.py LIST LONG
    python benchmarks/timeline.py RUN LONG [--windows 2,4] [--smooths 0,1,2] [--step 0.5]

Prints for each setting, over all videos: frame accuracy, the segmental F1 score at 10, 25 and 50 %
overlap and the edit score (Lea et al. 2017, arXiv 1611.05267), and the seconds it took. Then, for
windows that start at every sampled frame: how much faster one pass is, and in how many windows
both ways have the same top label.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import print_machine

import st_adapter
from st_adapter.common.progress import bar

OVERLAPS = (0.10, 0.25, 0.50)
RATE = 25


def main(given: argparse.Namespace) -> None:
    """Print a line for each setting, and the comparison of both ways."""
    print_machine("auto")
    truth = json.loads((given.long / "truth.json").read_text())
    predictor = st_adapter.Predictor(given.run, precision=given.precision)
    settings: list[dict[str, Any]] = []
    for window in given.windows or [None]:
        steps = {"window": window, "step": given.step}
        settings += [steps | {"one_pass": False, "smooth": 0.0}]
        settings += [steps | {"one_pass": True, "smooth": smooth} for smooth in given.smooths]
    print(f"{len(truth)} videos; window, step, way, smoothing: frames, F1 at 10/25/50, edit, time")
    for setting in settings:
        found, took = {}, 0.0
        with bar("videos", len(truth)) as progress:
            for name in truth:
                began = time.perf_counter()
                found[name] = predictor.timeline(given.long / name, **setting)
                took += time.perf_counter() - began
                progress.advance()
        print(describe(setting, next(iter(found.values()))), measure(found, truth), f"{took:.0f} s")
    compare_ways(predictor, [given.long / name for name in truth], given.windows or [None])


def describe(setting: dict[str, Any], timeline: st_adapter.Timeline) -> str:
    """Name a setting."""
    way = "one pass" if setting["one_pass"] else "windows "
    return (
        f"{timeline.window_seconds:5.2f} s {timeline.step_seconds:5.2f} s  {way}  "
        f"{setting['smooth']:.1f} s:"
    )


def measure(found: dict[str, st_adapter.Timeline], truth: dict[str, Any]) -> str:
    """Return all measures as text, in per cent."""
    right = total = 0
    edits = []
    counts = {overlap: np.zeros(3) for overlap in OVERLAPS}
    for name, timeline in found.items():
        spans = [(s.start_seconds, s.end_seconds, s.label) for s in timeline.spans]
        known = [(s["start_seconds"], s["end_seconds"], s["label"]) for s in truth[name]]
        times = (np.arange(int(known[-1][1] * RATE)) + 0.5) / RATE
        right += sum(a == b for a, b in zip(at(spans, times), at(known, times), strict=True))
        total += len(times)
        edits.append(edit_score([s[2] for s in spans], [s[2] for s in known]))
        for overlap in OVERLAPS:
            counts[overlap] += count_matches(spans, known, overlap)
    f1 = [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in counts.values()]
    shown = " / ".join(f"{100 * value:.1f}" for value in f1)
    return f"{100 * right / total:.1f}  {shown}  {100 * np.mean(edits):.1f}"


def at(spans: Sequence[tuple[float, float, str]], times: np.ndarray) -> list[str]:
    """Return the label at each time; "" where there is none."""
    labels = np.full(len(times), "", dtype=object)
    for start, end, label in spans:
        labels[(times >= start) & (times < end)] = label
    return [*labels]


def count_matches(
    spans: Sequence[tuple[float, float, str]],
    known: Sequence[tuple[float, float, str]],
    overlap: float,
) -> np.ndarray:
    """Return true positives, false positives and false negatives.

    A span is right if it overlaps a known one of its label, which no other has matched, by this
    fraction of their union.
    """
    used = set()
    for start, end, label in spans:
        best, best_overlap = None, 0.0
        for i, (a, b, other) in enumerate(known):
            shared = min(end, b) - max(start, a)
            union = max(end, b) - min(start, a)
            if other == label and shared / union > best_overlap:
                best, best_overlap = i, shared / union
        if best is not None and best_overlap >= overlap and best not in used:
            used.add(best)
    return np.array([len(used), len(spans) - len(used), len(known) - len(used)])


def edit_score(found: Sequence[str], known: Sequence[str]) -> float:
    """Return 1 minus the edit distance of two sequences of labels over the longer length."""
    distances = [*range(len(known) + 1)]
    for i, a in enumerate(found, start=1):
        last, distances[0] = distances[0], i
        for j, b in enumerate(known, start=1):
            change = last + (a != b)
            last = distances[j]
            distances[j] = min(change, distances[j] + 1, distances[j - 1] + 1)
    return 1 - distances[-1] / max(len(found), len(known))


def compare_ways(
    predictor: st_adapter.Predictor, videos: Sequence[Path], windows: Sequence[float | None]
) -> None:
    """Print how one pass compares with windows that start at every sampled frame."""
    for window in windows:
        seconds, same, total = np.zeros(2), 0, 0
        for video in videos:
            first = predictor.timeline(video, window=window, one_pass=True)
            step = first.window_seconds / predictor.clip.frames
            scores = []
            for i, one_pass in enumerate((True, False)):
                began = time.perf_counter()
                timeline = predictor.timeline(video, window=window, step=step, one_pass=one_pass)
                seconds[i] += time.perf_counter() - began
                scores.append(timeline.scores.argmax(1))
            count = min(map(len, scores))
            same += int((scores[0][:count] == scores[1][:count]).sum())
            total += count
        print(
            f"window {first.window_seconds:.2f} s, a window per sampled frame: one pass "
            f"{seconds[0]:.1f} s, windows {seconds[1]:.1f} s, {seconds[1] / seconds[0]:.2f} times; "
            f"same top label in {100 * same / total:.1f} % of {total}"
        )


def numbers(text: str) -> list[float]:
    """Read "0,1.5" as a list."""
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("long", type=Path)
    parser.add_argument("--windows", type=numbers, default=[])
    parser.add_argument("--smooths", type=numbers, default=[0.0, 1.0, 2.0])
    parser.add_argument("--step", type=float, default=0.5)
    parser.add_argument("--precision")
    main(parser.parse_args())
