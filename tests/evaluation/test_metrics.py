import numpy as np
import pytest
import torch

from st_adapter.common.task import Task
from st_adapter.errors import DataError
from st_adapter.evaluation.metrics import measure

VERBS, NOUNS = 7, 9
HEADS = Task(heads=(("verb", VERBS), ("noun", NOUNS)))
NAMES = [f"verb/{i}" for i in range(VERBS)] + [f"noun/{i}" for i in range(NOUNS)]


def test_one_label_by_hand():
    targets = [(0,), (0,), (0,), (1,), (1,), (2,)]
    result = measure(torch.eye(4)[[0, 0, 1, 1, 3, 2]], targets, "abcd", Task())
    assert result.top1 == result.score == pytest.approx(4 / 6)
    assert result.top5 == 1.0
    assert result.mean_class_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert result.confusion == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert result.per_class["d"] == {"accuracy": None, "num_videos": 0}
    assert result.heads == {}


def test_top5_counts_the_five_best_of_many():
    scores = torch.arange(10.0).softmax(0).expand(2, 10)
    result = measure(scores, [(5,), (4,)], "abcdefghij", Task())
    assert (result.top1, result.top5) == (0.0, 0.5)


def test_an_action_is_its_verb_and_noun_as_in_epic_kitchens():
    rng = np.random.default_rng(0)
    verb, noun = rng.random((500, VERBS)) ** 4, rng.random((500, NOUNS)) ** 4
    truth = np.stack([rng.integers(VERBS, size=500), rng.integers(NOUNS, size=500)], axis=1)
    verb[np.arange(500), truth[:, 0]] += 0.7
    noun[np.arange(500), truth[:, 1]] += 0.5
    scores = torch.tensor(np.concatenate([verb, noun], axis=1))
    targets = [(v, VERBS + n) for v, n in truth.tolist()]
    result = measure(scores, targets, NAMES, HEADS)

    actions = (verb[:, :, None] * noun[:, None]).reshape(500, -1)  # every product
    best = np.argsort(-actions, axis=1)[:, :5]
    right = best == (truth[:, 0] * NOUNS + truth[:, 1])[:, None]
    assert 0.1 < right[:, 0].mean() < 0.9
    assert result.top1 == result.score == pytest.approx(right[:, 0].mean())
    assert result.top5 == pytest.approx(right.any(1).mean())
    for name, part, own in (("verb", verb, truth[:, 0]), ("noun", noun, truth[:, 1])):
        order = np.argsort(-part, axis=1)
        assert result.heads[name]["top1"] == pytest.approx((order[:, 0] == own).mean())
        top5 = (order[:, :5] == own[:, None]).any(1).mean()
        assert result.heads[name]["top5"] == pytest.approx(top5)
    confusion = np.array(result.confusion)
    assert confusion[:VERBS, :VERBS].sum() == confusion[VERBS:, VERBS:].sum() == 500
    assert confusion.sum() == 1000
    assert result.per_class["noun/3"]["num_videos"] == (truth[:, 1] == 3).sum()


def test_mean_average_precision_is_that_of_the_classes_that_occur():
    rng = np.random.default_rng(0)
    scores = rng.random((40, 6)).astype(np.float32)
    shown = rng.random((40, 6)) < 0.3
    shown[:, 2] = False
    expected = []
    for column in (0, 1, 3, 4, 5):
        hits = shown[np.argsort(-scores[:, column]), column]
        precision = np.cumsum(hits) / np.arange(1, 41)
        expected.append(precision[hits].mean())
    targets = [tuple(np.flatnonzero(row).tolist()) for row in shown]
    result = measure(torch.tensor(scores), targets, "abcdef", Task(multi_label=True))
    assert result.mean_average_precision == result.score == pytest.approx(np.mean(expected))
    assert result.per_class["b"]["average_precision"] == pytest.approx(expected[1])
    assert result.per_class["c"] == {"average_precision": None, "num_videos": 0}
    assert result.top1 == pytest.approx(shown[np.arange(40), scores.argmax(1)].mean())
    assert (result.mean_class_accuracy, result.confusion) == (None, [])


def test_no_label_at_all_cannot_be_measured():
    with pytest.raises(DataError, match=r"no video has a label \(0 of 2\)"):
        measure(torch.rand(2, 3), [(), ()], "abc", Task(multi_label=True))


def test_a_head_may_have_one_class():
    task = Task(heads=(("verb", 1), ("noun", 2)))
    result = measure(torch.tensor([[1.0, 0.2, 0.8]]), [(0, 1)], ("v/a", "n/a", "n/b"), task)
    assert (result.top1, result.heads["noun"]["top1"]) == (0.0, 0.0)
    assert result.heads["verb"]["top1"] == 1.0
