"""Live labels: equal to those of a stream of frames, current, and never from two senders."""

import os
import threading
import time
from contextlib import ExitStack, contextmanager

import av
import numpy as np
import pytest
import torch

from conftest import save_one_block, write_video
from senders import free_port, live_sender, paced, pictures, served, write_stream
from st_adapter.data.live.source import LiveSource, LiveSourceError, parse_source
from st_adapter.errors import ArgumentError, MemoryShortError
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.watch import WatchOptions, watch

WINDOW = 0.8
"""Of four frames, so that one is looked at every 0.2 s."""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A classifier of two classes that does not say how long its training clips were."""
    folder = tmp_path_factory.mktemp("adapter")
    save_one_block(folder)
    return Predictor(folder, device="cpu")


@pytest.fixture
def slow(small):
    """The same, but a frame takes three times as long as the time until the next one."""
    first = small.model.backbone.patch_embed
    hook = first.register_forward_pre_hook(lambda _, given: time.sleep(0.3 * len(given[0])))
    yield small
    hook.remove()


def results(predictor, source, window=WINDOW, **options):
    how = WatchOptions(window_seconds=window, **options)
    return watch(predictor, parse_source(str(source)), how)


@pytest.mark.parametrize("one_pass", [True, False])
def test_a_file_has_the_scores_of_its_frames(small, tmp_path, one_pass):
    path = write_video(tmp_path / "a.mp4", [*pictures(15)], rate=10)
    found = [*results(small, path, one_pass=one_pass)]
    with av.open(str(path)) as container:
        frames = [(frame, frame.time) for frame in container.decode(video=0)]
    expected = [*small.stream(frames, window=WINDOW, one_pass=one_pass)]
    assert len(found) == 8
    assert [one.labels.predicted for one in found] == [one.predicted for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.labels.seconds == pytest.approx(other.seconds)
        assert dict(one.labels.scores) == pytest.approx(dict(other.scores), abs=1e-5)
    assert {one.dropped_frames for one in found} == {0}


def test_steps_and_the_end_are_chosen(small, tmp_path):
    path = write_video(tmp_path / "a.mp4", [*pictures(40)], rate=10)
    start = time.monotonic()
    found = [*results(small, path, step_seconds=0.6, limit_seconds=1.5)]
    assert time.monotonic() - start < 3
    assert [round(one.labels.seconds, 1) for one in found] == [0.0, 0.6, 1.2]


@pytest.mark.parametrize("one_pass", [True, False])
def test_labels_of_a_slow_model_are_late_by_one_pass_at_most(slow, tmp_path, capfd, one_pass):
    data = write_stream(tmp_path / "a.ts", pictures(250), gop=25)
    found = []
    with served(paced(data, 10)) as port:
        url = f"tcp://127.0.0.1:{port}"
        for one in results(slow, url, window=0.4, one_pass=one_pass, limit_seconds=3.5):
            found.append((one.labels.seconds, one.latency_seconds, one.dropped_frames))
    seconds, latencies, dropped = zip(*found, strict=True)
    # Half a second of frames waits at most, which is five, or a clip of four is scored.
    assert max(latencies) < 0.3 * (5 if one_pass else 4) + 0.5
    assert seconds[-1] > 2  # the newest frames, not the first of many that wait
    assert dropped[-1] > dropped[0]
    said = [line for line in capfd.readouterr().err.splitlines() if "slower than" in line]
    assert len(said) == 1
    assert "fewer frames" in said[0]


def test_after_a_reconnection_nothing_is_known_of_the_frames_before(small):
    port = free_port()
    # Frames are half a second apart, so that none of them is dropped when a connection begins.
    how = WatchOptions(window_seconds=2.0, limit_seconds=20.0)
    found = []
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(live_sender(port))
        for one in watch(small, parse_source(f"tcp://127.0.0.1:{port}"), how):
            found.append(one.labels)
            if len(found) == 4:
                first.close()
                second.enter_context(live_sender(port))
            if len(found) > 4 and one.labels.seconds < found[-2].seconds:
                break
    assert found[0].seconds == found[-1].seconds == 0
    assert found[-1].scores == found[0].scores
    assert found[3].scores != found[0].scores


@contextmanager
def pipe(path, data):
    """A source that sends this and then falls silent.

    A named pipe is read without a limit in time, as some cameras are.
    """
    os.mkfifo(path)
    over = threading.Event()

    def send():
        with path.open("wb", buffering=0) as out:
            out.write(data)
            over.wait(20)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    options = {"protocol_whitelist": "file"}
    yield LiveSource(kind="network", url=str(path), shown="pipe", options=options)
    over.set()
    thread.join()


def test_a_silence_that_nothing_can_interrupt_is_told(small, tmp_path, capfd):
    data = write_stream(tmp_path / "a.ts", pictures(50), gop=10)
    how = WatchOptions(window_seconds=WINDOW, timeout_seconds=0.2, limit_seconds=3.0)
    with pipe(tmp_path / "pipe", data) as source:
        assert [*watch(small, source, how)]
    said = [line for line in capfd.readouterr().err.splitlines() if "pipe" in line]
    assert said == [
        "pipe: no picture arrives, and the system does not answer; still waiting; check the "
        "address and that the sender is running"
    ]


def test_a_silence_from_the_beginning_is_an_error(small, tmp_path):
    how = WatchOptions(window_seconds=WINDOW, timeout_seconds=0.2)
    with (
        pipe(tmp_path / "pipe", b"") as source,
        pytest.raises(LiveSourceError, match="pipe: no picture arrives"),
    ):
        next(watch(small, source, how))


def test_a_source_that_cannot_be_opened_is_an_error(small):
    with pytest.raises(LiveSourceError, match="Connection refused"):
        next(results(small, f"tcp://127.0.0.1:{free_port()}"))


@pytest.mark.parametrize("name", ["window", "step", "limit", "timeout"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_times_are_above_zero(name, value):
    flag = "seconds" if name == "limit" else name
    with pytest.raises(ArgumentError, match=f"{flag} must be a number of seconds above 0"):
        WatchOptions(**{f"{name}_seconds": value})


def test_without_a_window_the_message_says_what_to_add(small, tmp_path):
    path = write_video(tmp_path / "a.mp4", [*pictures(4)], rate=10)
    with pytest.raises(ArgumentError, match="how many seconds a window takes, with window"):
        next(watch(small, parse_source(str(path))))


def grey_frames(count):
    """Pairs of a frame and its time, 25 a second."""
    return [(np.full((40, 60, 3), 128, np.uint8), number / 25) for number in range(count)]


@pytest.mark.parametrize("one_pass", [True, False])
def test_a_long_step_never_makes_a_long_pass(small, one_pass):
    passed = []
    first = small.model.backbone.patch_embed
    hook = first.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
    results = small.stream(grey_frames(100), window=0.16, step=3.0, one_pass=one_pass)
    assert [one.seconds for one in results] == [0.0, 3.0]
    hook.remove()
    assert passed == ([1] * 100 if one_pass else [1, 4])


@pytest.mark.parametrize("one_pass", [True, False])
def test_a_lack_of_memory_is_explained(small, one_pass):
    def fail(*_):
        raise torch.OutOfMemoryError

    hook = small.model.backbone.patch_embed.register_forward_pre_hook(fail)
    with pytest.raises(MemoryShortError, match="out of memory on cpu; lower frames or size"):
        [*small.stream(grey_frames(4), window=1.0, one_pass=one_pass)]
    hook.remove()


@pytest.mark.parametrize("step", [0, -1, float("nan"), float("inf")])
def test_a_step_of_a_stream_is_above_zero(small, step):
    with pytest.raises(ArgumentError, match="step must be a number of seconds above 0, not"):
        small.stream([], window=1.0, step=step)
