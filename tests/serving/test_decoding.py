"""The pool of processes that decode."""

import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from conftest import blinking, write_video
from st_adapter.serving.deadlines import Deadline
from st_adapter.serving.decoding import DecoderPool
from st_adapter.serving.limits import Limits
from st_adapter.serving.refusals import Refusal


@pytest.fixture
def pool():
    with closing(DecoderPool(Limits(decoders=1))) as pool:
        yield pool


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4", blinking(True, 0))


def opens(pool, clip):
    """Whether a video can be opened."""
    with pool.open(clip, Deadline(20)) as video:
        return video.info.num_frames == 8


def test_a_deadline_that_ends_at_any_moment_costs_no_decoder(pool, clip):
    for step in range(300):
        with suppress(Refusal), pool.open(clip, Deadline(step * 1e-7)):
            pass
    assert opens(pool, clip)


def test_a_decoder_that_cannot_be_replaced_now_is_replaced_later(pool, clip):
    assert opens(pool, clip)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # nothing more can be opened
        with pytest.raises(Refusal, match="killed"), pool.open(clip, Deadline(20)) as video:
            (pid,) = pool.pids()
            os.kill(pid, signal.SIGKILL)
            list(video.frames([0], 8))
        with pytest.raises(Refusal, match="cannot start a decoder now") as caught:
            opens(pool, clip)
        assert caught.value.status == 503
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert opens(pool, clip)


def test_who_waits_for_a_decoder_is_refused_when_the_pool_closes(pool, clip):
    with ThreadPoolExecutor(1) as threads, pytest.raises(Refusal, match="cannot start"):
        with suppress(Refusal), pool.open(clip, Deadline(20)) as video:
            waiting = threads.submit(opens, pool, clip)
            time.sleep(0.1)
            pool.close()
            list(video.frames([0], 8))
        waiting.result(timeout=5)
