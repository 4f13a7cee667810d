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
from st_adapter.data.live.inbox import Inbox
from st_adapter.data.live.pictures import PictureSampler
from st_adapter.data.live.sampler import Pace
from st_adapter.data.live.source import LiveSource, LiveSourceError, open_source
from st_adapter.data.video.container import video_stream
from st_adapter.wording import setting

_PAUSES = (1, 2, 4, 8, 16)
_LONGEST_PAUSE = 30
"""Seconds before a source that went away is tried again."""

_WITHOUT_TIMES = ("mjpeg", "mpjpeg")
"""Formats that carry no times. FFmpeg makes some up, as if there were 25 pictures a second."""

_SLACK_SECONDS = 1.0
"""How much later than its limits the thread may be, on a busy machine."""


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
        self._responds_by = float("inf")
        self._parts = count(1)
        # A daemon, because FFmpeg may be waiting for a packet when the program ends. Its messages
        # name settings as those of the caller do, which the context tells.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name=NATIVE_THREAD, daemon=True
        )

    @property
    def hangs(self) -> bool:
        """Whether the thread is past all its limits, as inside a driver that does not return."""
        return time.monotonic() > self._responds_by

    def _respond_within(self, seconds: float) -> None:
        self._responds_by = time.monotonic() + seconds + _SLACK_SECONDS

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
        pauses = reconnection_pauses()
        while not self._stop.is_set():
            before = self._num_pictures
            self._respond_within(2 * self._timeout)  # to connect, and for the first packet
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
                pauses = reconnection_pauses()
            pause = next(pauses)
            self._respond_within(pause)
            if not self._stop.is_set():
                say(f"{reason}; trying again in {pause} s")
            self._stop.wait(pause)

    def _read(self, container: InputContainer, paced: bool) -> None:
        """Read until the stream ends or is stopped."""
        aspect = Fraction(1)
        if self._square_pixels:
            aspect = video_stream(container).sample_aspect_ratio or aspect
        sampler = PictureSampler(
            self._parts,
            interval_seconds=self._interval,
            longest_gap_seconds=self._longest_gap,
            short_side=self._short_side,
            pixel_aspect=aspect,
            pace=Pace(self._stop) if paced else None,
        )
        has_times = paced or container.format.name not in _WITHOUT_TIMES
        start = time.monotonic()
        for picture, arrived in self._pictures(container):
            seconds = picture.time if has_times else None
            seconds = arrived - start if seconds is None else seconds
            live = sampler.sample(picture, seconds, arrived)
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
            # A recording is also held back between two frames.
            self._respond_within(self._timeout + self._longest_gap)
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


def reconnection_pauses() -> Iterator[int]:
    """Yield the seconds to wait before each new try, for ever."""
    return chain(_PAUSES, repeat(_LONGEST_PAUSE))
