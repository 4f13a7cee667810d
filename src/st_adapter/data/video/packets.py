"""Probing of videos: reads number and times of frames without decoding them all."""

from collections.abc import Callable
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from st_adapter.data.archives.members import find
from st_adapter.data.archives.tar import Place, read_bytes
from st_adapter.data.video.container import decode_all, open_video, read_packets, video_stream
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.orientation import orientation_of
from st_adapter.data.video.picture_folders import list_pictures
from st_adapter.errors import VideoError

_STAMPED_FORMATS = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"))
"""Formats that state the time of each frame. For others, FFmpeg guesses it from the order."""

_FULL_TURN = 360
"""Largest plausible rotation in degrees; some files contain nonsense."""

_MOST_STRETCHED = 4
"""Largest plausible aspect ratio of pixels; beyond it, pixels are taken as square."""

_DIGESTED_BYTES = 65536
"""Size of each of the three pieces of a file that go into its digest."""

_USUAL_RATE, _HIGHEST_RATE = Fraction(25), Fraction(1000)
"""Frames per second if a file does not state them, and the highest plausible rate."""

Probe = Callable[[Path], VideoInfo]
"""Maps the path of a video to its description."""


def probe(path: Path, place: Place | None = None) -> VideoInfo:
    """Read the description of a video from its packets.

    Only the first frame is decoded, because packets do not contain the orientation.

    Args:
        path: A file, a folder of pictures, or a video in a shard.
        place: Position of a video in its shard, if it is known already.

    Raises:
        VideoError: If the file is missing, empty, unreadable or without a video.
    """
    if path.is_dir():
        return _probe_pictures(path)
    packets: list[tuple[int | None, bool]] = []
    first: VideoFrame | None = None
    place = place or find(path)
    with open_video(path, place) as container:
        stream = video_stream(container)
        codec = stream.codec_context.name
        for packet in read_packets(container):
            if _is_shown(packet, codec):
                packets.append((packet.pts, packet.is_keyframe))
            first = first or _first_frame(packet)  # packets do not contain the orientation
        time_base = Fraction(stream.time_base or 1)
        rate = Fraction(stream.average_rate or stream.guessed_rate or _USUAL_RATE)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        aspect = aspect if 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED else Fraction(1)
        # Read here, because the container frees its streams when it is closed.
        width, height = stream.width, stream.height
        stamped = container.format.name in _STAMPED_FORMATS
        digest = _digest(path, place)
    if not packets:
        raise VideoError(f"{path}: the video stream contains no frames")
    stamps = {pts for pts, _ in packets if pts is not None}
    if len(stamps) < len(packets):  # without all time stamps, rely on the frame rate
        packets = [(i, key) for i, (_, key) in enumerate(packets)]
        time_base = 1 / (rate if rate <= _HIGHEST_RATE else _USUAL_RATE)
        stamped = False
    packets.sort()  # from decoding order to display order
    return VideoInfo(
        path=path,
        pts=np.array([pts for pts, _ in packets], dtype=np.int64),
        time_base=time_base,
        keys=np.array([i for i, p in enumerate(packets) if p[1]], dtype=np.int64),
        stamped=stamped,
        width=width,
        height=height,
        rotation=first.rotation if first and abs(first.rotation) <= _FULL_TURN else 0,
        mirrored=first is not None and orientation_of(first).mirrored,
        pixel_aspect=aspect,
        digest=digest,
        place=place,
    )


def count_frames(path: Path) -> int:
    """Decode a whole video and return how many frames it yields.

    Args:
        path: A file, a folder of pictures, or a video in a shard.

    Raises:
        VideoError: If the video cannot be read.
    """
    if path.is_dir():
        return sum(count_frames(file) for file in list_pictures(path))
    with open_video(path) as container:
        return sum(1 for _ in decode_all(container))


def _probe_pictures(folder: Path) -> VideoInfo:
    """Describe a folder of pictures, in which every frame is a key frame."""
    files = list_pictures(folder)
    with open_video(files[0]) as container:
        stream = video_stream(container)
        width, height = stream.width, stream.height
        some = [_digest(files[i]) for i in (0, len(files) // 2, -1)]
    digest = sha256(f"{len(files)} {some}".encode()).hexdigest()[:32]
    return VideoInfo.of_pictures(folder, len(files), width=width, height=height, digest=digest)


def _is_shown(packet: av.Packet, codec: str) -> bool:  # type: ignore[type-arg]
    """Return whether a packet contains a frame to be shown; edit lists discard some."""
    if not packet.size or packet.is_discard:
        return False
    # VP8 has reference frames that are never shown. Bit 4 of the first byte is set for a frame that
    # is shown (RFC 6386, section 9.1).
    return codec != "vp8" or bool(memoryview(packet)[0] >> 4 & 1)


def _first_frame(packet: av.Packet) -> VideoFrame | None:  # type: ignore[type-arg]
    """Return the first frame that a packet yields, or None if it yields none or is damaged."""
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
        sha.update(read_bytes(Place(whole.shard, whole.first_byte + start, count, whole.content)))
    return sha.hexdigest()[:32]
