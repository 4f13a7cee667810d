import random

import pytest
import torch

from st_adapter.data.augment.mixup import Mixer
from st_adapter.data.augment.randaugment import OPERATIONS, randaugment
from st_adapter.data.augment.transform import TrainTransform, random_area_box


def still_clip(height=60, width=80, frames=4):
    frame = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    return frame.expand(frames, 3, height, width).contiguous()


def transform(**changes):
    values = {"size": 32, "crop": "area", "crop_range": (0.08, 1.0), "flip": True}
    return TrainTransform(**({**values, "randaugment": False} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"randaugment": True},
        {"color_jitter": 0.4, "erasing": 1.0},
        {"crop": "jitter", "crop_range": (1.0, 1.15), "size": 50},
    ],
)
def test_one_draw_serves_all_frames_of_a_clip(changes):
    make = transform(**changes)
    for seed in range(20):
        clip = make(still_clip(), random.Random(seed))
        assert clip.dtype == torch.uint8
        assert clip.shape == (4, 3, make.size, make.size)
        assert torch.equal(clip, clip[:1].expand_as(clip))


@pytest.mark.parametrize(
    "changes", [{"randaugment": True}, {"color_jitter": 0.4}, {"erasing": 1.0}]
)
def test_the_same_draw_repeats_and_another_differs(changes):
    make, clip = transform(crop_range=(1.0, 1.0), **changes), still_clip(32, 32)
    assert torch.equal(make(clip, random.Random(3)), make(clip, random.Random(3)))
    assert not torch.equal(make(clip, random.Random(3)), make(clip, random.Random(4)))


def test_short_side_is_jittered_within_its_range():
    make = transform(crop="jitter", crop_range=(1.0, 1.15), size=224)
    sides = {make.short_side(random.Random(i)) for i in range(500)}
    assert min(sides) == 224
    assert max(sides) == 258
    assert transform().short_side(random.Random(0)) is None


def test_area_boxes_stay_inside_and_cover_the_range():
    rng = random.Random(0)
    areas = []
    for _ in range(500):
        top, left, h, w = random_area_box(60, 80, (0.08, 1.0), rng)
        assert top >= 0
        assert left >= 0
        assert top + h <= 60
        assert left + w <= 80
        areas.append(h * w / 4800)
    assert min(areas) < 0.12
    assert max(areas) > 0.85


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_each_operation_changes_the_picture_and_keeps_its_form(name):
    clip = still_clip() // 2 + 20  # a picture with room on both ends of its range
    result = OPERATIONS[name](clip, 0.7, 1.0)
    assert result.shape == clip.shape
    assert result.dtype == torch.uint8
    assert not torch.equal(result, clip)


def test_half_of_four_operations_happen():
    clip, unchanged = still_clip(), 0
    for seed in range(300):
        unchanged += torch.equal(randaugment(clip, random.Random(seed)), clip)
    assert 5 <= unchanged <= 40  # one in sixteen is 19


def test_draws_leave_the_global_generator_alone():
    clip, before = still_clip(), torch.get_rng_state()
    transform(color_jitter=0.4, erasing=1.0)(clip, random.Random(0))
    Mixer(0.8, 1.0, seed=0)(torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8), torch.eye(2), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_erasing_greys_one_box_of_a_share_of_the_clips():
    make, clip = transform(crop_range=(1.0, 1.0), erasing=0.5), still_clip(32, 32) // 2
    erased = [(make(clip, random.Random(i)) == 128).all(1) for i in range(200)]
    shares = [box.float().mean().item() for box in erased if box.any()]
    assert 60 < len(shares) < 140
    assert 0.01 < min(shares) < max(shares) < 0.4


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_mixed_in_the_shares_of_the_pixels(mixup, cutmix):
    clips = torch.stack([torch.full((2, 3, 32, 32), 255.0 * i) for i in range(2)]).byte()
    kinds = set()
    for batch in range(20):
        mixed, targets = Mixer(mixup, cutmix, seed=0)(clips, torch.eye(2), batch)
        torch.testing.assert_close(targets.sum(1), torch.ones(2))
        torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), targets[:, 1])
        torch.testing.assert_close(mixed[:, 0], mixed[:, 1])  # both frames alike
        again, _ = Mixer(mixup, cutmix, seed=0)(clips, torch.eye(2), batch)
        assert torch.equal(mixed, again)
        kinds.add("mixup" if mixed.unique().numel() < 3 and mixed.min() > 0 else "cutmix")
    assert len(kinds) == 1 + bool(mixup and cutmix)
