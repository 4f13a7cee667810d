import random

import pytest

from st_adapter.data import frame_sampling
from st_adapter.errors import ArgumentError


def test_uniform_takes_the_middle_of_each_segment():
    assert frame_sampling.uniform(7, 3) == [1, 3, 5]
    assert frame_sampling.uniform(100, 8) == [6, 18, 31, 43, 56, 68, 80, 93]
    assert frame_sampling.uniform(8, 8) == [0, 1, 2, 3, 4, 4, 5, 6]


def test_uniform_repeats_frames_of_a_short_video():
    assert frame_sampling.uniform(1, 4) == [0, 0, 0, 0]
    assert frame_sampling.uniform(2, 4) == [0, 0, 0, 1]


def test_uniform_draws_from_both_ends_of_each_segment():
    draws = {tuple(frame_sampling.uniform(7, 3, random.Random(i))) for i in range(2000)}
    assert len(draws) == 27
    assert [sorted({d[i] for d in draws}) for i in range(3)] == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]


def test_strided_middle_first_and_last_windows():
    assert frame_sampling.strided(20, 3, 4) == [5, 9, 13]
    views = [frame_sampling.strided(20, 3, 4, view=v, num_views=3) for v in range(3)]
    assert views == [[0, 4, 8], [6, 10, 14], [11, 15, 19]]


def test_strided_repeats_the_last_frame_of_a_short_video():
    assert frame_sampling.strided(5, 4, 2) == [0, 2, 4, 4]


def test_strided_starts_anywhere_in_training():
    starts = {frame_sampling.strided(20, 3, 4, random.Random(i))[0] for i in range(500)}
    assert starts == set(range(12))


def test_views_of_uniform_sampling_differ_and_one_view_is_the_middle():
    assert frame_sampling.uniform(100, 4, view=0, num_views=1) == frame_sampling.uniform(100, 4)
    views = [frame_sampling.uniform(100, 4, view=v, num_views=3) for v in range(3)]
    assert len({tuple(v) for v in views}) == 3


def test_choose_is_strided_where_a_stride_is_given():
    assert frame_sampling.choose(20, 3, 4) == frame_sampling.strided(20, 3, 4)
    assert frame_sampling.choose(20, 3, 0) == frame_sampling.uniform(20, 3)


def test_nothing_to_sample_is_refused():
    with pytest.raises(ArgumentError, match="num_frames=0"):
        frame_sampling.uniform(0, 8)
