"""Sources of live video: cameras, network streams, and files that play at their own pace."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer

from st_adapter.data.video.container import FORMATS, open_video, video_stream
from st_adapter.errors import ArgumentError, VideoError, did_you_mean
from st_adapter.wording import setting

_WEB = "http,https,httpproxy,tls,tcp,crypto"
_PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "http": _WEB,
    "https": _WEB,
    "udp": "udp",
    "tcp": "tcp",
}
"""Protocols that FFmpeg may use for each kind of address. Without `file`, a stream cannot make it
read files of this machine. A web address can lead to another one, and to encrypted HLS segments.
"""
_OWN_OPTIONS = {
    "rtsp": {"rtsp_flags": "prefer_tcp"},  # UDP loses packets, which damages pictures
    "udp": {"overrun_nonfatal": "1"},  # a full buffer loses packets instead of the connection
}
_OPTIONS = {"fpsprobesize": "0"}
"""Nothing needs the frame rate. Without measuring it, a stream opens in 0.3 s, not in 0.9 s."""
_FORMATS = f"{FORMATS},rtsp,hls,mjpeg,mpjpeg"
_ANALYSIS_SECONDS = 5.0
"""Most video that FFmpeg looks at to find out what a stream contains."""


@dataclass(frozen=True, kw_only=True)
class LiveSource:
    """Where live video comes from. `parse_source` makes one from what a user writes.

    Attributes:
        kind: "camera", "network" or "file".
        url: What FFmpeg opens.
        shown: The source as messages name it, without a password.
        options: Options for FFmpeg.
    """

    kind: Literal["camera", "network", "file"]
    url: str
    shown: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def remedy(self) -> str:
        """What a user can do if nothing comes from the source."""
        if self.kind == "camera":
            return "check that the camera is connected and that no other program uses it"
        if "listen" in self.url.partition("?")[2]:
            return f"start the sender, or wait longer with {setting('timeout')}"
        if self.url.startswith("udp:"):
            return f"check that a sender uses this port, or wait longer with {setting('timeout')}"
        return "check the address and that the sender is running"


class LiveSourceError(VideoError):
    """A source cannot be opened, or it went away.

    Args:
        reason: What is wrong, with the source.
        remedy: What the user can do.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


def parse_source(text: str) -> LiveSource:
    """Find out what kind of source a user means.

    Args:
        text: The number of a camera (`0`), a device (`/dev/video0`), an address (`rtsp://...`,
            `http://...`, `https://...`, `udp://...`, `tcp://...`), or a video file.

    Raises:
        ArgumentError: If it is none of these, or the file or the device does not exist.
    """
    scheme, separator, _ = text.partition("://")
    if separator:
        return _network_source(text, scheme.lower())
    path = Path(f"/dev/video{int(text)}" if re.fullmatch("[0-9]+", text) else text)
    if path.is_char_device():
        return LiveSource(kind="camera", url=str(path), shown=str(path))
    if re.fullmatch("/dev/video[0-9]+", str(path)):
        raise ArgumentError(f"{path}: there is no such camera{_cameras()}")
    if not path.exists() or path.is_dir():
        what = "a folder" if path.is_dir() else "no such file"
        raise ArgumentError(
            f"{text}: {what}; a source is a camera (0 or /dev/video0), an address "
            f"({', '.join(f'{name}://' for name in _PROTOCOLS)}), or a video file"
        )
    return LiveSource(kind="file", url=str(path), shown=str(path))


def _network_source(text: str, scheme: str) -> LiveSource:
    if scheme not in _PROTOCOLS:
        hint = did_you_mean(scheme, [*_PROTOCOLS])
        names = ", ".join(f"{name}://" for name in _PROTOCOLS)
        raise ArgumentError(f"{scheme}:// cannot be watched; use one of {names}{hint}")
    return LiveSource(
        kind="network",
        url=text,
        shown=re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", text),
        options={
            "protocol_whitelist": _PROTOCOLS[scheme],
            "format_whitelist": _FORMATS,
            **_OWN_OPTIONS.get(scheme, {}),
        },
    )


def _cameras() -> str:
    found = sorted(map(str, Path("/dev").glob("video[0-9]*")))
    return f"; found {', '.join(found)}" if found else "; this machine has no /dev/video*"


@contextmanager
def open_source(source: LiveSource, timeout_seconds: float) -> Iterator[InputContainer]:
    """Open a source and yield the container. FFmpeg's errors inside the block become VideoErrors.

    Args:
        source: What to open.
        timeout_seconds: Longest wait for a connection, and for each packet.

    Raises:
        LiveSourceError: If the source cannot be opened, sends no video, or goes away.
        VideoError: If a file cannot be read.
    """
    if source.kind == "file":
        with open_video(Path(source.url)) as container:
            yield container
        return
    # FFmpeg waits for a key frame while it analyses a stream, and then our limit would end it.
    analysed = str(round(1e6 * min(_ANALYSIS_SECONDS, timeout_seconds / 2)))
    try:
        with av.open(
            source.url,
            "r",
            format=_camera_format(source) if source.kind == "camera" else None,
            options={"analyzeduration": analysed, **_OPTIONS, **source.options},
            timeout=(timeout_seconds, timeout_seconds),
            metadata_errors="replace",
        ) as container:
            if video_stream(container) is None:
                kinds = ", ".join(sorted({stream.type for stream in container.streams}))
                raise LiveSourceError(
                    f"{source.shown}: sends {kinds or 'nothing'} but no video",
                    "choose a source with pictures",
                )
            yield container
    except av.ExitError as error:  # PyAV ends a call of FFmpeg that takes too long
        reason = f"{source.shown}: no video arrived within {timeout_seconds:g} s"
        raise LiveSourceError(reason, source.remedy) from error
    except (av.FFmpegError, OSError) as error:
        text = getattr(error, "strerror", None) or str(error)
        text = "the connection broke" if error.errno == errno.EIO else text
        reason = f"{source.shown}: {text}"
        raise LiveSourceError(reason, source.remedy) from error


def _camera_format(source: LiveSource) -> str:
    if not any("v4l2" in name for name in av.formats_available):
        raise LiveSourceError(
            f"{source.shown}: PyAV has no support for cameras on this system",
            "send the camera as a stream, such as tcp://",
        )
    return "v4l2"
