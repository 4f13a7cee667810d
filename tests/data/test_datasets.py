from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from conftest import numbered_frame, read_number, write_video
from st_adapter.config import ClipConfig
from st_adapter.data.annotations import read_annotations
from st_adapter.data.augment.transform import TrainTransform
from st_adapter.data.batches import EpochSampler, collate_train
from st_adapter.data.clip_dataset import ClipDataset
from st_adapter.data.clips import as_clips
from st_adapter.data.datasets import TrainDataset, ViewDataset
from st_adapter.data.reading import read_clips, read_views, spatial_views
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError, DataError

TRANSFORM = TrainTransform(
    size=32, crop="area", crop_range=(0.5, 1.0), flip=True, randaugment=False
)
CLIP = ClipConfig(frames=4, size=32)


@pytest.fixture
def broken(folder_data, tmp_path):
    """Ten good videos and two that are not."""
    videos = list(read_annotations(folder_data).train)
    for i, content in ((0, b""), (7, b"nonsense" * 100)):
        path = tmp_path / f"broken{i}.mp4"
        path.write_bytes(content)
        videos[i] = Video(path=path, targets=videos[i].targets)
    return videos


def test_a_broken_file_is_replaced_by_one_of_its_class_and_reported(broken):
    dataset = TrainDataset(broken, CLIP, TRANSFORM, seed=0)
    for index, reason in ((0, "the file is empty"), (7, "cannot be decoded")):
        item = dataset[0, index]
        assert item.targets == (broken[index].targets,)
        assert item.clips[0].shape == (4, 3, 32, 32)
        assert item.clips[0].dtype == torch.uint8
        assert item.clips[0].float().std() > 1  # a picture, not zeros
        (skip,) = item.skipped
        assert skip.path == str(broken[index].path)
        assert reason in skip.reason


def test_a_class_without_a_readable_video_gives_way_to_another(broken):
    alone = [v for v in broken if v.path.stat().st_size == 0] + broken[-2:]
    item = TrainDataset(alone, CLIP, TRANSFORM, seed=0)[0, 0]
    assert item.targets == (broken[-1].targets,) != (alone[0].targets,)
    assert "the file is empty" in item.skipped[0].reason


def test_no_readable_video_at_all_is_an_error_as_a_value(broken):
    bad = [broken[0], broken[7]]
    error = collate_train(2, [TrainDataset(bad, CLIP, TRANSFORM, seed=0)[0, 0]])
    assert isinstance(error, DataError)
    assert "no training video could be read; last error: " in str(error)


def test_evaluation_names_what_it_cannot_read(broken):
    views = [ViewDataset(broken, CLIP)[i] for i in range(len(broken))]
    unread = [v.index for v in views if v.clips is None]
    assert unread == [0, 7]
    assert "broken0.mp4: the file is empty" in views[0].reason


def test_a_clip_depends_on_seed_epoch_and_index_alone(folder_data):
    videos = read_annotations(folder_data).train
    one, two = (TrainDataset(videos, CLIP, TRANSFORM, seed=5) for _ in range(2))
    assert torch.equal(one[1, 2].clips[0], two[1, 2].clips[0])
    assert not torch.equal(one[1, 2].clips[0], one[2, 2].clips[0])
    other = TrainDataset(videos, CLIP, TRANSFORM, seed=6)
    assert not torch.equal(one[1, 2].clips[0], other[1, 2].clips[0])


def test_views_are_all_squares_of_all_windows_in_that_order(tmp_path):
    path = write_video(tmp_path / "n.mp4", [numbered_frame(i) for i in range(40)])
    clip = ClipConfig(frames=2, stride=4, size=64, views=(3, 3))
    clips, clip_of = read_views(Video(path=path), clip)
    assert clip_of == list(range(9))
    views = clips[clip_of]
    assert views.shape == (9, 2, 64, 64, 3)
    for window, start in enumerate((0, 18, 35)):
        (frames,) = read_clips(Video(path=path), [lambda n, s=start: [s, s + 4]], 64)
        for square, left in enumerate((0, 16, 32)):
            assert np.array_equal(views[3 * window + square], frames[:, :, left : left + 64])


def test_three_spatial_views_run_along_the_long_side():
    columns = np.zeros((2, 40, 80, 3), np.uint8) + np.arange(80, dtype=np.uint8)[:, None]
    assert [view[0, 0, 0, 0] for view in spatial_views(columns, 40, 3)] == [0, 20, 40]
    rows = columns.swapaxes(1, 2)
    assert [view[0, 0, 0, 0] for view in spatial_views(rows, 40, 3)] == [0, 20, 40]
    assert [view[0, 0, 0, 0] for view in spatial_views(columns, 40, 1)] == [20]


@pytest.mark.parametrize(
    ("stride", "width", "expected"),
    [
        (16, 96, [0, 1, 2] * 3),  # shorter than a window
        (16, 64, [0] * 9),
        (4, 64, [0, 0, 0, 1, 1, 1, 2, 2, 2]),
    ],
)
def test_views_that_are_the_same_are_cut_once(tmp_path, stride, width, expected):
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, width, 3), np.uint8)
    frames = list(noise)
    path = write_video(tmp_path / "n.mp4", frames)
    clip = ClipConfig(frames=4, stride=stride, size=64, views=(3, 3))
    clips, clip_of = read_views(Video(path=path), clip)
    assert clip_of == expected
    different = {clip.tobytes() for clip in clips}
    assert len(clips) == len(different) == max(expected) + 1


