"""Labels of a live source, with the newest frames first when the model is too slow."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

import torch

from st_adapter.common.remarks import note
from st_adapter.config import ClipConfig
from st_adapter.data.live.inbox import Inbox, LiveFrame
from st_adapter.data.live.reader import LiveReader
from st_adapter.data.live.sampler import FrameSampler
from st_adapter.data.live.source import LiveSource, LiveSourceError
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.stream import LiveScores, StreamScorer
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
        for name in ("window", "step", "limit", "timeout"):
            value = getattr(self, f"{name}_seconds")
            if value is not None and not 0 < value < float("inf"):
                flag = setting("seconds" if name == "limit" else name)
                raise ArgumentError(f"{flag} must be a number of seconds above 0, not {value:g}")


@dataclass(frozen=True, kw_only=True)
class LiveResult:
    """The labels of the newest frames.

    Attributes:
        scores: The scores. Their `seconds` count from the first frame of the connection.
        arrived: When the newest frame arrived, by `time.monotonic`.
        dropped_frames: Number of sampled frames that were dropped so far, because the model was
            busy.
    """

    scores: LiveScores
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
    than they come, the oldest are dropped: each result is then of fewer frames, but never late by
    more than the time for those that waited.

    A network stream or a camera that goes away is tried again, with growing pauses. What is known
    of its frames is then forgotten.

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
    """
    start, one_pass = predictor.live_scorer, options.one_pass
    scorer, interval = start(options.window_seconds, one_pass=one_pass)
    clip, window_seconds = predictor.clip, interval * predictor.clip.frames
    _warm_up(scorer, clip)
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
    drops, part = _Drops(inbox, window_seconds, one_pass), 0
    step = FrameSampler(interval)
    with reader.running():
        for frames in _continuous(_take(inbox, source, options)):
            newest = frames[-1]
            if newest.part != part:
                part, step = newest.part, FrameSampler(options.step_seconds or interval)
                scorer, _ = start(options.window_seconds, one_pass=one_pass)
            scorer.push([frame.pixels for frame in frames])
            drops.look(newest.seconds)
            if step.takes(newest.seconds):
                yield LiveResult(
                    scores=scorer.scores(newest.seconds),
                    arrived=newest.arrived,
                    dropped_frames=drops.count,
                )


def _warm_up(scorer: StreamScorer, clip: ClipConfig) -> None:
    """Score grey frames with a scorer that is then thrown away: the first passes are slow."""
    grey = torch.full((clip.size, clip.size, 3), 128, dtype=torch.uint8)
    for count in (clip.frames, 1):
        scorer.push([grey] * count)
        scorer.scores(0.0)


def _take(inbox: Inbox, source: LiveSource, options: WatchOptions) -> Iterator[list[LiveFrame]]:
    """Yield what has arrived, until no more follows or the time is over.

    Raises:
        LiveSourceError: If there is no picture in time.
    """
    first = _first_frames(inbox, source, 2 * options.timeout_seconds + 1)
    ends = time.monotonic() + (options.limit_seconds or float("inf"))
    frames: list[LiveFrame] | None = first
    while frames is not None:
        if frames:
            yield frames
        left = ends - time.monotonic()
        if left <= 0:
            return
        frames = inbox.take(min(_POLL_SECONDS, left))


def _first_frames(
    inbox: Inbox, source: LiveSource, timeout_seconds: float
) -> list[LiveFrame] | None:
    """Wait for the first frames.

    The reader has limits of its own. This one is for a driver or a name server that hangs.
    """
    ends = time.monotonic() + timeout_seconds
    while time.monotonic() < ends:
        frames = inbox.take(_POLL_SECONDS)
        if frames is None or frames:
            return frames
    reason = f"{source.shown}: no picture arrived within {timeout_seconds:g} s"
    raise LiveSourceError(reason, source.remedy)


def _continuous(batches: Iterable[list[LiveFrame]]) -> Iterator[list[LiveFrame]]:
    """Split batches where frames do not continue those before."""
    for batch in batches:
        for _, frames in groupby(batch, key=lambda frame: frame.part):
            yield [*frames]


class _Drops:
    """Counts dropped frames, and says once what helps.

    Drops in the first window of a connection are not mentioned: senders begin with a burst.
    """

    def __init__(self, inbox: Inbox, window_seconds: float, one_pass: bool) -> None:
        self._inbox, self._window_seconds, self._one_pass = inbox, window_seconds, one_pass
        self._noted = False
        self.count = 0

    def look(self, seconds: float) -> None:
        """Look at the count when the newest frame is of this time."""
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
