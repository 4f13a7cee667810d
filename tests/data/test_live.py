"""Live sources over real sockets: what arrives, what is left out, and what happens when they go."""

import http.server
import io
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from itertools import chain, islice

import numpy as np
import pytest
from PIL import Image

from conftest import write_audio, write_video
from senders import (
    free_port,
    live_sender,
    paced,
    pictures,
    served,
    write_stream,
)
from st_adapter.data.live.inbox import Inbox, LiveFrame
from st_adapter.data.live.reader import LiveReader, reconnection_pauses
from st_adapter.data.live.sampler import FrameSampler
from st_adapter.data.live.source import LiveSourceError, parse_source
from st_adapter.errors import ArgumentError, VideoError


@contextmanager
def reading(source, *, interval=0.2, limit=1000, timeout=2.0, gap=5.0, square=False):
    """An inbox that a reader fills."""
    inbox = Inbox(limit)
    reader = LiveReader(
        parse_source(str(source)),
        inbox,
        interval_seconds=interval,
        longest_gap_seconds=gap,
        short_side=32,
        square_pixels=square,
        timeout_seconds=timeout,
    )
    with reader.running():
        yield inbox


def collect(inbox, count=None, seconds=15.0):
    """The first `count` frames, or all until no more follow."""
    frames, ends = [], time.monotonic() + seconds
    while count is None or len(frames) < count:
        assert time.monotonic() < ends, f"only {len(frames)} frames"
        new = inbox.take(0.2)
        if new is None:
            return frames
        frames += new
    return frames


def refused(source, timeout=2.0):
    """The message with which a source is given up."""
    with pytest.raises(LiveSourceError) as caught, reading(source, timeout=timeout) as inbox:
        collect(inbox)
    return str(caught.value)


@pytest.fixture(scope="module")
def two_seconds(tmp_path_factory):
    """Bytes of a stream of 2 s."""
    return write_stream(tmp_path_factory.mktemp("ts") / "a.ts", pictures(50), gop=10)


def test_sources_are_told_apart(tmp_path):
    clip = tmp_path / "a.ts"
    clip.touch()
    assert parse_source(str(clip)).kind == "file"
    assert parse_source("/dev/null").kind == "camera"  # any device: names of cameras can be links
    for scheme in ("rtsp", "http", "https", "udp", "tcp"):
        source = parse_source(f"{scheme}://127.0.0.1:9/live")
        assert source.kind == "network"
        assert "file" not in source.options["protocol_whitelist"].split(",")


def test_messages_never_show_a_password():
    source = parse_source("rtsp://me:secret@camera.local:554/live?a@b")
    assert source.shown == "rtsp://me:***@camera.local:554/live?a@b"
    assert source.url == "rtsp://me:secret@camera.local:554/live?a@b"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("rtps://camera", r"rtps:// cannot be watched; use one of rtsp://.*did you mean rtsp"),
        ("file:///etc/passwd", "file:// cannot be watched"),
        ("missing.mp4", r"missing.mp4: no such file; a source is a camera \(0 or /dev/video0\)"),
        ("/tmp", "/tmp: a folder; a source is a camera"),
        ("87", "/dev/video87: there is no such camera"),
        ("/dev/video87", "/dev/video87: there is no such camera"),
    ],
)
def test_what_is_not_a_source_is_refused_with_what_would_do(given, message):
    with pytest.raises(ArgumentError, match=message):
        parse_source(given)


def test_a_full_inbox_drops_the_oldest():
    inbox = Inbox(2)
    for number in range(5):
        inbox.put(
            LiveFrame(
                pixels=np.zeros((2, 2, 3), np.uint8),
                seconds=float(number),
                arrived=0.0,
                part=1,
            )
        )
    inbox.close(VideoError("gone"))
    frames = inbox.take(0.0)
    assert frames is not None
    assert [frame.seconds for frame in frames] == [3.0, 4.0]
    assert inbox.dropped == 3
    with pytest.raises(VideoError, match="gone"):
        inbox.take(0.0)


