from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, softmax

from st_adapter.common.task import Task
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.calibration import calibrate, fit_temperatures, reliability
from st_adapter.evaluation.decisions import (
    choose_threshold,
    decide_by,
    fit_decisions,
    predicted_classes,
)

MANY = Task(multi_label=True)
HEADS = Task(heads=(("verb", 3), ("noun", 4)))


def answers(sharpness, count=3000, classes=4, seed=0):
    """Scores that are `sharpness` times as extreme as they should be, and labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 1.5
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    scores = softmax(logits * sharpness, axis=1).astype(np.float32)
    return scores, [(int(label),) for label in truth]


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
def test_a_temperature_undoes_what_makes_scores_too_sure(sharpness):
    scores, targets = answers(sharpness)
    (temperature,) = fit_temperatures(scores, targets, Task())
    assert temperature == pytest.approx(sharpness, rel=0.1)
    fresh, labels = answers(sharpness, seed=1)
    error, bins = reliability(calibrate(fresh, Task(), (temperature,)), labels, Task())
    assert error < 0.03
    assert sum(count for _, _, count in bins) == len(fresh)
    if sharpness != 1.0:
        assert reliability(fresh, labels, Task())[0] > 0.1


def test_a_few_right_answers_do_not_make_a_classifier_certain():
    scores = np.array([[0.8, 0.2]], np.float32)
    assert fit_temperatures(scores.repeat(5, 0), [(0,)] * 5, Task()) == (1.0,)
    temperatures = fit_temperatures(scores.repeat(20, 0), [(0,)] * 20, Task())
    assert 0.85 < float(calibrate(scores, Task(), temperatures)[0, 0]) < 0.98


def test_each_head_has_a_temperature_of_its_own():
    verb, verbs = answers(3.0, classes=3)
    noun, nouns = answers(0.5, classes=4, seed=1)
    scores = np.concatenate([verb, noun], axis=1)
    targets = [(v[0], 3 + n[0]) for v, n in zip(verbs, nouns, strict=True)]
    found = fit_temperatures(scores, targets, HEADS)
    assert found == pytest.approx((3.0, 0.5), rel=0.1)
    calibrated = calibrate(scores, HEADS, found)
    np.testing.assert_allclose(calibrated[:, :3].sum(1), 1, rtol=1e-5)
    before, after = (predicted_classes(s, HEADS, 0.5) for s in (scores, calibrated))
    assert before == after


def test_labels_of_any_number_are_calibrated_one_by_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2000, 5)) * 2
    shown = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    targets = [tuple(np.flatnonzero(row)) for row in shown]
    scores = expit(logits * 2).astype(np.float32)
    assert fit_temperatures(scores, targets, MANY) == pytest.approx((2.0,), rel=0.1)
    assert predicted_classes(np.array([[0.6, 0.2], [0.1, 0.1]]), MANY, 0.5) == [[0], []]


def test_the_second_of_two_classes_is_predicted_from_the_threshold_on():
    scores = np.array([[0.75, 0.25], [0.65, 0.35]])
    assert predicted_classes(scores, Task(), 0.5) == [[0], [0]]
    assert predicted_classes(scores, Task(), 0.3) == [[0], [1]]
    three = np.array([[0.5, 0.3, 0.2]])
    assert predicted_classes(three, Task(), 0.1) == [[0]]


def test_a_threshold_is_moved_only_where_held_out_videos_surely_call_for_it():
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2 == 1
    second = np.clip(rng.normal(np.where(truth, 0.4, 0.1), 0.08), 0, 1)
    assert 0.2 < choose_threshold(second, truth) < 0.35
    assert choose_threshold(second[:12], truth[:12]) == 0.5  # too few to tell
    assert choose_threshold(second[truth], truth[truth]) == 0.5  # a single class
    assert 0 < choose_threshold(second * 1e-7, truth) < 1e-7


def test_a_threshold_that_is_right_stays():
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(200):
        second = rng.beta(0.6, 3, 200)  # the second class is rare, and scores are calibrated
        truth = rng.random(200) < second
        moved += choose_threshold(second, truth) != 0.5
    assert moved <= 4


def test_decisions_stay_the_same_without_calibration(predictor):
    scores = np.random.default_rng(0).random((200, 2), np.float32)
    scores = scores / scores.sum(1, keepdims=True)
    spec = replace(predictor.spec, labels=("a", "b"), temperatures=(2.5,), threshold=0.3)
    raw = decide_by(spec, None, calibrated=False)
    calibrated = calibrate(scores, spec.task, spec.temperatures)
    assert raw.temperatures == ()
    assert predicted_classes(scores, raw.task, raw.threshold) == predicted_classes(
        calibrated, spec.task, spec.threshold
    )


def test_temperature_and_threshold_are_fitted_together(predictor):
    spec = replace(predictor.spec, labels=("a", "b"), temperatures=(), threshold=0.5)
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    second = np.clip(rng.normal(0.1 + 0.3 * truth, 0.08), 0.01, 0.99).astype(np.float32)
    scores = np.stack([1 - second, second], axis=1)
    fitted = fit_decisions(spec, scores, [(int(i),) for i in truth])
    calibrated = calibrate(scores, spec.task, fitted.temperatures)
    predicted = predicted_classes(calibrated, spec.task, fitted.threshold)
    assert np.mean(np.array(predicted)[:, 0] == truth) > 0.95
    assert np.mean(np.array(predicted_classes(scores, spec.task, 0.5))[:, 0] == truth) < 0.7


def test_a_threshold_that_cannot_be_is_refused(predictor):
    two = replace(predictor.spec, labels=("a", "b"))
    with pytest.raises(ArgumentError, match=r"above 0 and below 1, not 1\.5"):
        decide_by(two, 1.5, calibrated=True)
    three = replace(predictor.spec, labels=("a", "b", "c"))
    with pytest.raises(ArgumentError, match="this one has 3 classes"):
        decide_by(three, 0.3, calibrated=True)
