"""Reading of videos with a choice of decoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jaxtyping import UInt8

from st_adapter.data.video import decode, packets
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import Probe

Decoder = Literal["pyav", "torchcodec"]
"""Names of the decoders."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads frames of videos.

    Attributes:
        probe: Returns the description of a video: `packets.probe`, or an index that remembers it.
        decoder: "pyav" or "torchcodec". Torchcodec decodes files that state the time of each frame;
            PyAV decodes the others.
        device: Device on which torchcodec decodes and returns frames.

    Raises:
        ArgumentError: If the decoder is torchcodec and it cannot be used.
    """

    probe: Probe = packets.probe
    decoder: Decoder = "pyav"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.decoder == "torchcodec":
            from st_adapter.data.video.torchcodec_decoder import check_torchcodec

            check_torchcodec()

    def read_frames(
        self,
        path: Path,
        indices: Sequence[int],
        short_side: int | None,
        info: VideoInfo,
        square_pixels: bool = False,
    ) -> UInt8[Any, "t h w 3"]:
        """Return the frames with the given numbers, RGB and upright, in the given order.

        Args:
            path: The video.
            indices: Frame numbers, from 0.
            short_side: Scale frames to this many pixels on the shorter side; None keeps their size.
            info: The video's description, as returned by `probe`.
            square_pixels: Stretch frames whose pixels are not square.

        Raises:
            VideoError: If the video cannot be read or has too few frames, as in
                `decode.read_frames`.
        """
        aspect = info.pixel_aspect if square_pixels else Fraction(1)
        by_time = self._by_time(info)
        frames = decode.read_frames(path, indices, short_side, info, by_time, pixel_aspect=aspect)
        if self.device == "cpu":
            return frames
        import torch

        return torch.as_tensor(frames).to(self.device)  # not every file can be decoded there

    def stream_frames(
        self,
        path: Path,
        indices: Sequence[int],
        short_side: int | None,
        info: VideoInfo,
        square_pixels: bool = False,
    ) -> Iterator[tuple[int, UInt8[Any, "h w 3"]]]:
        """Yield number and pixels of frames one by one, in a single pass through the video.

        Args:
            path: The video.
            indices: Frame numbers, ascending, without repetitions.
            short_side: Scale frames to this many pixels on the shorter side; None keeps their size.
            info: The video's description, as returned by `probe`.
            square_pixels: Stretch frames whose pixels are not square.

        Raises:
            VideoError: If the video cannot be read or has too few frames, as in
                `decode.stream_frames`.
        """
        aspect = info.pixel_aspect if square_pixels else Fraction(1)
        by_time = self._by_time(info)
        return decode.stream_frames(path, indices, short_side, info, by_time, pixel_aspect=aspect)

    def _by_time(self, info: VideoInfo) -> decode.ByTime | None:
        if self.decoder == "torchcodec" and not info.mirrored:  # torchcodec ignores mirroring
            from st_adapter.data.video.torchcodec_decoder import read_by_time

            return partial(read_by_time, device=self.device)
        return None


def make_reader(decoder: Decoder, workers: int, device: str, probe: Probe) -> Reader:
    """Create a reader. With torchcodec on a GPU, it decodes on the GPU.

    Args:
        decoder: "pyav" or "torchcodec".
        workers: Number of worker processes. They do not use the GPU, so only 0 decodes on it.
        device: Device of the model, such as "cpu" or "cuda:0".
        probe: Returns the description of a video.

    Raises:
        ArgumentError: If the decoder is torchcodec and it cannot be used.
    """
    on_device = decoder == "torchcodec" and device.startswith("cuda") and not workers
    return Reader(probe=probe, decoder=decoder, device=device if on_device else "cpu")
