"""A thread that reads a live source all the time, and connects again when it goes away."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from fractions import Fraction
from itertools import chain, count, repeat
from typing import cast

import av
from av.container import InputContainer
from av.video.frame import VideoFrame

from st_adapter.common.interrupt import NATIVE_THREAD
from st_adapter.common.remarks import say
from st_adapter.data.live.inbox import Inbox, LiveFrame
from st_adapter.data.live.sampler import FrameSampler, Pace
from st_adapter.data.live.source import LiveSource, LiveSourceError, open_source
from st_adapter.data.video.container import video_stream
from st_adapter.data.video.decode import FrameScaler
from st_adapter.wording import setting

_PAUSES = (1, 2, 4, 8, 16)
_LONGEST_PAUSE = 30
"""Seconds before a source that went away is tried again."""


class LiveReader:
    """Decodes a source in a thread of its own, and puts frames at even distances into an inbox.

    It decodes every frame, because those that are sampled need the others, but only scales those.

    Args:
        source: What to read.
        inbox: Takes the frames. It is closed when no more will follow, with an error if the first
            connection fails or brings no picture.
        interval_seconds: Time between two frames that are looked at.
        longest_gap_seconds: Frames further apart in time than this belong to different parts.
        short_side: Pixels on the shorter side of the frames.
        square_pixels: Stretch frames whose pixels are not square.
        timeout_seconds: Longest wait for a connection, and then for each picture.
    """

    def __init__(
        self,
        source: LiveSource,
        inbox: Inbox,
        *,
        interval_seconds: float,
        longest_gap_seconds: float,
        short_side: int,
        square_pixels: bool,
        timeout_seconds: float,
    ) -> None:
        self._source, self._inbox, self._timeout = source, inbox, timeout_seconds
        self._interval, self._longest_gap = interval_seconds, longest_gap_seconds
        self._short_side, self._square_pixels = short_side, square_pixels
        self._stop = threading.Event()
        self._num_pictures = 0
        self._parts = count(1)
        # A daemon, because FFmpeg may be waiting for a packet when the program ends. Its messages
        # name settings as those of the caller do, which the context tells.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name=NATIVE_THREAD, daemon=True
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the thread inside the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # shown by the thread that takes frames out
            self._inbox.close(error)
        else:
            self._inbox.close()

    def _follow(self) -> None:
        """Read one connection after the other."""
        pauses = _pauses()
        while not self._stop.is_set():
            before = self._num_pictures
            try:
                with open_source(self._source, self._timeout) as container:
                    ends = is_recording(self._source, container)
                    self._read(container, paced=ends or container.format.name == "hls")
                if ends:
                    return
                reason = f"{self._source.shown}: the stream ended"
            except LiveSourceError as error:
                if not self._num_pictures:
                    raise
                reason = error.reason
            if self._num_pictures > before:
                pauses = _pauses()
            pause = next(pauses)
            if not self._stop.is_set():
                say(f"{reason}; trying again in {pause} s")
            self._stop.wait(pause)

    def _read(self, container: InputContainer, paced: bool) -> None:
        """Read until the stream ends or is stopped."""
        pace = Pace(self._stop) if paced else None
        aspect = Fraction(1)
        if self._square_pixels:
            aspect = video_stream(container).sample_aspect_ratio or aspect
        taker = _Taker(self._parts, self._interval, self._longest_gap, self._short_side, aspect)
        start = time.monotonic()
        for frame, arrived in self._pictures(container):
            seconds = arrived - start if frame.time is None else frame.time
            live = taker.take(frame, seconds, arrived, pace)
            self._num_pictures += 1
            if self._stop.is_set():
                return
            if live is not None:
                self._inbox.put(live)
        if not self._num_pictures:
            reason = f"{self._source.shown}: ended before a picture could be decoded"
            raise LiveSourceError(reason, "check what the source sends")

    def _pictures(self, container: InputContainer) -> Iterator[tuple[VideoFrame, float]]:
        """Yield pictures with the time when they arrived.

        Raises:
            LiveSourceError: If packets arrive for too long of which none gives a picture.
        """
        last = time.monotonic()
        for frames, arrived in _decode(container):
            for frame in frames:
                yield frame, arrived if frame.opaque is None else cast(float, frame.opaque)
            if frames:
                last = time.monotonic()
            elif arrived - last > self._timeout:
                raise LiveSourceError(
                    f"{self._source.shown}: no picture could be decoded for {self._timeout:g} s",
                    "let the sender send a key frame every second or two, or wait longer with "
                    f"{setting('timeout')}",
                )


class _Taker:
    """Takes frames of one connection at even distances in time, scales them, and numbers parts."""

    def __init__(
        self,
        parts: Iterator[int],
        interval_seconds: float,
        longest_gap_seconds: float,
        short_side: int,
        pixel_aspect: Fraction,
    ) -> None:
        self._parts = parts
        self._interval, self._longest_gap = interval_seconds, longest_gap_seconds
        self._short_side, self._pixel_aspect = short_side, pixel_aspect
        self._begin()
        self._size: tuple[int, int] | None = None
        self._start = self._last = 0.0

    def _begin(self) -> None:
        self._part = next(self._parts)
        self._scaler = FrameScaler(self._short_side, self._pixel_aspect)
        self._sampler = FrameSampler(self._interval)

    def take(
        self, frame: VideoFrame, seconds: float, arrived: float, pace: Pace | None
    ) -> LiveFrame | None:
        """Return the scaled frame, or None if it comes too early after the one before."""
        size = frame.width, frame.height
        jumped = not -self._interval <= seconds - self._last <= self._longest_gap
        if self._size is None or (jumped and pace is None):
            self._start = seconds
        if self._size is not None and (jumped or size != self._size):
            self._begin()
        self._size, self._last = size, seconds
        since_start = seconds - self._start
        if pace is not None:
            pace.wait(since_start)
            arrived = time.monotonic()
        if not self._sampler.takes(since_start):
            return None
        return LiveFrame(
            pixels=self._scaler(frame), seconds=since_start, arrived=arrived, part=self._part
        )


def is_recording(source: LiveSource, container: InputContainer) -> bool:
    """Return whether a source has an end and is read at any speed: a file, here or on the web."""
    if source.kind == "file" or not source.url.startswith("http"):
        return source.kind == "file"
    # A live playlist has a size as well, namely that of the text.
    has_size = container.format.name != "hls" and container.size > 0
    return has_size or (container.duration or 0) > 0


def _decode(container: InputContainer) -> Iterator[tuple[list[VideoFrame], float]]:
    """Yield the frames of each packet, and when the packet arrived. Damaged packets give none.

    Packets of sound are read too, so that one notices if they are all that comes.
    """
    stream = video_stream(container)
    stream.thread_type = "SLICE"  # threads that work on several frames would delay each of them
    stream.codec_context.copy_opaque = True  # a frame then tells when its own packet arrived
    try:
        for packet in container.demux():
            arrived = time.monotonic()
            frames: list[VideoFrame] = []
            if packet.stream_index == stream.index:
                packet.opaque = arrived
                with suppress(av.FFmpegError):
                    frames = cast(list[VideoFrame], packet.decode())
            yield frames, arrived
    except IndexError:  # PyAV raises it at the end of a stream that announced more than it sent
        return


def _pauses() -> Iterator[int]:
    return chain(_PAUSES, repeat(_LONGEST_PAUSE))
