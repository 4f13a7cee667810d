from pathlib import Path

import numpy as np
import pytest

from st_adapter.data.folds import fold_of_each
from st_adapter.data.holdout import split_validation
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import DataError


def labelled(*groups, clips=2):
    """Return videos of groups. The letters of a group such as "ab_1" are its classes."""
    return VideoList.of(
        Video(path=Path(f"/{group}_{label}{clip}.mp4"), targets=("abc".index(label),), group=group)
        for group in groups
        for label in group.partition("_")[0]
        for clip in range(clips)
    )


def files(count, classes=2):
    return [Video(path=Path(f"/{i}.mp4"), targets=(i % classes,)) for i in range(count)]


def test_segments_of_one_file_stay_in_one_part():
    videos = [
        Video(path=Path(f"/{i // 5}.mp4"), targets=(i // 25,), start_seconds=float(i))
        for i in range(50)
    ]
    train, val = split_validation(videos, 0.4, seed=0)
    assert (len(train), len(val)) == (30, 20)
    assert not {v.path for v in train} & {v.path for v in val}


def test_the_draw_of_files_is_stratified_and_never_changes():
    train, val = split_validation(files(30), 0.2, seed=1)
    assert np.bincount(val.first_targets()).tolist() == [3, 3]
    # Literal names: `evaluate` repeats the draw of runs that older versions trained.
    assert val.names() == ["/4.mp4", "/5.mp4", "/11.mp4", "/12.mp4", "/17.mp4", "/24.mp4"]
    assert len(train) == 24


def test_a_class_of_one_video_stays_in_training():
    train, val = split_validation(files(3), 0.5, seed=0)
    assert sorted(v.targets for v in train) == [(0,), (1,)]
    assert [v.targets for v in val] == [(0,)]


def test_groups_are_held_out_whole_and_every_video_is_kept():
    videos = labelled(*(f"ab_{i}" for i in range(10)))
    train, held = split_validation(videos, 0.2, 0)
    assert not {*train.groups()} & {*held.groups()}
    assert len({*held.groups()}) == 2
    assert sorted([*train, *held], key=str) == sorted(videos, key=str)


def test_groups_of_very_different_sizes_give_each_class_its_share():
    sizes = {f"a_{i}": 1 + i * i for i in range(12)} | {f"b_{i}": 1 + 3 * i for i in range(12)}
    videos = VideoList.of(
        Video(path=Path(f"/{name}_{i}"), targets=("ab".index(name[0]),), group=name)
        for name, size in sizes.items()
        for i in range(size)
    )
    for seed in range(10):
        _, held = split_validation(videos, 0.2, seed)
        shares = np.bincount(held.first_targets()) / np.bincount(videos.first_targets())
        assert shares == pytest.approx([0.2, 0.2], abs=0.06)


def test_groups_of_every_class_are_held_out_and_none_loses_its_last():
    videos = labelled("a_0", "a_1", "a_2", "b_0", "b_1", "c_0")
    for seed in range(20):
        train, held = split_validation(videos, 0.2, seed)
        assert train.classes() == {0, 1, 2}
        assert held.classes() == {0, 1}
        assert len({*held.groups()}) == 2
    with pytest.raises(DataError, match="each group is the only one of some class"):
        split_validation(labelled("a_0", "b_0", "c_0"), 0.2, 0)


def test_groups_of_several_classes_leave_each_class_a_group():
    videos = [
        Video(path=Path(f"/g{group}_{clip}.mp4"), targets=targets, group=f"g{group}")
        for group, targets in enumerate([(0,), (0, 1), (1, 2), (2,), (), (0, 1, 2)])
        for clip in range(2)
    ]
    for seed in range(50):
        train, held = split_validation(videos, 0.5, seed)
        assert train.classes() == {0, 1, 2}
        assert len(held) >= 2


def test_a_class_that_a_fold_leaves_out_is_supplied():
    videos = labelled("abc_3", "abc_4", "c_1", clips=1)
    for seed in range(20):
        train, held = split_validation(videos, 0.2, seed)
        assert train.classes() == held.classes() == {0, 1, 2}


def test_the_order_of_videos_does_not_change_the_groups_held_out():
    videos = labelled(*(f"a_{i}" for i in range(10)), *(f"b_{i}" for i in range(10)))
    _, held = split_validation(videos, 0.2, 3)
    _, again = split_validation(videos.take(np.arange(len(videos))[::-1]), 0.2, 3)
    assert {*held.groups()} == {*again.groups()}


def test_a_file_in_two_groups_is_refused():
    segments = [
        Video(path=Path("/a.mp4"), targets=(0,), start_seconds=float(i), group=f"g{i}")
        for i in range(2)
    ]
    with pytest.raises(DataError, match=r"/a.mp4 has segments in the groups 'g0' and 'g1'"):
        split_validation(segments, 0.2, 0)
    with pytest.raises(DataError, match="all segments of a file must be in the same group"):
        fold_of_each(VideoList.of(segments), 2, 0)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5, 0.8, 0.99])
def test_the_share_of_groups_is_the_one_asked_for(fraction):
    videos = labelled(*(f"ab_{i}" for i in range(200)), clips=1)
    _, held = split_validation(videos, fraction, 0)
    assert len(held) / len(videos) == pytest.approx(fraction, abs=0.02)


def test_each_fold_has_every_class_in_equal_shares():
    fold = fold_of_each(VideoList.of(files(100, classes=4)), 5, 0)
    counts = [np.bincount(np.arange(100)[fold == i] % 4).tolist() for i in range(5)]
    assert counts == [[5] * 4] * 5


def test_folds_keep_groups_whole():
    videos = labelled(*(f"a_{i}" for i in range(7)), *(f"b_{i}" for i in range(7)))
    fold = fold_of_each(videos, 3, 0)
    assert len({*zip(videos.groups(), fold.tolist(), strict=True)}) == 14
    assert sorted(np.bincount(fold)) == [8, 10, 10]


def test_there_are_no_more_folds_than_groups():
    assert fold_of_each(labelled("a_0", "b_0", "ab_0"), 5, 0).max() == 2
