"""Frames of a video by number: decodes what must be, converts and scales only what is asked for."""

import bisect
import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8
from torch import Tensor

from st_adapter.data.pictures import list_pictures
from st_adapter.data.shard_samples import find
from st_adapter.data.shards import Place, read_bytes
from st_adapter.data.video_info import PICTURES_PER_SECOND, VideoInfo
from st_adapter.errors import UnreachableError, VideoError

_FORMATS = (
    "mov,matroska,avi,asf,flv,gif,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,ogg,mxf,nut,dv,"
    "jpeg_pipe,png_pipe,bmp_pipe,webp_pipe,mp3,aac,wav,flac"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
"""A file must not make FFmpeg open others, as playlists would, nor the network."""


_SKIPS_FRAMES = frozenset(("h264", "hevc", "mpeg4", "mpeg2video"))
"""Decoders that leave out a frame which no other refers to without a trace in the others."""

_STAMPED_FORMATS = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"))
"""Formats that state when each frame is shown; in others, FFmpeg guesses from the order."""

_SEEK_FRAMES = 12
"""Decoding so many frames takes as long as a seek, which starts the decoder anew."""

_MOST_THREADS = 4

_FULL_TURN = 360
"""Degrees; some files say nonsense."""

_DIGESTED_BYTES = 65536

_USUAL_RATE, _HIGHEST_RATE = Fraction(25), Fraction(1000)
"""Frames a second where a file does not say, and the most that is believed."""


Probe = Callable[[Path], VideoInfo]
"""From the path of a video to what its packets say."""

ByTime = Callable[[Path, Sequence[int], VideoInfo, int | None], dict[int, Tensor]]
"""From path, frame numbers, what is known and short side to frames [h, w, 3]; fewer if lost."""


def probe(path: Path, place: Place | None = None) -> VideoInfo:
    """Read number, times and key frames of the first video stream from its packets.

    Args:
        place: where its bytes lie, if that is known, for a video in a shard.

    Raises:
        VideoError: the file is missing, empty, unreadable or holds no video.
    """
    if path.is_dir():
        return _probe_pictures(path)
    packets: list[tuple[int | None, bool]] = []
    first: VideoFrame | None = None
    place = place or find(path)
    with _open(path, place) as container:
        stream = container.streams.video[0]
        for packet in _packets(container):
            if packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.is_keyframe))
            first = first or _first_frame(packet)
        time_base = Fraction(stream.time_base or 1)
        rate = Fraction(stream.average_rate or stream.guessed_rate or _USUAL_RATE)
        stamped = container.format.name in _STAMPED_FORMATS
        digest = _digest(path, place)
    if not packets:
        raise VideoError(f"{path}: the video stream holds no frame")
    stamps = {pts for pts, _ in packets if pts is not None}
    if len(stamps) < len(packets):  # trust the frame rate
        packets = [(i, key) for i, (_, key) in enumerate(packets)]
        time_base = 1 / (rate if rate <= _HIGHEST_RATE else _USUAL_RATE)
        stamped = False
    packets.sort()
    return VideoInfo(
        path=path,
        pts=np.array([pts for pts, _ in packets], dtype=np.int64),
        time_base=time_base,
        keys=np.array([i for i, p in enumerate(packets) if p[1]], dtype=np.int64),
        stamped=stamped,
        width=stream.width,
        height=stream.height,
        rotation=first.rotation if first and abs(first.rotation) <= _FULL_TURN else 0,
        codec=stream.codec_context.name,
        digest=digest,
        place=place,
    )


def read_frames(
    path: Path,
    indices: Sequence[int],
    short_side: int | None = None,
    info: VideoInfo | None = None,
    by_time: ByTime | None = None,
) -> UInt8[Tensor, "t 3 h w"]:
    """Return the frames with these numbers, RGB, upright, in the order asked for.

    Frame i is the i-th that the decoder puts out. A number may repeat. In memory, channels are
    last, as decoders write them and as resizing is fastest.

    Args:
        path: the video.
        indices: frame numbers, from 0.
        short_side: scale so that the shorter side has this many pixels, bicubic; None keeps it.
        info: what `probe` says of the video; with it only what must be is decoded.
        by_time: another decoder for files that state the time of each frame.

    Raises:
        VideoError: unreadable, or it ends before the last frame asked for. The error's
            `num_decoded` then tells how many frames there are.
    """
    wanted = sorted(set(indices))
    found: dict[int, Tensor] = {}
    if path.is_dir():
        found = _read_pictures(path, wanted, _ToRgb(short_side))
    elif info is not None and info.stamped and wanted[-1] < info.num_frames:
        found = (by_time or _read_by_time)(path, wanted, info, short_side)
    if len(found) < len(wanted):  # damaged, or frames that no packet tells of: count them
        place = info.place if info else None
        found, count = _read_by_count(path, wanted, _ToRgb(short_side), place)
        if len(found) < len(wanted):
            raise TruncatedError(path, count)
    return torch.stack([found[i] for i in indices]).permute(0, 3, 1, 2)


