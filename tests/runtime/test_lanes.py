"""Work side by side: in order, a little ahead, each lane with its share of the threads."""

import copy
import threading
from concurrent.futures import CancelledError

import pytest
import torch

from st_adapter.config import ClipConfig
from st_adapter.data.datasets import Skipped
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.videos import Video
from st_adapter.evaluation.score import score_clips, score_videos, videos_at_once
from st_adapter.runtime.lanes import lanes_of, side_by_side


@pytest.fixture
def two_threads():
    """Two threads of torch's, and as many for a thread that starts after the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    counted = []
    thread = threading.Thread(target=lambda: counted.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert counted == [2]


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_order_from_lanes_with_a_share_of_the_threads():
    taken = []
    met = threading.Barrier(2, timeout=30)  # passed by two at once alone

    def items():
        for item in range(6):
            taken.append(item)
            yield item

    def work(item, dropped):
        met.wait()
        return 10 * item, torch.get_num_threads()

    results = side_by_side(work, items(), 2)
    assert next(results) == (0, (0, 1))
    assert taken == [0, 1, 2]
    assert list(results) == [(i, (10 * i, 1)) for i in range(1, 6)]


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_lane_is_raised_where_its_result_is_wanted():
    results = side_by_side(lambda item, dropped: 1 // item, [1, 0, 1], 2)
    assert next(results) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.usefixtures("two_threads")
def test_work_that_nobody_waits_for_is_told_so():
    told, begun = [], threading.Event()

    def work(item, dropped):
        if item:
            begun.set()
            told.append(dropped.wait(30))

    results = side_by_side(work, range(3), 2)
    assert next(results) == (0, None)
    assert begun.wait(30)
    results.close()
    assert told in ([True], [True, True])


def test_scoring_ends_between_two_passes(predictor):
    clips = torch.zeros(3, 4, 3, 32, 32, dtype=torch.uint8)
    dropped, passed = threading.Event(), []

    def forward(part):
        passed.append(len(part))
        dropped.set()
        return predictor.model(part)

    with pytest.raises(CancelledError):
        score_clips(predictor.model, clips, 1, "float32", forward, dropped)
    assert passed == [1]


def test_videos_come_as_many_at_once_as_fill_a_pass(predictor):
    clip = ClipConfig(frames=4, size=32, views=(3, 1))
    assert videos_at_once(predictor.model, clip, 6, "float32") == 2
    compiled = copy.deepcopy(predictor.model)
    compiled.compile()  # for one clip at a time, so that lanes share out single videos
    assert videos_at_once(compiled, clip, 6, "float32") == 1


@pytest.mark.usefixtures("two_threads")
def test_videos_are_scored_the_same_in_lanes(predictor, folder_data, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"none")
    paths = [*find_videos(folder_data), tmp_path / "broken.mp4"]
    videos = [Video(path=path, targets=(0,)) for path in paths]
    model = predictor.model

    def scores(lanes):
        threads = set()
        hook = model.register_forward_pre_hook(lambda *_: threads.add(threading.get_ident()))
        clip = ClipConfig(frames=4, size=32, views=(2, 1))
        options = {"batch_size": 2, "workers": 0, "precision": "float32", "lanes": lanes}
        scored = list(score_videos(model, videos, clip, **options))
        hook.remove()
        assert (threading.get_ident() in threads) == (lanes == 1)
        return scored

    assert lanes_of(model.device) == 2
    scores(1)  # what a frame's largest tensor is, is found in this thread
    alone, beside = scores(1), scores(2)
    assert len(alone) == 13
    for (index, one), (same_index, other) in zip(alone, beside, strict=True):
        assert index == same_index
        if isinstance(one, Skipped):
            assert one == other
        else:
            torch.testing.assert_close(one, other)
