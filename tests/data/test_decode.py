import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from conftest import (
    numbered_frame,
    read_number,
    restamped,
    rotate_header,
    write_audio,
    write_video,
)
from st_adapter.data.video import decode, packets
from st_adapter.errors import VideoError


def numbers(frames):
    return [read_number(frame) for frame in frames]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "numbered, with B-frames.mp4"
    frames = [numbered_frame(i) for i in range(60)]
    return write_video(path, frames, options={"bf": "3", "g": "12"})


def test_every_frame_is_the_one_asked_for(numbered):
    assert packets.probe(numbered).num_frames == 60
    assert numbers(decode.read_frames(numbered, range(60))) == list(range(60))


def test_full_colour_is_right_wherever_decoding_would_start(tmp_path):
    """That old versions of x264 wrote it otherwise, FFmpeg knows from the first packet alone."""
    across, down = np.meshgrid(np.linspace(0, 8, 160), np.linspace(0, 3, 96))
    noise = np.random.default_rng(0).normal(0, 6, (96, 160, 3))
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "15", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv444p"
        for i in range(60):
            waves = np.sin((across + down + i / 5)[..., None] + np.array([0, 2, 4]))
            pixels = (127 + 100 * waves + noise).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    content = (tmp_path / "a.mp4").read_bytes()
    assert re.search(rb"x264 - core \d{3}", content)
    (tmp_path / "a.mp4").write_bytes(re.sub(rb"x264 - core \d{3}", b"x264 - core 142", content))
    info = packets.probe(tmp_path / "a.mp4")
    assert len(info.keys) > 2
    in_order = decode.read_frames(info.path, range(60), info=info)
    assert np.array_equal(decode.read_frames(info.path, [50], info=info)[0], in_order[50])


def test_frames_come_in_the_order_asked_for_and_may_repeat(numbered):
    assert numbers(decode.read_frames(numbered, [41, 7, 7, 0])) == [41, 7, 7, 0]


FORMS = {
    "h264 with B-frames": ("a.mp4", "libx264", {"bf": "3", "g": "24"}),
    "h264, open GOP": ("a.mkv", "libx264", {"bf": "3", "g": "24", "x264-params": "open-gop=1"}),
    "h264, transport stream": ("a.ts", "libx264", {"bf": "3", "g": "24"}),
    "h264, intra refresh": ("a.mp4", "libx264", {"g": "24", "x264-params": "intra-refresh=1"}),
    "hevc, open GOP": (
        "a.mp4",
        "libx265",
        {"x265-params": "log-level=none:keyint=24:min-keyint=24:open-gop=1"},
    ),
    "vp8, hidden frames": ("a.webm", "libvpx", {"g": "24", "auto-alt-ref": "1"}),
    "vp9, hidden frames": ("a.webm", "libvpx-vp9", {"g": "24", "lag-in-frames": "12"}),
    "mpeg4, no time stamps": ("a.avi", "mpeg4", {"bf": "2", "g": "24"}),
    "mpeg4 with B-frames": ("a.mp4", "mpeg4", {"bf": "2", "g": "24"}),
    "mpeg2": ("a.mpg", "mpeg2video", {"bf": "2", "g": "24"}),
}
ASKED = ([0], [119], [100, 3], [23, 24, 25, 47, 48, 49], [71, 72, 95], range(0, 120, 7), range(120))


AV1 = Path(__file__).parents[1] / "reference" / "numbered_av1.mp4"
"""Written once: SVT-AV1's threads take real-time priority and can stop a small machine."""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", [*FORMS, "av1"])
def test_each_frame_is_the_one_asked_for_in_any_format(tmp_path, form, threads):
    path = AV1
    if form != "av1":
        name, codec, options = FORMS[form]
        frames = [numbered_frame(i, width=128) for i in range(120)]
        path = write_video(tmp_path / name, frames, codec=codec, options=options)
    info = packets.probe(path)
    assert info.num_frames == 120
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        read = [numbers(decode.read_frames(path, asked, info=info)) for asked in ASKED]
    finally:
        torch.set_num_threads(before)
    assert read == [list(asked) for asked in ASKED]