def _probe_pictures(folder: Path) -> VideoInfo:
    """As of a video whose every frame is a key frame."""
    files = list_pictures(folder)
    with _open(files[0]) as container:
        stream = container.streams.video[0]
        size, codec = (stream.width, stream.height), stream.codec_context.name
        some = [_digest(files[i]) for i in (0, len(files) // 2, -1)]
    numbers = np.arange(len(files))
    return VideoInfo(
        path=folder,
        pts=numbers,
        time_base=Fraction(1, PICTURES_PER_SECOND),
        keys=numbers,
        stamped=False,
        width=size[0],
        height=size[1],
        rotation=0,
        codec=codec,
        digest=sha256(f"{len(files)} {some}".encode()).hexdigest()[:32],
    )


def _read_pictures(folder: Path, wanted: Sequence[int], to_rgb: "_ToRgb") -> dict[int, Tensor]:
    files = list_pictures(folder)
    if wanted[-1] >= len(files):
        raise TruncatedError(folder, len(files))
    found: dict[int, Tensor] = {}
    for number in wanted:
        with _open(files[number]) as container:
            frame = next(_decode(container), None)
        if frame is None:
            raise VideoError(f"{files[number]}: no picture in it")
        found[number] = to_rgb(frame)
    return found


def plan_seeks(wanted: Sequence[int], keys: Sequence[int]) -> list[tuple[int | None, list[int]]]:
    """Group frame numbers, both ascending, into runs: (key frame to seek to or None, frames).

    >>> plan_seeks([3, 40, 45, 300], keys=[0, 30, 60, 90, 290])
    [(None, [3]), (30, [40, 45]), (290, [300])]
    """
    runs: list[tuple[int | None, list[int]]] = []
    position = 0  # the frame that decoding has come to
    for number in wanted:
        before = bisect.bisect_right(keys, number)
        key = int(keys[before - 1]) if before else 0
        if key > position + _SEEK_FRAMES:
            runs.append((key, [number]))
        elif runs:
            runs[-1][1].append(number)
        else:
            runs.append((None, [number]))
        position = number
    return runs


def _read_by_time(
    path: Path, wanted: Sequence[int], info: VideoInfo, short_side: int | None
) -> dict[int, Tensor]:
    """Frames known by their time stamps, from the nearest key frames; fewer where one is lost."""
    found: dict[int, Tensor] = {}
    to_rgb = _ToRgb(short_side)
    threads = min(torch.get_num_threads(), _MOST_THREADS)
    with _open(path, info.place, threads) as container:
        for key, numbers in plan_seeks(wanted, info.keys.tolist()):
            if key is not None:
                container.seek(int(info.pts[key]), stream=container.streams.video[0])
            number_of = {int(info.pts[i]): i for i in numbers}
            try:
                for stamp, frame in _decode_stamps(container, set(number_of)):
                    found[number_of[stamp]] = to_rgb(frame)
            except av.InvalidDataError:
                break
    return found


def _decode_stamps(container: InputContainer, stamps: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from here until all frames with these time stamps are out; skip what none needs."""
    stream = container.streams.video[0]
    skips = stream.codec_context.name in _SKIPS_FRAMES
    missing = set(stamps)
    for packet in _packets(container):
        if skips:
            unwanted = packet.size and packet.pts not in stamps
            stream.codec_context.skip_frame = "NONREF" if unwanted else "DEFAULT"
        for frame in packet.decode():
            if frame.pts in missing:
                missing.remove(frame.pts)
                yield frame.pts, frame
        if not missing:
            return


def _read_by_count(
    path: Path, wanted: Sequence[int], to_rgb: "_ToRgb", place: Place | None
) -> tuple[dict[int, Tensor], int]:
    """Frames known by counting all that the decoder puts out, and how many it put out."""
    numbers = set(wanted)
    found: dict[int, Tensor] = {}
    count = 0
    with _open(path, place) as container:
        for count, frame in enumerate(_decode(container), start=1):
            if count - 1 in numbers:
                found[count - 1] = to_rgb(frame)
            if len(found) == len(numbers):
                break
    return found, count


def count_frames(path: Path) -> int:
    """Decode a video to its end; how many frames come out.

    Raises:
        VideoError: none, or it cannot be read.
    """
    if path.is_dir():
        return sum(count_frames(file) for file in list_pictures(path))
    with _open(path) as container:
        return sum(1 for _ in _decode(container))


class TruncatedError(VideoError):
    """A video that has fewer frames than its packets promise."""

    def __init__(self, path: Path, num_decoded: int) -> None:
        super().__init__(f"{path}: only {num_decoded} frames can be decoded")
        self.num_decoded = num_decoded


@contextmanager
def _open(path: Path, place: Place | None = None, threads: int = 1) -> Iterator[InputContainer]:
    """Open a file that has a video stream; FFmpeg's errors come out as VideoError."""
    try:
        source = _source(path, place)
        with av.open(source, "r", options=_OPTIONS, metadata_errors="replace") as container:
            if not container.streams.video:
                raise VideoError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            stream.thread_count = threads
            stream.thread_type = "AUTO"
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        of_system = (error.errno or 0) in errno.errorcode and error.errno != errno.EINVAL
        kind = UnreachableError if of_system else VideoError
        raise kind(f"{path}: cannot be decoded: {reason}") from None


def _source(path: Path, place: Place | None) -> str | BytesIO:
    """What FFmpeg opens: a file by its name, a video in a shard by its bytes."""
    place = place or find(path)
    if place is not None:
        data = read_bytes(place)
        if not data:
            raise VideoError(f"{path}: the file is empty")
        return BytesIO(data)
    if not path.is_file():
        what = "a folder, not a video" if path.is_dir() else "no such file"
        raise VideoError(f"{path}: {what}")
    if not path.stat().st_size:
        raise VideoError(f"{path}: the file is empty")
    return str(path)


def _packets(container: InputContainer) -> Iterator[av.Packet]:  # type: ignore[type-arg]
    """The packets of the first video stream."""
    try:
        yield from container.demux(container.streams.video[0])
    except IndexError:  # at the end PyAV stumbles over a stream that began in the middle
        return


def _first_frame(packet: av.Packet) -> VideoFrame | None:  # type: ignore[type-arg]
    """The first picture that a packet yields; None where it yields none or is damaged."""
    try:
        return next(iter(packet.decode()), None)
    except av.InvalidDataError:
        return None


def _digest(path: Path, place: Place | None = None) -> str:
    whole = place or Place(str(path), 0, path.stat().st_size)
    length = whole.num_bytes
    sha = sha256(str(length).encode())
    for start in (0, length // 2, max(0, length - _DIGESTED_BYTES)):
        count = min(_DIGESTED_BYTES, length - start)
        sha.update(read_bytes(Place(whole.shard, whole.first_byte + start, count)))
    return sha.hexdigest()[:32]


def _decode(container: InputContainer) -> Iterator[VideoFrame]:
    """Yield what can be decoded; a damaged packet costs its own frames, not those after it."""
    failed = None
    count = 0
    for packet in _packets(container):
        try:
            for frame in packet.decode():
                count += 1
                yield frame
        except av.InvalidDataError as error:
            failed = error
    if failed is not None and not count:
        raise failed


class _ToRgb:
    """Converts and scales frames of one video in one pass, and turns them upright."""

    def __init__(self, short_side: int | None) -> None:
        self.short_side = short_side
        self.size: tuple[int, int] | None = None  # that of the first frame holds for all
        self.scaler = VideoReformatter()  # keeps its tables from frame to frame

    def __call__(self, frame: VideoFrame) -> UInt8[Tensor, "h w 3"]:
        self.size = self.size or scaled_size(frame.width, frame.height, self.short_side)
        scaled = self.scaler.reformat(
            frame,
            width=self.size[0],
            height=self.size[1],
            format="rgb24",
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        quarter_turns, rest = divmod(frame.rotation, 90)  # anticlockwise
        pixels = np.rot90(scaled.to_ndarray(), k=0 if rest else quarter_turns)
        return torch.from_numpy(np.ascontiguousarray(pixels))


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height, in pixels, with the shorter scaled to `short_side`."""
    if short_side is None:
        return width, height
    if width < height:
        return short_side, height * short_side // width
    return max(1, width * short_side // height), short_side
