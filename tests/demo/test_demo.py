from st_adapter.data.annotations import read_annotations
from st_adapter.data.video import decode
from st_adapter.demo import clips, story
from st_adapter.demo.picture import draw_comparison


def test_each_pair_is_one_motion_forwards_and_backwards(tmp_path):
    paths = list(clips.write_clips(tmp_path, clips.TEST_PHOTOS[:2], scenes_per_pair=2, seed=0))
    assert len(paths) == 2 * 2 * len(clips.PAIRS)
    assert len(read_annotations(tmp_path).labels) == 2 * len(clips.PAIRS)
    for pair in clips.PAIRS:
        for name in ("0000.mp4", "0001.mp4"):
            one, two = (
                decode.read_frames(tmp_path / label / name, range(clips.CLIP_FRAMES)).astype(float)
                for label in (pair.forward, pair.backward)
            )
            assert abs(one - two[::-1]).mean() < 4  # what compression leaves
            assert abs(one - two).mean() > 8


def test_test_photographs_are_never_trained_on():
    assert not set(clips.TRAIN_PHOTOS) & set(clips.TEST_PHOTOS)
    assert len({clips.load_photo(n).tobytes()[:4096] for n in clips.TRAIN_PHOTOS}) == 11


def test_the_order_of_sampled_frames_is_all_that_a_pair_differs_in():
    from st_adapter.data.frame_sampling import uniform

    chosen = uniform(clips.CLIP_FRAMES, story.demo_config("linear", 0).frames)
    assert [clips.CLIP_FRAMES - 1 - i for i in reversed(chosen)] == chosen


def test_all_methods_train_alike():
    configs = [story.demo_config(method, 0).to_json() for method in story.METHODS]
    for config in configs:
        config.pop("method")
    assert configs[0] == configs[1] == configs[2]


def test_the_picture_is_drawn(tmp_path):
    list(clips.write_clips(tmp_path / "clips", clips.TEST_PHOTOS, scenes_per_pair=1, seed=0))
    bars = {name: {"x": 0.5, "all": 0.7} for name in story.METHODS.values()}
    draw_comparison(tmp_path / "picture.png", tmp_path / "clips", bars)
    assert (tmp_path / "picture.png").stat().st_size > 20_000