def test_a_variable_rate_changes_times_and_not_numbers(numbered, tmp_path):
    step = av.open(str(numbered)).streams.video[0].time_base.denominator // 10
    late = restamped(numbered, tmp_path / "late.mp4", lambda t: t + max(0, t - 30 * step))
    info = packets.probe(late)
    assert info.start_seconds[[0, 30, 40]] == pytest.approx((0.0, 3.0, 5.0))
    assert info.frame_range(4.0, 6.0) == range(35, 45)
    assert numbers(decode.read_frames(late, [29, 31, 44, 59], info=info)) == [29, 31, 44, 59]


def test_an_edit_list_takes_frames_away(numbered, tmp_path):
    step = av.open(str(numbered)).streams.video[0].time_base.denominator // 10
    cut = restamped(numbered, tmp_path / "cut.mp4", lambda t: t - 15 * step)
    info = packets.probe(cut)
    assert info.num_frames == 45
    for asked in ([0], [5, 44], range(45)):
        shown = numbers(decode.read_frames(cut, asked, info=info))
        assert shown == [number + 15 for number in asked]
    assert numbers(decode.read_frames(cut, [0, 44])) == [15, 59]


def test_short_side_is_scaled_and_the_long_side_follows(numbered):
    frames = decode.read_frames(numbered, [3], short_side=32)
    assert frames.shape == (1, 32, 48, 3)
    assert frames.dtype == np.uint8


def test_segment_is_counted_in_seconds(numbered):
    info = packets.probe(numbered)
    assert info.start_seconds[:3] == pytest.approx((0.0, 0.1, 0.2))
    assert info.frame_range(1.0, 2.0) == range(10, 20)
    assert info.frame_range(None, None) == range(60)
    with pytest.raises(VideoError, match=r"no frame between 9.0 s and 10.0 s; .* at 5.90 s"):
        info.frame_range(9.0, 10.0)


def test_rotation_is_applied(tmp_path):
    frames = [np.zeros((64, 96, 3), np.uint8) for _ in range(3)]
    for frame in frames:
        frame[:, :48] = 255
    path = write_video(tmp_path / "upright.mp4", frames)
    rotate_header(path, tmp_path / "rotated.mp4")
    turned = decode.read_frames(tmp_path / "rotated.mp4", [1])[0]
    assert turned.shape == (96, 64, 3)
    assert turned[:40].mean() > 200  # what was left is up after a turn to the right
    assert turned[56:].mean() < 50


