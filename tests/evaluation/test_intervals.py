import numpy as np
import pytest

from st_adapter.evaluation.intervals import (
    class_mean_interval,
    effective_count,
    mean_interval,
    share_interval,
    wilson,
)

EVALUATIONS = 600


def coverage(interval_and_truth):
    """Share of simulated evaluations whose interval holds the true value."""
    found = [interval_and_truth() for _ in range(EVALUATIONS)]
    return np.mean([low <= truth <= high for (low, high), truth in found])


def test_wilson_is_that_of_the_literature():
    # Newcombe, Statistics in Medicine 17, 1998, table I, method 3
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0 / 20, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(("share", "count"), [(0.6, 14), (0.7, 60), (0.85, 30), (0.9, 200)])
def test_an_accuracy_is_covered(share, count):
    rng = np.random.default_rng(count)

    def evaluation():
        return share_interval(rng.random(count) < share), share

    assert 0.92 <= coverage(evaluation) <= 0.98


@pytest.mark.parametrize(("groups", "size"), [(15, 4), (30, 10)])
def test_an_accuracy_is_covered_where_groups_share_their_luck(groups, size):
    rng = np.random.default_rng(groups)
    names = [str(group) for group in range(groups) for _ in range(size)]

    def videos():
        easy = rng.beta(3.2, 0.8, groups).repeat(size)
        return rng.random(len(names)) < easy

    assert 0.92 <= coverage(lambda: (share_interval(videos(), names), 0.8)) <= 0.98
    # Counted as independent videos, they seem to tell more than they do.
    assert coverage(lambda: (share_interval(videos()), 0.8)) < 0.92


@pytest.mark.parametrize(("classes", "count"), [(2, 20), (6, 10), (50, 8)])
def test_a_mean_over_classes_is_covered(classes, count):
    rng = np.random.default_rng(classes)
    truth = np.linspace(0.6, 0.98, classes)

    def evaluation():
        shares = rng.binomial(count, truth) / count
        return mean_interval(shares, [count] * classes), truth.mean()

    assert 0.92 <= coverage(evaluation) <= 0.98


def test_a_mean_over_classes_is_covered_where_groups_span_classes():
    rng = np.random.default_rng(1)
    classes = np.tile(np.arange(6), 75)
    groups = np.repeat(np.arange(25), 18)

    def evaluation():
        truth = rng.beta(3.2, 0.8, 25)[groups]
        hits = rng.random(450) < truth
        return class_mean_interval(hits, classes, [str(group) for group in groups]), 0.8

    assert 0.92 <= coverage(evaluation) <= 0.98


def test_groups_count_for_what_they_tell():
    assert effective_count(np.array([1, 0, 1])) == 3
    assert effective_count(np.array([1, 0, 1]), ["a", "b", "c"]) == 3
    assert effective_count(np.array([1, 1, 0, 0]), ["a", "a", "a", "a"]) == 1
    assert effective_count(np.ones(6), ["a", "a", "a", "b", "b", "b"]) == 2
    alike = [group for group in "abcdefghij" for _ in range(5)]
    same = np.repeat([1, 0, 1, 1, 0, 1, 1, 1, 0, 1], 5)
    assert effective_count(same, alike) < 10
    mixed = np.tile([1, 0, 1, 1, 0], 10)
    assert effective_count(mixed, alike) > 35