@pytest.mark.parametrize("rate", [12.5, 24, 25, 29.97, 60])
def test_frames_are_picked_at_even_distances_at_any_rate(rate):
    sampler = FrameSampler(0.25)
    picked = [n / rate for n in range(int(rate * 60)) if sampler.takes(n / rate)]
    assert len(picked) == 240
    assert np.abs(np.array(picked) - np.arange(240) * 0.25).max() <= 1 / rate


def test_after_a_gap_frames_are_picked_as_far_apart_as_before():
    sampler = FrameSampler(0.25)
    times = chain(range(50), range(100, 150), range(20))  # a gap, and a jump back
    picked = [n / 25 for n in times if sampler.takes(n / 25)]
    assert picked[:8] == [0.0, 0.28, 0.52, 0.76, 1.0, 1.28, 1.52, 1.76]
    assert picked[8:16] == [4.0, 4.28, 4.52, 4.76, 5.0, 5.28, 5.52, 5.76]
    assert picked[16:] == [0.0, 0.28, 0.52, 0.76]


def test_a_file_plays_at_its_own_pace_and_ends(tmp_path):
    path = write_video(tmp_path / "a.mp4", [*pictures(12)], rate=10)
    with reading(path, interval=0.3) as inbox:
        frames = collect(inbox)
    assert [round(frame.seconds, 2) for frame in frames] == [0.0, 0.3, 0.6, 0.9]
    waits = np.diff([frame.arrived for frame in frames])
    assert np.abs(waits - 0.3).max() < 0.15
    assert {frame.part for frame in frames} == {1}
    assert {tuple(frame.pixels.shape) for frame in frames} == {(32, 48, 3)}


@pytest.fixture(scope="module")
def ten_minutes_later(tmp_path_factory):
    """Bytes of a stream of a second, whose times start at 600 s."""
    path = tmp_path_factory.mktemp("ts") / "b.ts"
    return write_stream(path, pictures(25), gop=10, first=600 * 25)


def check_goes_on_after_a_jump(frames):
    """Two seconds, then one in another part that starts at 0 again and comes at once."""
    first, second = ([frame for frame in frames if frame.part == part] for part in (1, 2))
    assert [len(first), len(second)] == [10, 5]
    assert [round(frame.seconds, 2) for frame in second] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert second[0].arrived - first[-1].arrived < 0.5
    assert second[-1].arrived - second[0].arrived == pytest.approx(0.8, abs=0.3)


def test_a_file_whose_times_jump_forward_goes_on(tmp_path, two_seconds, ten_minutes_later):
    path = tmp_path / "a.ts"
    path.write_bytes(two_seconds + ten_minutes_later)
    with reading(path) as inbox:
        check_goes_on_after_a_jump(collect(inbox))


def test_a_stream_over_tcp_is_read_as_it_comes(two_seconds):
    with (
        served(paced(two_seconds, 2, then_wait=5)) as port,
        reading(f"tcp://127.0.0.1:{port}") as inbox,
    ):
        frames = collect(inbox, 9)
    assert [round(frame.seconds, 2) for frame in frames] == [
        *(0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
    ]
    assert frames[8].arrived - frames[4].arrived == pytest.approx(0.8, abs=0.3)


def test_a_stream_over_udp(two_seconds):
    port = free_port()

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for start in range(0, 3 * len(two_seconds), 1316):
                at = start % len(two_seconds)
                out.sendto(two_seconds[at : at + 1316], ("127.0.0.1", port))
                time.sleep(0.005)

    with reading(f"udp://127.0.0.1:{port}") as inbox:
        thread = threading.Thread(target=send)
        thread.start()
        assert len(collect(inbox, 5)) >= 5
        thread.join()


def test_a_sender_can_be_waited_for(two_seconds):
    port = free_port()

    def send():
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port)) as out:
                    paced(two_seconds, 1, then_wait=1)(out)
                return
            except ConnectionRefusedError:
                time.sleep(0.05)

    with reading(f"tcp://127.0.0.1:{port}?listen") as inbox:
        thread = threading.Thread(target=send)
        thread.start()
        assert len(collect(inbox, 5)) >= 5
        thread.join()


