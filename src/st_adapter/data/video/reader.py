"""How videos are read: what is known of them, and by which decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from st_adapter.data.video import decode, packets, torchcodec_decoder
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import Probe

Decoder = Literal["pyav", "torchcodec"]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads frames of videos.

    Attributes:
        probe: `packets.probe`, or an index that remembers what it said.
        decoder: "pyav", or "torchcodec" where a file states the time of each frame; other files
            are left to PyAV.
        device: where torchcodec decodes.

    Raises:
        ArgumentError: torchcodec is not there.
    """

    probe: Probe = packets.probe
    decoder: Decoder = "pyav"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.decoder == "torchcodec":
            torchcodec_decoder.check_torchcodec()

    def read_frames(
        self,
        path: Path,
        indices: Sequence[int],
        short_side: int | None,
        info: VideoInfo,
        square_pixels: bool = False,
    ) -> UInt8[Tensor, "t 3 h w"]:
        """As `decode.read_frames`; `square_pixels` makes up for those that are not."""
        by_time, aspect = None, info.pixel_aspect if square_pixels else Fraction(1)
        if self.decoder == "torchcodec" and not info.mirrored:  # which it does not know
            by_time = partial(torchcodec_decoder.read_by_time, device=self.device)
        frames = decode.read_frames(path, indices, short_side, info, by_time, pixel_aspect=aspect)
        return frames.to(self.device)


def make_reader(decoder: Decoder, workers: int, device: torch.device, probe: Probe) -> Reader:
    """A reader that decodes on the GPU where it can: processes of `workers` have none.

    Raises:
        ArgumentError: torchcodec is not there.
    """
    on_device = decoder == "torchcodec" and device.type == "cuda" and not workers
    return Reader(probe=probe, decoder=decoder, device=str(device) if on_device else "cpu")
