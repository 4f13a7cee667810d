"""Work side by side: in order, a little ahead, each lane with its share of the threads."""

import threading

import pytest
import torch

from st_adapter.config import ClipConfig
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.video_list import Video
from st_adapter.inference import score_videos
from st_adapter.lanes import lanes_of, side_by_side
from st_adapter.predict import Predictor


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_order_from_lanes_with_a_share_of_the_threads():
    taken = []
    met = threading.Barrier(2, timeout=30)  # passed by two at once alone

    def items():
        for item in range(6):
            taken.append(item)
            yield item

    def work(item):
        met.wait()
        return 10 * item, torch.get_num_threads()

    results = side_by_side(work, items(), 2)
    assert next(results) == (0, (0, 1))
    assert taken == [0, 1, 2]
    assert list(results) == [(i, (10 * i, 1)) for i in range(1, 6)]
    assert torch.get_num_threads() == 2
    after = []
    thread = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert after == [2]


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_lane_is_raised_where_its_result_is_wanted():
    def work(item):
        return 1 // item

    results = side_by_side(work, [1, 0, 1], 2)
    assert next(results) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_videos_are_scored_the_same_in_lanes(trained_run, folder_data, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"none")
    paths = [*find_videos(folder_data), tmp_path / "broken.mp4"]
    videos = [Video(path=path, targets=(0,)) for path in paths]
    model = Predictor(trained_run, device="cpu").model

    def scores(lanes):
        clip = ClipConfig(frames=4, size=32, views=(2, 1))
        options = {"batch_size": 4, "workers": 0, "precision": "float32", "lanes": lanes}
        return list(score_videos(model, videos, clip, **options))

    assert lanes_of(model.device) == 2
    for (index, one), (same_index, other) in zip(scores(1), scores(2), strict=True):
        assert index == same_index
        assert torch.equal(one, other) if index < len(paths) - 1 else one == other
