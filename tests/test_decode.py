import numpy as np
import pytest
import torch

from conftest import numbered_frame, read_number, write_audio, write_video
from st_adapter.data import decode
from st_adapter.errors import VideoError


def numbers(frames):
    return [read_number(frame.permute(1, 2, 0).numpy()) for frame in frames]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "numbered, with B-frames.mp4"
    frames = [numbered_frame(i) for i in range(60)]
    return write_video(path, frames, options={"bf": "3", "g": "12"})


def test_every_frame_is_the_one_asked_for(numbered):
    assert decode.probe(numbered).num_frames == 60
    assert numbers(decode.read_frames(numbered, range(60))) == list(range(60))


def test_frames_come_in_the_order_asked_for_and_may_repeat(numbered):
    assert numbers(decode.read_frames(numbered, [41, 7, 7, 0])) == [41, 7, 7, 0]


@pytest.mark.parametrize(
    ("codec", "name"), [("mpeg4", "x.avi"), ("libx265", "x.mkv"), ("libvpx-vp9", "x.webm")]
)
def test_frame_numbers_hold_for_other_codecs(tmp_path, codec, name):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    frames = [numbered_frame(i) for i in range(20)]
    path = write_video(tmp_path / name, frames, codec=codec, options=options)
    assert decode.probe(path).num_frames == 20
    assert numbers(decode.read_frames(path, [0, 5, 19])) == [0, 5, 19]


def test_short_side_is_scaled_and_the_long_side_follows(numbered):
    frames = decode.read_frames(numbered, [3], short_side=32)
    assert frames.shape == (1, 3, 32, 48)
    assert frames.dtype == torch.uint8


def test_segment_is_counted_in_seconds(numbered):
    info = decode.probe(numbered)
    assert info.start_seconds[:3] == pytest.approx((0.0, 0.1, 0.2))
    assert info.frame_range(1.0, 2.0) == range(10, 20)
    assert info.frame_range(None, None) == range(60)
    with pytest.raises(VideoError, match=r"no frame between 9.0 s and 10.0 s; .* 5.90 s long"):
        info.frame_range(9.0, 10.0)


def test_rotation_is_applied(tmp_path):
    frames = [np.zeros((64, 96, 3), np.uint8) for _ in range(3)]
    for frame in frames:
        frame[:, :48] = 255
    path = write_video(tmp_path / "upright.mp4", frames)
    rotate_header(path, tmp_path / "rotated.mp4")
    turned = decode.read_frames(tmp_path / "rotated.mp4", [1])[0]
    assert turned.shape == (3, 96, 64)
    assert turned[0, :40].float().mean() > 200  # what was left is up after a turn to the right
    assert turned[0, 56:].float().mean() < 50


def rotate_header(source, target):
    """Write a display matrix of a quarter turn clockwise into the track header."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = [0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 64 << 16, 0, 1 << 30]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big") for value in matrix)
    target.write_bytes(data)


def test_truncated_video_tells_how_much_there_is(tmp_path):
    frames = [np.random.default_rng(i).integers(0, 255, (64, 96, 3), np.uint8) for i in range(30)]
    whole = write_video(tmp_path / "whole.avi", frames, codec="mpeg4")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    promised = decode.probe(cut).num_frames
    assert 5 < promised < 30
    with pytest.raises(decode.TruncatedError, match="can be decoded") as caught:
        decode.read_frames(cut, [29])
    assert abs(caught.value.num_decoded - promised) <= 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "the file is empty"),
        ("noise.mp4", bytes(range(256)) * 20, "cannot be decoded: Invalid data"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "cannot be decoded"),
    ],
)
def test_broken_files_are_named_with_a_reason(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=f"{name}: {message}"):
        decode.probe(path)


def test_sound_without_picture_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"sound\.mp4: no video stream"):
        decode.probe(write_audio(tmp_path / "sound.mp4"))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        decode.probe(tmp_path / "gone.mp4")