def show_as(source, target, a, b, c, d):
    """Write a display matrix with these values, of which two are 0, into the track header."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 64 << 16, 64 << 16, 1 << 30]
    data[at : at + 36] = b"".join((value % (1 << 32)).to_bytes(4, "big") for value in matrix)
    target.write_bytes(data)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("first", [1, -1])
@pytest.mark.parametrize("second", [1, -1])
def test_all_eight_orientations_are_shown_as_players_do(tmp_path, transposed, first, second):
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:32, 48:] = 255  # the upper right quarter
    plain = write_video(tmp_path / "plain.mp4", [stored] * 3)
    a, b, c, d = (0, first, second, 0) if transposed else (first, 0, 0, second)
    show_as(plain, tmp_path / "shown.mp4", a, b, c, d)
    info = packets.probe(tmp_path / "shown.mp4")
    (frame,) = decode.read_frames(tmp_path / "shown.mp4", [1], info=info)
    # Points as FFmpeg maps them, about the middle of the picture: x' = a x + c y, y' = b x + d y.
    x, y = 0.5 * a + -0.5 * c, 0.5 * b + -0.5 * d
    height, width = frame.shape[:2]
    assert (height, width) == ((96, 64) if transposed else (64, 96))
    bright = frame.mean(2) > 128
    row, column = np.argwhere(bright).mean(0)
    assert (row > height / 2, column > width / 2) == (y > 0, x > 0)
    assert info.mirrored == ((a * d - b * c) < 0)


def test_pixels_that_are_not_square_are_made_up_for(tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = packets.probe(path)
    assert info.pixel_aspect == 2
    for short_side, shape in ((None, (64, 128)), (32, (32, 64))):
        frames = decode.read_frames(path, [0], short_side, info, pixel_aspect=info.pixel_aspect)
        assert frames.shape[1:3] == shape
    assert decode.read_frames(path, [0], info=info).shape[1:3] == (64, 64)


def test_sound_with_a_title_picture_is_no_video():
    with pytest.raises(VideoError, match="contains no video stream"):
        packets.probe(Path(__file__).parents[1] / "reference" / "sound_with_cover.mp4")


def test_frames_that_are_never_shown_do_not_count():
    path = Path(__file__).parents[1] / "reference" / "vp8_altref.webm"
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 63
    info = packets.probe(path)
    assert info.num_frames == 60
    assert packets.count_frames(path) == 60
    in_turn = np.concatenate([decode.read_frames(path, [i], info=info) for i in range(0, 60, 7)])
    assert np.array_equal(in_turn, decode.read_frames(path, range(60))[::7])


def test_truncated_video_tells_how_much_there_is(tmp_path):
    frames = [np.random.default_rng(i).integers(0, 255, (64, 96, 3), np.uint8) for i in range(30)]
    whole = write_video(tmp_path / "whole.avi", frames, codec="mpeg4")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    promised = packets.probe(cut).num_frames
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
        packets.probe(path)


def test_sound_without_picture_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"sound\.mp4: contains no video stream"):
        packets.probe(write_audio(tmp_path / "sound.mp4"))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        packets.probe(tmp_path / "gone.mp4")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(1, 13):
        picture = av.VideoFrame.from_ndarray(numbered_frame(number, width=128), format="rgb24")
        picture.save(str(folder / f"image_{number}.png"))  # 10 comes after 9
    return folder


def test_a_folder_of_pictures_is_a_video(pictures):
    info = packets.probe(pictures)
    assert (info.num_frames, info.width, info.height) == (12, 128, 64)
    assert info.frame_range(0.04, 0.12) == range(1, 3)  # 25 a second
    assert numbers(decode.read_frames(pictures, [11, 0, 8], info=info)) == [12, 1, 9]
    assert decode.read_frames(pictures, [3], short_side=32).shape == (1, 32, 64, 3)
    with pytest.raises(VideoError, match="clip: only 12 frames"):
        decode.read_frames(pictures, [12])


def test_flow_beside_pictures_is_left_out_and_two_series_are_refused(pictures):
    for name in ("flow_x_1.png", "flow_y_1.png", "notes.txt"):
        (pictures / name).touch()
    assert packets.probe(pictures).num_frames == 12
    (pictures / "depth_1.png").touch()
    with pytest.raises(VideoError, match=r"several series: depth_\*, image_\*"):
        packets.probe(pictures)
    with pytest.raises(VideoError, match="a folder without numbered pictures"):
        packets.probe(pictures.parent)


def test_a_stream_that_begins_in_the_middle_does_no_harm():
    late = Path(__file__).parents[1] / "reference" / "late_stream.ts"
    info = packets.probe(late)
    frames = decode.read_frames(late, range(packets.count_frames(late)), info=info)
    assert 0 < len(frames) <= info.num_frames


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile 'secret.mp4'\n", "#EXTM3U\n#EXTINF:1,\nsecret.mp4\n"]
)
def test_a_file_does_not_make_others_be_opened(numbered, tmp_path, text):
    shutil.copy(numbered, tmp_path / "secret.mp4")
    for name in ("a.mp4", "a.m3u8"):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="cannot be decoded"):
            packets.probe(tmp_path / name)


def test_folders_of_pictures_that_begin_alike_differ(pictures, tmp_path):
    other = shutil.copytree(pictures, tmp_path / "other")
    assert packets.probe(other).digest == packets.probe(pictures).digest
    shutil.copy(other / "image_1.png", other / "image_12.png")
    assert packets.probe(other).digest != packets.probe(pictures).digest
