"""What one request may cost, and how many are answered at the same time."""

import math
import os
from dataclasses import dataclass, field, fields
from typing import Any

from st_adapter.errors import ArgumentError
from st_adapter.wording import setting

_LEAST_DECODER_MEGABYTES = 512
"""Address space that Python, numpy and FFmpeg take, with room for a small video."""


def _limit(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server. The help of each field is that of its flag.

    Raises:
        ArgumentError: A limit is not above 0, or decoders have too little memory.
    """

    max_megabytes: float = _limit(100.0, "Largest upload in MB.")
    max_seconds: float = _limit(600.0, "Longest video in seconds.")
    max_pixels: int = _limit(4096 * 2304, "Largest picture in pixels: width times height.")
    max_frames: int = _limit(50_000, "Largest number of frames in a video.")
    deadline: float = _limit(60.0, "Seconds in which a request is answered after its upload.")
    upload_seconds: float = _limit(
        120.0, "Seconds in which an upload must arrive, and an answer be read."
    )
    queue: int = _limit(64, "Requests that wait or are being answered. Others are told to retry.")
    connections: int = _limit(512, "Open connections.")
    decoders: int = _limit(os.cpu_count() or 1, "Processes that decode.")
    decoder_megabytes: int = _limit(2048, "Memory of each of them, in MB of address space.")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 < value < math.inf:
                name = setting(item.name.replace("_", "-"))
                raise ArgumentError(f"{name} must be above 0, not {value}")
        if self.decoder_megabytes < _LEAST_DECODER_MEGABYTES:
            raise ArgumentError(
                f"{setting('decoder-megabytes')} must be at least {_LEAST_DECODER_MEGABYTES}, "
                f"which a decoder needs for any video, not {self.decoder_megabytes}"
            )

    @property
    def max_bytes(self) -> int:
        """Largest upload in bytes."""
        return round(self.max_megabytes * 1e6)
