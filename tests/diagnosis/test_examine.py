"""What one look at each video finds: shared scenes, and files that give their class away."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_video
from st_adapter.data.annotations import Annotations
from st_adapter.data.video.packets import probe
from st_adapter.data.videos import Video, VideoList
from st_adapter.diagnosis.examine import examine
from st_adapter.diagnosis.facts import VideoFacts
from st_adapter.diagnosis.file_facts import fit_file_facts
from st_adapter.diagnosis.scenes import digest_frame, distances, find_shared_scenes, source_of
from st_adapter.diagnosis.warnings import shared_scenes, told_by_files


def scene(seed, height=64, width=80):
    """A picture of coloured blobs, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(0, 255, (1, 3, 6, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return smooth[0].clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def noisy(picture, seed):
    """The picture brighter, with noise: another moment of the same scene."""
    noise = np.random.default_rng(seed).normal(12, 6, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def boxed(picture):
    """The picture between two black bars, as a portrait video in a landscape file."""
    bars = np.zeros_like(picture)
    rows = np.arange(64) * picture.shape[0] // 64
    columns = np.arange(32) * picture.shape[1] // 32
    bars[:, 24:56] = picture[rows][:, columns]
    return bars


def video_list(names, targets):
    return VideoList(names, [(target,) for target in targets])


def test_frames_of_a_scene_have_near_digests_and_others_have_not():
    pictures = [scene(seed) for seed in range(30)]
    digests = [digest_frame(picture) for picture in pictures]
    again = [digest_frame(noisy(picture, seed)) for seed, picture in enumerate(pictures)]
    apart = distances(digests, again)
    assert apart.shape == (30, 30)
    assert np.diag(apart).max() < 0.3
    assert apart[~np.eye(30, dtype=bool)].min() > 0.3
    assert distances(digests, digests)[0, 0] == 0


def test_black_bars_do_not_make_scenes_alike():
    boxes = [digest_frame(boxed(scene(seed))) for seed in range(20)]
    assert distances(boxes, boxes)[~np.eye(20, dtype=bool)].min() > 0.3


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_uniform_frame_is_not_recognised(level):
    frame = np.full((64, 80, 3), level, np.uint8)
    assert digest_frame(frame) is None
    assert distances([None], [None])[0, 0] == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("Archery/v_Archery_g01_c02.mp4", "v_Archery_g01_c"),  # UCF101: film and clip
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "April_09_brush_hair_u_nm_np1_ba_goo_"),
        ("_8Vy3dlHg2w_00000.mp4", "_8Vy3dlHg2w_"),  # Diving48: address of the film and dive
        ("2026-05-03_cam2_0001.mp4", "2026-05-03_cam2_"),
        ("abc_000010_000020.mp4", "abc_000010_"),  # Kinetics: start and end, unique for a film
        ("12345.webm", None),  # Something-Something v2
        ("clip 3.mp4", None),
        ("Archery_0004.mp4", None),  # a stem for a whole class
        ("dQw4w9WgXcQ.mp4", None),
        ("S001C001P001R001A001_rgb.avi", None),
    ],
)
def test_a_source_is_a_name_without_its_last_number_if_it_still_has_one(name, source):
    assert source_of(name) == source


def looks(groups, sources_look_alike):
    """Digests of videos: those of a group show one scene, or each shows its own."""
    seeds = groups if sources_look_alike else range(len(groups))
    return [digest_frame(noisy(scene(seed), i)) for i, seed in enumerate(seeds)]


def test_names_are_believed_if_their_videos_look_alike():
    groups = [g for g in range(8) for _ in range(4)]
    names = [f"/d/class{g % 2}/film{g}_{i}.mp4" for i, g in enumerate(groups)]
    targets = [g % 2 for g in groups]
    val = list(range(0, 32, 4))
    train = [i for i in range(32) if i not in val]
    for alike, by_name in ((True, 8), (False, 0)):
        digests = looks(groups, alike)
        found = find_shared_scenes(
            *(video_list([names[i] for i in train], [targets[i] for i in train]),),
            [digests[i] for i in train],
            video_list([names[i] for i in val], [targets[i] for i in val]),
            [digests[i] for i in val],
        )
        assert (found.num_videos, found.by_name) == (8, by_name)
        assert found.shared == by_name
        assert found.by_frame == by_name
        assert bool(shared_scenes(VideoFacts(classes={}, scenes=found))) == alike


def test_one_stem_for_a_whole_class_is_not_a_source():
    names = [f"/d/batch{label}_{i}.mp4" for label in (1, 2) for i in range(12)]
    targets = [0] * 12 + [1] * 12
    digests = looks(range(24), sources_look_alike=True)
    val = [0, 1, 12, 13]
    train = [i for i in range(24) if i not in val]
    found = find_shared_scenes(
        video_list([names[i] for i in train], [targets[i] for i in train]),
        [digests[i] for i in train],
        video_list([names[i] for i in val], [targets[i] for i in val]),
        [digests[i] for i in val],
    )
    assert (found.shared, found.by_name) == (0, 0)


def test_segments_of_one_file_share_its_scene():
    segments = VideoList(["/d/long.mp4"], [(0,)], [0.0], [4.0])
    later = VideoList(["/d/long.mp4"], [(1,)], [90.0], [94.0])
    first, second = digest_frame(scene(1)), digest_frame(scene(2))
    assert find_shared_scenes(segments, [first], later, [second]).shared == 1