def test_a_killed_sender_is_found_again(capfd):
    port = free_port()
    with ExitStack() as first:
        first.enter_context(live_sender(port))
        with reading(f"tcp://127.0.0.1:{port}") as inbox:
            frames = collect(inbox, 5)
            first.close()
            with live_sender(port):
                while frames[-1].part == frames[0].part:
                    frames += collect(inbox, 1)
    again = next(frame for frame in frames if frame.part == frames[0].part + 1)
    assert again.seconds == 0.0
    assert np.array_equal(again.pixels, frames[0].pixels)
    lines = [line for line in capfd.readouterr().err.splitlines() if f":{port}:" in line]
    assert lines[0] == f"tcp://127.0.0.1:{port}: the stream ended; trying again in 1 s"


def test_pauses_grow_while_the_source_stays_away():
    assert [*islice(reconnection_pauses(), 8)] == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}", "rtsp://127.0.0.1:{}/live"])
def test_if_nothing_listens_the_message_says_so(address):
    url = address.format(free_port())
    message = f"{url}: Connection refused; check the address and that the sender is running"
    assert refused(url) == message


def test_a_sender_that_says_nothing_is_given_up():
    with served(lambda client: time.sleep(5)) as port:
        said = refused(f"tcp://127.0.0.1:{port}", timeout=0.5)
    assert "no video arrived within 0.5 s; check the address" in said
    said = refused(f"tcp://127.0.0.1:{free_port()}?listen", timeout=0.5)
    assert "no video arrived within 0.5 s; start the sender, or wait longer with timeout" in said
    said = refused(f"udp://127.0.0.1:{free_port()}", timeout=0.5)
    assert "no video arrived within 0.5 s; check that a sender uses this port" in said


