"""Decoding of uploaded videos in child processes, which are limited, watched and replaced."""

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import prod
from multiprocessing import BufferTooShort, Pipe
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from st_adapter.config import ClipConfig
from st_adapter.data.timing import frame_rate
from st_adapter.data.video.decode import TruncatedError
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.reader import Reader
from st_adapter.errors import VideoError
from st_adapter.serving.deadlines import Deadline
from st_adapter.serving.decoder_child import MESSAGE_BYTES
from st_adapter.serving.limits import Limits
from st_adapter.serving.refusals import Refusal


class _LostError(Exception):
    """A decoder has ended, or what it sent has not the agreed form."""


@contextmanager
def _agreed() -> Iterator[None]:
    """Turn whatever can go wrong with a message of a decoder into `_LostError`."""
    try:
        yield
    except (EOFError, OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise _LostError from error
    except (BufferTooShort, RecursionError) as error:
        raise _LostError from error


_MOST_FRAMES = 2**24
"""Frames of which a decoder may tell, whatever the limits are."""

_MOST_STRETCHED = 32
"""Largest ratio of the sides of a picture; scaled to a short side, longer ones would fill memory.

A frame can be up to four times as long, because pixels need not be square.
"""


class Decoder:
    """One child process. It decodes for one request at a time.

    What it sends is not trusted: messages have a largest length, arrays the length that was agreed.

    Args:
        limits: Limits of the process.
    """

    def __init__(self, limits: Limits) -> None:
        self._pipe, theirs = Pipe()
        # -P: a file of the working directory must not take the place of a module.
        module = [sys.executable, "-P", "-m", "st_adapter.serving.decoder_child"]
        self.process = subprocess.Popen(
            [*module, str(theirs.fileno()), str(limits.decoder_megabytes)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the server, which lets it finish
        )
        theirs.close()
        self.is_idle = True

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self.process.kill()
        self.process.wait()
        self._pipe.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer, which bytes may follow.

        Raises:
            VideoError: The child cannot read the video.
            _LostError: The child has ended.
        """
        self.is_idle = False
        with _agreed():
            self._pipe.send_bytes(json.dumps(request).encode())
        return self.next_message()

    def next_message(self) -> dict[str, Any]:
        """Return the next message of the child; raises as `ask` does."""
        with _agreed():
            answer: dict[str, Any] = dict(json.loads(self._pipe.recv_bytes(MESSAGE_BYTES)))
            if "error" not in answer:
                return answer
            text, num_decoded = str(answer["error"]), int(answer.get("num_decoded", -1))
        self.is_idle = True
        raise (
            VideoError(text) if num_decoded < 0 else TruncatedError(Path("the video"), num_decoded)
        )

    def next_array(self, shape: Sequence[int], dtype: str = "u1") -> ndarray:
        """Return an array whose bytes the child sends next."""
        with _agreed():
            data = bytearray(prod(shape) * np.dtype(dtype).itemsize)
            if self._pipe.recv_bytes_into(data) != len(data):
                raise EOFError
        return np.frombuffer(data, dtype).reshape(shape)


class DecoderPool:
    """A few decoders, of which each request borrows one.

    Args:
        limits: Limits of requests and processes.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all = {Decoder(limits) for _ in range(limits.decoders)}
        self._free: queue.LifoQueue[Decoder] = queue.LifoQueue()
        for decoder in self._all:
            self._free.put(decoder)
        self._closed = False
        self._lock = threading.Lock()

    def pids(self) -> list[int]:
        """Return the numbers of the processes."""
        with self._lock:
            return [decoder.process.pid for decoder in self._all]

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
            for decoder in self._all:
                decoder.end()

    @contextmanager
    def open(self, path: Path, deadline: Deadline) -> Iterator["OpenVideo"]:
        """Wait for a free decoder and let it open a video.

        Args:
            path: The video.
            deadline: When the decoder is killed if the block has not ended.

        Raises:
            VideoError: The video cannot be read.
            Refusal: The video is larger than allowed (413, 422), there was not enough time (504),
                or the decoder was ended by the file (422) or by someone else (503).
        """
        decoder = self._borrow(deadline)
        try:
            with _killed_at(deadline, decoder):
                video = OpenVideo(path, decoder, deadline.left())
                video.check(self._limits)
                yield video
        except _LostError as error:
            raise self._explain(decoder, deadline) from error
        finally:
            self._give_back(decoder)

    def _borrow(self, deadline: Deadline) -> Decoder:
        while True:
            try:
                decoder = self._free.get(timeout=deadline.left())
            except queue.Empty:
                raise deadline.refusal() from None
            if decoder.process.poll() is None:
                return decoder
            if not self._replace(decoder):
                raise Refusal(503, "the server cannot start a decoder now; try again", 5)

    def _give_back(self, decoder: Decoder) -> None:
        if decoder.is_idle and decoder.process.poll() is None:
            self._free.put(decoder)
        else:
            self._replace(decoder)

    def _replace(self, decoder: Decoder) -> bool:
        """End a decoder and start another; return whether that was possible."""
        decoder.end()
        new = None
        with self._lock, suppress(OSError):  # no memory or descriptors are free just now
            if not self._closed:
                new = Decoder(self._limits)
                self._all.add(new)
                self._all.remove(decoder)
        # One that has ended keeps its place, so that whoever borrows it tries again.
        self._free.put(new or decoder)
        return new is not None

    def _explain(self, decoder: Decoder, deadline: Deadline) -> Refusal:
        """Say why a decoder did not answer."""
        if deadline.is_over():
            return deadline.refusal()
        with suppress(subprocess.TimeoutExpired):
            decoder.process.wait(timeout=1)
        code = decoder.process.returncode
        if code is None:
            return Refusal(422, "the decoder failed on this video")
        if code == -signal.SIGXCPU:
            return Refusal(422, "decoding this video takes too long")
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            return Refusal(503, "the decoder was killed; try again", retry_seconds=1)
        return Refusal(422, f"the decoder crashed on this video (code {code})")


@contextmanager
def _killed_at(deadline: Deadline, decoder: Decoder) -> Iterator[None]:
    """Kill a decoder if the block has not ended by the deadline."""
    watchdog = threading.Timer(deadline.left(), decoder.process.kill)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        watchdog.join()


class OpenVideo:
    """A video that a decoder has opened.

    Args:
        path: The video.
        decoder: The decoder, which is idle.
        cpu_seconds: CPU time that it may take for this video.

    Attributes:
        info: Description of the video.
        seconds: Length of the video, up to the end of its last frame.
    """

    def __init__(self, path: Path, decoder: Decoder, cpu_seconds: float) -> None:
        self._decoder, self._path = decoder, path
        answer = decoder.ask(ask="open", path=str(path), cpu_seconds=cpu_seconds)
        with _agreed():
            count = int(answer["num_frames"])
            if not 0 < count < _MOST_FRAMES:
                raise ValueError(f"{count} frames")
            pts = decoder.next_array([count], "<i8")
            decoder.is_idle = True
            self.info = VideoInfo(
                path=path,
                pts=pts,
                time_base=Fraction(*map(int, answer["time_base"])),
                keys=np.zeros(0, np.int64),  # only the decoder seeks
                stamped=bool(answer["stamped"]),
                width=int(answer["width"]),
                height=int(answer["height"]),
                rotation=int(answer["rotation"]),
                digest="",
                mirrored=bool(answer["mirrored"]),
                pixel_aspect=Fraction(*map(int, answer["pixel_aspect"])),
            )
            self.seconds = float(self.info.start_seconds[-1]) + 1 / frame_rate(self.info)

    def reader(self) -> Reader:
        """Return a reader of this video for functions that decode by themselves."""
        return _ChildReader(probe=lambda path: self.info, video=self)

    def check(self, limits: Limits) -> None:
        """Raise Refusal if the video is longer or larger than allowed."""
        info = self.info
        if info.width * info.height > limits.max_pixels:
            raise Refusal(
                413,
                f"pictures of {info.width} x {info.height} are larger than {limits.max_pixels:,} "
                "pixels, the limit here",
            )
        short, long = sorted((info.width, info.height))
        if long > _MOST_STRETCHED * short:
            raise Refusal(
                413,
                f"pictures of {info.width} x {info.height} are too narrow: one side can be at most "
                f"{_MOST_STRETCHED} times as long as the other",
            )
        if info.num_frames > limits.max_frames:
            raise Refusal(
                413,
                f"{info.num_frames:,} frames are more than {limits.max_frames:,}, the limit here",
            )
        if self.seconds > limits.max_seconds:
            raise Refusal(
                413,
                f"the video is {self.seconds:.1f} s long; the limit here is "
                f"{limits.max_seconds:g} s",
            )

    def views(self, clip: ClipConfig) -> tuple[UInt8[ndarray, "d t h w 3"], list[int]]:
        """Return the distinct test views of the video, and for each view its index among them."""
        answer = self._decoder.ask(ask="views", path=str(self._path), clip=asdict(clip))
        with _agreed():
            most, shape = prod(clip.views), [int(n) for n in answer["shape"]]
            clip_of = [int(i) for i in answer["clip_of"]]
            whole = [clip.frames, clip.size, clip.size, 3]
            if shape[1:] != whole or not 0 < shape[0] <= most or len(clip_of) != most:
                raise ValueError(f"{shape}")
            if not all(0 <= i < shape[0] for i in clip_of):
                raise ValueError(f"{clip_of}")
        pixels = self._decoder.next_array(shape)
        self._decoder.is_idle = True
        return pixels, clip_of

    def frames(
        self, numbers: Sequence[int], short_side: int, *, square_pixels: bool = False
    ) -> Iterator[tuple[int, UInt8[ndarray, "h w 3"]]]:
        """Yield frames with ascending numbers one by one.

        Raises:
            TruncatedError: The video ends before the last one.
        """
        answer = self._decoder.ask(
            ask="frames",
            path=str(self._path),
            numbers=[*numbers],
            short_side=short_side,
            square_pixels=square_pixels,
        )
        for place in range(len(numbers)):
            answer = answer if place == 0 else self._decoder.next_message()
            with _agreed():
                number = int(answer["number"])
                height, width, channels = (int(n) for n in answer["shape"])
                most = 4 * _MOST_STRETCHED * short_side**2
                if not 0 < height * width <= most or channels != 3:
                    raise ValueError(f"{answer['shape']}")
            frame = self._decoder.next_array([height, width, 3])
            self._decoder.is_idle = place == len(numbers) - 1
            yield number, frame


@dataclass(frozen=True, kw_only=True)
class _ChildReader(Reader):
    """Reads the frames of one video in a child process."""

    video: OpenVideo

    def stream_frames(
        self,
        path: Path,
        indices: Sequence[int],
        short_side: int | None,
        info: VideoInfo,
        square_pixels: bool = False,
    ) -> Iterator[tuple[int, UInt8[ndarray, "h w 3"]]]:
        assert short_side is not None
        return self.video.frames(indices, short_side, square_pixels=square_pixels)