def test_pairs_that_look_alike_under_different_labels_are_counted():
    digests = looks([0, 0, 1, 1], sources_look_alike=True)
    train = video_list([f"/d/{i}.mp4" for i in range(4)], [0, 1, 1, 1])
    found = find_shared_scenes(train, digests, video_list(["/d/v.mp4"], [0]), looks([9], True))
    assert (found.alike, found.alike_apart) == (2, 1)


def facts_of(rows):
    return np.array(rows, dtype=np.float64)


def test_a_resolution_for_each_class_is_found():
    sizes = [(320, 240), (640, 360), (426, 240), (1280, 720), (854, 480), (176, 144)]
    rows = facts_of([(*size, 25, 3 + i % 5) for i in range(20) for size in sizes])
    targets = np.array([label for _ in range(20) for label in range(6)])
    labels = [f"class {i}" for i in range(6)]
    found = fit_file_facts(rows[:60], targets[:60], rows[60:], targets[60:], labels)
    assert found.accuracy == 1
    assert set(found.uses) <= {"width", "height"}
    assert found.gain == 1


def test_one_class_of_another_resolution_is_found_by_name():
    rng = np.random.default_rng(0)
    targets = np.arange(180) % 6
    widths = np.where(targets == 4, 640, 320)
    rows = np.stack([widths, np.full(180, 240), np.full(180, 25), rng.uniform(2, 9, 180)], 1)
    labels = [f"class {i}" for i in range(6)]
    found = fit_file_facts(rows[:90], targets[:90], rows[90:], targets[90:], labels)
    assert (found.label, found.found, found.false_alarms) == ("class 4", 15, 0)
    assert "recognises class 4 (right in 15 of its 15 videos, wrong in 0 of 75 others)" in (
        told_by_files(VideoFacts(classes={}, file_facts=found))
    )


@pytest.mark.parametrize("seed", range(20))
def test_facts_that_do_not_depend_on_the_class_are_no_reason_to_warn(seed):
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.choice([320, 640], 200), rng.choice([240, 360], 200)], 1)
    rows = np.concatenate([rows, rng.choice([25, 30], (200, 1)), rng.uniform(2, 9, (200, 1))], 1)
    targets = rng.integers(0, 2, 200)
    found = fit_file_facts(rows[:120], targets[:120], rows[120:], targets[120:], ["a", "b"])
    assert told_by_files(VideoFacts(classes={}, file_facts=found)) is None


def test_too_few_videos_say_nothing_about_files():
    rows, none = facts_of([(1, 1, 1, 1)] * 4), facts_of([]).reshape(0, 4)
    assert fit_file_facts(rows, np.array([0, 0, 1, 1]), rows, np.array([0, 0, 1, 1]), "ab") is None
    assert fit_file_facts(rows, np.array([0] * 4), none, np.array([], np.int64), "ab") is None


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Annotations:
    """Two classes that differ in width, and two validation videos of scenes from training."""
    root = tmp_path_factory.mktemp("parts")

    def film(name, label, seed):
        picture = scene(seed, width=(80, 96)[label])
        path = write_video(root / name, [picture] * 6, rate=(10, 12)[label])
        return Video(path=path, targets=(label,))

    train = [film(f"train{i}.mp4", i % 2, i) for i in range(12)]
    val = [film(f"val{i}.mp4", i % 2, i if i < 2 else 100 + i) for i in range(10)]
    labels = ("narrow", "wide")
    return Annotations(labels=labels, train=VideoList.of(train), val=VideoList.of(val))


@pytest.mark.parametrize("workers", [0, 1])
def test_examining_videos_finds_shared_scenes_and_telling_files(parts, workers):
    found = examine(parts, probe, workers=workers)
    assert found.classes == {"narrow": (6, 5), "wide": (6, 5)}
    assert (found.scenes.shared, found.scenes.by_frame, found.scenes.by_name) == (2, 2, 0)
    assert [Path(path).name for path in found.scenes.examples[0]] == ["val0.mp4", "train0.mp4"]
    assert found.file_facts.accuracy == 1
    assert found.median_seconds == pytest.approx((0.5 + 5 / 12) / 2)
    assert VideoFacts.from_json(asdict(found)) == found


def test_videos_that_cannot_be_read_are_left_out(parts, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    broken = [Video(path=tmp_path / name, targets=(0,)) for name in ("broken.mp4", "gone.mp4")]
    more = replace(parts, val=VideoList.of([*parts.val, *broken]))
    assert examine(more, probe).scenes == examine(parts, probe).scenes


def test_parts_without_a_readable_video_give_no_warning(parts, tmp_path):
    gone = VideoList.of([Video(path=tmp_path / f"{i}.mp4", targets=(i % 2,)) for i in range(4)])
    found = examine(replace(parts, train=gone, val=gone), probe)
    assert found.file_facts is None
    assert shared_scenes(found) is None


def test_large_parts_are_sampled_the_same_way_each_time(parts, monkeypatch):
    monkeypatch.setattr("st_adapter.diagnosis.examine._MOST_VAL", 4)
    assert examine(parts, probe).scenes.num_videos == 4
    assert examine(parts, probe) == examine(parts, probe)
    assert examine(parts, probe).classes == {"narrow": (6, 5), "wide": (6, 5)}