def test_a_stream_without_a_key_frame(tmp_path):
    data = write_stream(tmp_path / "a.ts", pictures(300), gop=1000)
    start = 188 * (len(data) // 188 // 10)  # after the only key frame
    with served(paced(data[start:], 10)) as port:
        said = refused(f"tcp://127.0.0.1:{port}", timeout=1.0)
    assert "no picture could be decoded for 1 s; let the sender send a key frame" in said


def test_a_stream_without_video(tmp_path):
    sound = write_audio(tmp_path / "a.ts").read_bytes()
    with served(paced(sound, 0.2)) as port:
        assert "sends audio but no video; choose a source" in refused(f"tcp://127.0.0.1:{port}")


def test_noise_is_not_a_stream():
    noise = np.random.default_rng(0).bytes(400_000)
    with served(paced(noise, 0.2)) as port:
        assert "Invalid data found" in refused(f"tcp://127.0.0.1:{port}")


def test_damaged_packets_are_left_out(two_seconds):
    damaged = bytearray(two_seconds)
    middle = slice(len(damaged) // 3, len(damaged) // 2)
    noise = np.random.default_rng(0).bytes(middle.stop - middle.start)
    damaged[middle] = noise
    with (
        served(paced(bytes(damaged), 0.5, then_wait=3)) as port,
        reading(f"tcp://127.0.0.1:{port}") as inbox,
    ):
        frames = collect(inbox, 6)
        while frames[-1].seconds < 1.5:
            frames += collect(inbox, 1)


def test_another_size_begins_another_part(tmp_path):
    wide = write_stream(tmp_path / "a.ts", pictures(25, 96, 64), gop=10)
    tall = write_stream(tmp_path / "b.ts", pictures(25, 64, 128), gop=10)
    with (
        served(paced(wide + tall, 0.5, then_wait=3)) as port,
        reading(f"tcp://127.0.0.1:{port}") as inbox,
    ):
        frames = collect(inbox, 8)
    shapes = {frame.part: tuple(frame.pixels.shape) for frame in frames}
    assert [*shapes.values()] == [(32, 48, 3), (64, 32, 3)]


class _Web(http.server.BaseHTTPRequestHandler):
    """Serves the attribute `content` of the server, with its length if it is a recording."""

    def do_GET(self):
        body = self.server.content[self.path]
        if isinstance(body, str):
            self.send_response(302)
            self.send_header("Location", body)
            self.end_headers()
            return
        self.send_response(200)
        if "live" not in self.path:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def web(content):
    """A web server; yields its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.content = content
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_recording_on_the_web_plays_at_its_own_pace_and_ends(two_seconds):
    with web({"/a.ts": two_seconds}) as address, reading(f"{address}/a.ts") as inbox:
        frames = collect(inbox)
    assert len(frames) == 10
    assert frames[-1].arrived - frames[0].arrived == pytest.approx(1.8, abs=0.3)


def test_a_stream_on_the_web_is_tried_again(two_seconds, capfd):
    with web({"/live": two_seconds}) as address, reading(f"{address}/live") as inbox:
        frames = collect(inbox, 15)
    assert {frame.part for frame in frames} == {1, 2}
    assert f"{address}/live: the connection broke; trying again in 1 s" in capfd.readouterr().err


def test_an_address_on_the_web_may_lead_to_another(two_seconds):
    pages = {"/b.ts": "/a.ts", "/a.ts": two_seconds}
    with web(pages) as address, reading(f"{address}/b.ts") as inbox:
        assert collect(inbox, 1)


def test_an_hls_playlist_plays_at_its_own_pace(two_seconds):
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\na.ts\n#EXT-X-ENDLIST\n"
    with (
        web({"/a.m3u8": playlist.encode(), "/a.ts": two_seconds}) as address,
        reading(f"{address}/a.m3u8") as inbox,
    ):
        frames = collect(inbox)
    assert len(frames) == 10
    assert frames[-1].arrived - frames[0].arrived == pytest.approx(1.8, abs=0.3)


def test_an_hls_playlist_with_a_discontinuity_goes_on(two_seconds, ten_minutes_later):
    playlist = (
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\na.ts\n"
        "#EXT-X-DISCONTINUITY\n#EXTINF:1.0,\nb.ts\n#EXT-X-ENDLIST\n"
    )
    pages = {"/a.m3u8": playlist.encode(), "/a.ts": two_seconds, "/b.ts": ten_minutes_later}
    with web(pages) as address, reading(f"{address}/a.m3u8") as inbox:
        check_goes_on_after_a_jump(collect(inbox))


def test_a_camera_that_sends_jpegs_has_the_times_of_their_arrival():
    """FFmpeg would say that there are 25 a second."""

    def send(client):
        client.recv(4096)
        client.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=next\r\n\r\n"
        )
        for picture in pictures(12):
            jpeg = io.BytesIO()
            Image.fromarray(picture).save(jpeg, "jpeg")
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {jpeg.tell()}\r\n\r\n"
            client.sendall(head.encode() + jpeg.getvalue() + b"\r\n")
            time.sleep(0.2)

    with served(send) as port, reading(f"http://127.0.0.1:{port}/", interval=0.01) as inbox:
        frames = collect(inbox, 10)
    assert frames[-1].seconds == pytest.approx(frames[-1].arrived - frames[0].arrived)
    assert frames[-1].seconds - frames[4].seconds == pytest.approx(1.0, abs=0.2)


def test_the_web_cannot_make_us_read_files(tmp_path, two_seconds):
    secret = tmp_path / "secret.ts"
    secret.write_bytes(two_seconds)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{secret.as_uri()}\n"
    pages = {"/a.m3u8": playlist.encode(), "/b.ts": secret.as_uri()}
    with web(pages) as address:
        for page in pages:
            assert refused(f"{address}{page}", timeout=1.0)
