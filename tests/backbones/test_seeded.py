"""Random weights are the same everywhere, and cost the process none of its own random numbers."""

import threading

import pytest
import torch

from st_adapter.backbones.build import build_backbone, create_backbone
from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.digests import digest

VALUES = {
    "test_vit": 2.7025865,
    "test_resnet": -14.250598,
    "test_convnext": 13.471709,
    "vit_tiny_patch16_224": -34.972465,
    "resnet18": 161.71737,
}
"""Of random weights, as `weigh` adds them up. Runs were trained on them: they may never change."""


@pytest.mark.parametrize("name", VALUES)
def test_random_weights_are_those_that_earlier_runs_record(name):
    # Not their digest: processors differ in the last bit of the normal distribution's tails.
    assert weigh(build_backbone(name, "random")) == pytest.approx(VALUES[name], rel=1e-5)


def weigh(backbone):
    tensors = [tensor.double().flatten() for tensor in backbone.state_dict().values()]
    return sum(float(t @ torch.arange(len(t)).double().cos()) for t in tensors)


@pytest.mark.parametrize("name", ["test_vit", "pit_ti_224", "levit_128s"])
def test_weights_are_those_of_torchs_generator_with_the_same_seed(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = digest(create_backbone(name))
    with OwnRandom(7):
        assert digest(create_backbone(name)) == expected


def test_building_takes_no_number_of_the_process():
    before = torch.get_rng_state()
    build_backbone("test_vit", "random")
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_that_build_and_draw_at_the_same_time_do_not_meet():
    torch.manual_seed(0)
    expected, found = torch.rand(20 * 50), []
    torch.manual_seed(0)
    drawn, start = [], threading.Barrier(3)

    def build():
        start.wait()
        found.extend(digest(build_backbone("test_vit", "random")) for _ in range(20))

    builders = [threading.Thread(target=build) for _ in range(2)]
    for thread in builders:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in builders) and len(drawn) < len(expected):
        drawn.append(torch.rand(()))
    for thread in builders:
        thread.join()
    assert found == [digest(build_backbone("test_vit", "random"))] * 40
    assert torch.equal(torch.stack(drawn), expected[: len(drawn)])


def test_a_model_built_inside_another_seed_is_the_same():
    expected = digest(build_backbone("pit_ti_224", "random"))  # draws as it makes new tensors, too
    with OwnRandom(3):
        assert digest(build_backbone("pit_ti_224", "random")) == expected


def test_the_innermost_seed_and_a_generator_of_ones_own_prevail():
    def draw(seed):
        return torch.rand(3, generator=torch.Generator().manual_seed(seed))

    with OwnRandom(1), OwnRandom(2):
        assert torch.equal(torch.rand(3), draw(2))
        assert torch.equal(torch.rand(3, generator=torch.Generator().manual_seed(3)), draw(3))
    with OwnRandom(1):
        assert torch.equal(torch.empty(3).uniform_(), draw(1))
        assert torch.empty(3, device="meta").normal_().is_meta
        assert torch.rand(3, device="meta").is_meta
