"""Labels of a live source, with the newest frames first when the model is too slow."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

import numpy as np

from st_adapter.common.remarks import note, say
from st_adapter.data.live.inbox import Inbox, LiveFrame
from st_adapter.data.live.reader import LiveReader
from st_adapter.data.live.sampler import FrameSampler
from st_adapter.data.live.source import LiveSource, LiveSourceError
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.stream import LiveScores, StreamScorer, check_seconds, start_scorer
from st_adapter.wording import setting

_WAITING_SECONDS = 0.5
"""Frames of this time may wait for the model. More would survive a longer pause of the machine, but
all of them would be older by then.
"""
_POLL_SECONDS = 0.2
"""How long to wait for frames before looking at the clock again."""

_SHORTEST_JUMP_SECONDS = 1.0
"""A gap between two frames that is not a jump in time, however short the window is."""


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """How a live source is watched.

    Attributes:
        window_seconds: How many seconds back a result looks; None for the median length of the
            training clips.
        step_seconds: Time from one result to the next, above 0; None for the distance of two frames
            that are looked at.
        one_pass: Run each frame through the backbone once, as `Predictor.stream` explains.
        limit_seconds: Stop this long after the first picture; None to go on.
        timeout_seconds: Longest wait for a connection, and then for each picture, above 0.
    """

    window_seconds: float | None = None
    step_seconds: float | None = None
    one_pass: bool = True
    limit_seconds: float | None = None
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        check_seconds("window", self.window_seconds)
        check_seconds("step", self.step_seconds)
        check_seconds("seconds", self.limit_seconds)
        check_seconds("timeout", self.timeout_seconds)


@dataclass(frozen=True, kw_only=True)
class LiveResult:
    """What is known of the newest frames.

    Attributes:
        labels: The labels with their scores. Their `seconds` count from the first frame of the
            connection, or after the last jump in time.
        arrived: When the newest frame arrived, by `time.monotonic`.
        dropped_frames: Number of sampled frames that were dropped so far, because the model was
            busy.
    """

    labels: LiveScores
    arrived: float
    dropped_frames: int

    @property
    def latency_seconds(self) -> float:
        """Time since the newest frame arrived."""
        return time.monotonic() - self.arrived

    @property
    def arrived_at(self) -> datetime:
        """When the newest frame arrived, in UTC."""
        return datetime.now(UTC) - timedelta(seconds=self.latency_seconds)


def watch(
    predictor: Predictor, source: LiveSource, options: WatchOptions = WatchOptions()
) -> Iterator[LiveResult]:
    """Label a live source until it ends.

    A thread reads the source all the time and keeps the few newest frames. If the model is slower
    than they come, the oldest of those that wait are dropped. A result is then of as many frames as
    before, which reach further back, and it is late by no more than one pass of the model over the
    frames that waited, or over a clip if not in one pass.

    A network stream or a camera that goes away is tried again, with growing pauses. What is known
    of its frames is then forgotten. The same goes for a source whose times jump.

    Args:
        predictor: The classifier.
        source: What to watch.
        options: How.

    Yields:
        Results, the first for the first frame. Until a window is full, they are those of fewer
        frames.

    Raises:
        ArgumentError: If the classifier does not record how long its training clips were and no
            window is given.
        VideoError: If the source cannot be opened, or no picture arrives in time.
        MemoryShortError: If the frames do not fit in memory.
    """
    clip, one_pass = predictor.clip, options.one_pass
    interval = _warm_up(predictor, options)
    window_seconds = interval * clip.frames
    waiting = max(2, round(_WAITING_SECONDS / interval))
    # Without one pass, a clip is scored at once, however many of its frames are new.
    inbox = Inbox(waiting if one_pass else max(waiting, clip.frames))
    reader = LiveReader(
        source,
        inbox,
        interval_seconds=interval,
        longest_gap_seconds=max(_SHORTEST_JUMP_SECONDS, window_seconds),
        short_side=clip.size,
        square_pixels=clip.square_pixels,
        timeout_seconds=options.timeout_seconds,
    )
    drops = _Drops(inbox, window_seconds, one_pass)
    with reader.running():
        for starts_anew, frames in _by_part(_take(inbox, reader, source, options)):
            if starts_anew:
                scorer, _ = _start(predictor, options)
                step = FrameSampler(options.step_seconds or interval)
            newest = frames[-1]
            scorer.push([frame.pixels for frame in frames])
            drops.warn_once(newest.seconds)
            if step.takes(newest.seconds):
                yield LiveResult(
                    labels=scorer.scores(newest.seconds),
                    arrived=newest.arrived,
                    dropped_frames=drops.count,
                )


def _start(predictor: Predictor, options: WatchOptions) -> tuple[StreamScorer, float]:
    return start_scorer(
        predictor.scorer,
        predictor.spec,
        predictor.clip,
        window=options.window_seconds,
        one_pass=options.one_pass,
    )


def _warm_up(predictor: Predictor, options: WatchOptions) -> float:
    """Score grey frames, because the first passes are slow; return the seconds between frames."""
    scorer, interval = _start(predictor, options)
    clip = predictor.clip
    grey = np.full((clip.size, clip.size, 3), 128, np.uint8)
    for count in (clip.frames, 1):
        scorer.push([grey] * count)
        scorer.scores(0.0)
    return interval


def _take(
    inbox: Inbox, reader: LiveReader, source: LiveSource, options: WatchOptions
) -> Iterator[list[LiveFrame]]:
    """Yield what has arrived, until no more follows or the time is over.

    The reader has limits of its own, after which it tries again. Here, one notices a driver or a
    name server that does not return to it. Nothing can interrupt those, but they may recover.

    Raises:
        LiveSourceError: If no picture arrives in time.
    """
    ends, is_first, said = float("inf"), True, False
    while (left := ends - time.monotonic()) > 0:
        frames = inbox.take(min(_POLL_SECONDS, left))
        if frames is None:
            return
        if frames:
            if is_first:
                ends = time.monotonic() + (options.limit_seconds or float("inf"))
            is_first = said = False
            yield frames
        elif not reader.hangs:
            said = False
        elif not said:
            reason = f"{source.shown}: no picture arrives, and the system does not answer"
            if is_first:
                raise LiveSourceError(reason, source.remedy)
            say(f"{reason}; still waiting; {source.remedy}")
            said = True


def _by_part(batches: Iterable[list[LiveFrame]]) -> Iterator[tuple[bool, list[LiveFrame]]]:
    """Split batches where another part begins, and tell where that is."""
    last = None
    for batch in batches:
        for part, frames in groupby(batch, key=lambda frame: frame.part):
            yield part != last, [*frames]
            last = part


class _Drops:
    """Counts dropped frames, and says once what helps.

    Drops in the first window of a connection are not mentioned: senders begin with a burst.
    """

    def __init__(self, inbox: Inbox, window_seconds: float, one_pass: bool) -> None:
        self._inbox, self._window_seconds, self._one_pass = inbox, window_seconds, one_pass
        self._noted = False
        self.count = 0

    def warn_once(self, seconds: float) -> None:
        """Update the count, and warn the first time it has grown.

        Args:
            seconds: Time of the newest frame.
        """
        before, self.count = self.count, self._inbox.dropped
        if self._noted or self.count == before or seconds <= self._window_seconds:
            return
        self._noted = True
        helps = [f"a smaller {setting('size')}", f"fewer {setting('frames')}"]
        if not self._one_pass:
            helps.append(f"a longer {setting('step')}")
        note(
            "the model is slower than the stream, so frames are dropped to keep labels current; "
            f"{', '.join(helps[:-1])} or {helps[-1]} helps"
        )