def test_segment_limits_the_frames_chosen(tmp_path):
    path = write_video(tmp_path / "n.mp4", [numbered_frame(i) for i in range(40)])
    segment = Video(path=path, start_seconds=1.0, end_seconds=2.0)
    seen = []

    def choose(num_frames):
        seen.append(num_frames)
        return [0, num_frames - 1]

    (frames,) = read_clips(segment, [choose], None)
    assert seen == [10]
    assert [read_number(frame) for frame in frames] == [10, 19]


def test_a_file_that_ends_early_is_sampled_from_what_there_is(tmp_path):
    path = write_video(tmp_path / "n.avi", [numbered_frame(i) for i in range(40)], codec="mpeg4")
    path.write_bytes(path.read_bytes()[:-200])
    (frames,) = read_clips(Video(path=path), [lambda n: [0, n - 1]], None)
    assert 20 < read_number(frames[1]) < 40


def test_each_epoch_visits_each_video_once_in_its_own_order():
    sampler = EpochSampler(num_videos=10, step_videos=4, batch_videos=4, seed=0)
    first = list(sampler)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(index for batch in first for _, index in batch) == list(range(10))
    sampler.epoch = 1
    assert [i for b in sampler for _, i in b] != [i for b in first for _, i in b]
    sampler.epoch, sampler.first_step = 0, 2
    assert list(sampler) == first[2:]


def test_collate_keeps_uint8(folder_data):
    dataset = TrainDataset(read_annotations(folder_data).train, CLIP, TRANSFORM, seed=0)
    batch = collate_train(2, [dataset[0, 0], dataset[0, 11]])
    assert batch.clips.shape == (2, 4, 3, 32, 32)
    assert batch.clips.dtype == torch.uint8
    assert batch.targets.tolist() == [[1, 0], [0, 1]]


def test_a_reversed_clip_stands_beside_its_own_as_the_other_class(folder_data):
    videos = read_annotations(folder_data).train
    dataset = TrainDataset(videos, CLIP, TRANSFORM, seed=0, reversal={0: 1, 1: 0})
    batch = collate_train(2, [dataset[0, 0], dataset[0, len(videos) - 1]])
    assert batch.targets.argmax(1).tolist() == [0, 1, 1, 0]
    assert torch.equal(batch.clips[2:], batch.clips[:2].flip(1))


def test_a_mirrored_clip_is_what_a_mirror_makes_of_its_class(folder_data):
    videos = read_annotations(folder_data).train
    still = replace(TRANSFORM, crop_range=(1.0, 1.0), flip=True)
    plain = TrainDataset(videos, CLIP, replace(still, flip=False), seed=0)
    for mirror, seen in (({}, {0}), ({0: 1, 1: 0}, {0, 1}), ({0: -1}, {0})):
        dataset = TrainDataset(videos, CLIP, still, seed=0, mirror=mirror)
        targets, flipped = set(), 0
        for epoch in range(20):
            item, same = dataset[epoch, 0], plain[epoch, 0]
            is_flipped = torch.equal(item.clips[0], same.clips[0].flip(-1))
            assert is_flipped or torch.equal(item.clips[0], same.clips[0])
            assert item.targets == ((mirror.get(0, 0) if is_flipped else 0,),)
            targets.add(item.targets[0][0])
            flipped += is_flipped
        assert targets == seen
        assert (flipped == 0) == (mirror == {0: -1})


def test_repeats_are_other_draws_of_one_decoding_and_stand_apart(folder_data):
    videos = read_annotations(folder_data).train
    dataset = TrainDataset(videos, CLIP, TRANSFORM, seed=0, repeats=2, reversal={0: 1, 1: 0})
    first, last = dataset[0, 0], dataset[0, len(videos) - 1]
    assert first.targets == ((0,), (0,), (1,), (1,))
    assert not torch.equal(first.clips[0], first.clips[1])
    batch = collate_train(2, [first, last])
    assert batch.targets.argmax(1).tolist() == [0, 1, 0, 1, 1, 0, 1, 0]


def test_a_clip_dataset_draws_anew_for_training_and_shows_the_same_for_evaluation(folder_data):
    clip = ClipConfig(frames=3, size=32, views=(2, 1))
    paths = sorted(folder_data.glob("*/*.mp4"))
    videos = [Video(path=path, targets=(i // 6,)) for i, path in enumerate(paths)]
    training = ClipDataset(videos, clip, TrainTransform(size=32, flip=True))
    torch.manual_seed(3)
    drawn = [training[7][0] for _ in range(3)]
    torch.manual_seed(3)
    assert torch.equal(training[7][0], drawn[0])
    assert not torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape == (3, 3, 32, 32)
    assert drawn[0].dtype == torch.uint8
    shown = ClipDataset(videos, clip)
    assert [len(shown), shown[7][1], shown[0][1]] == [12, 1, 0]
    expected, _ = read_views(videos[7], replace(clip, views=(1, 1)))
    assert torch.equal(shown[7][0], as_clips(expected[0]))
    clips, targets = next(iter(DataLoader(training, batch_size=4, num_workers=0)))
    assert clips.shape == (4, 3, 3, 32, 32)
    assert targets.tolist() == [0, 0, 0, 0]


def test_a_clip_dataset_refuses_what_it_cannot_pair(folder_data):
    path = next(folder_data.glob("*/*.mp4"))
    with pytest.raises(ArgumentError, match="has 2 classes instead of one"):
        ClipDataset([Video(path=path, targets=(0, 1))], ClipConfig())
    with pytest.raises(ArgumentError, match="clips of 224 pixels and a transform to 32; give one"):
        ClipDataset([], ClipConfig(), TrainTransform(size=32))
