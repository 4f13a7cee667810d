import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    precision_recall_fscore_support,
)

from st_adapter.common.task import Task
from st_adapter.errors import DataError
from st_adapter.evaluation.metrics import measure

VERBS, NOUNS = 7, 9
HEADS = Task(heads=(("verb", VERBS), ("noun", NOUNS)))
NAMES = [f"verb/{i}" for i in range(VERBS)] + [f"noun/{i}" for i in range(NOUNS)]


def test_one_label_by_hand():
    targets = [(0,), (0,), (0,), (1,), (1,), (2,)]
    result = measure(np.eye(4)[[0, 0, 1, 1, 3, 2]], targets, "abcd", Task())
    assert result.top1 == result.score == pytest.approx(4 / 6)
    assert result.top5 is None  # there are only four classes
    assert result.mean_class_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert result.confusion == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert result.heads == {}
    assert result.baselines == {"largest_class": 0.5}
    assert result.intervals["top1"] == pytest.approx((0.300, 0.903), abs=5e-4)  # Wilson's of 4 of 6
    assert result.per_class["a"] == {
        "num_videos": 3,
        "accuracy": pytest.approx(2 / 3),
        "interval": pytest.approx((0.208, 0.939), abs=5e-4),
        "precision": 1.0,
        "f1": pytest.approx(0.8),
        "average_precision": pytest.approx(5 / 6),
    }
    unseen = dict.fromkeys(("accuracy", "interval", "f1", "average_precision"))
    assert result.per_class["d"] == unseen | {"num_videos": 0, "precision": 0.0}
    assert (result.threshold, result.binary) == (None, None)


def test_each_class_against_the_others_is_as_scikit_learn_measures_it():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(5), 80)
    truth = rng.integers(5, size=80)
    scores[np.arange(80), truth] += 0.2
    result = measure(scores, [(int(i),) for i in truth], "abcde", Task())
    precision, recall, f1, members = precision_recall_fscore_support(truth, scores.argmax(1))
    for i, values in enumerate(result.per_class.values()):
        assert values["precision"] == pytest.approx(precision[i])
        assert values["accuracy"] == pytest.approx(recall[i])
        assert values["f1"] == pytest.approx(f1[i])
        assert values["num_videos"] == members[i]
        expected = average_precision_score(truth == i, scores[:, i])
        assert values["average_precision"] == pytest.approx(expected)
    assert result.mean_class_accuracy == pytest.approx(
        balanced_accuracy_score(truth, scores.argmax(1))
    )


def test_two_classes_have_curves_and_a_threshold():
    second = np.array([0.1, 0.4, 0.35, 0.8])
    scores = np.stack([1 - second, second], axis=1)
    targets = [(0,), (0,), (1,), (1,)]
    result = measure(scores, targets, ("no", "yes"), Task(), threshold=0.3)
    assert result.top1 == 0.75
    assert result.confusion == [[1, 1], [0, 2]]
    assert result.threshold == 0.3
    assert result.binary["positive"] == "yes"
    assert result.binary["roc_auc"] == pytest.approx(0.75)
    assert result.binary["average_precision"] == pytest.approx(0.8333, abs=1e-4)
    assert result.binary["roc"][0] == (0.0, 0.0)
    assert result.binary["roc"][-1] == (1.0, 1.0)
    one_kind = measure(scores[:2], targets[:2], ("no", "yes"), Task())
    assert (one_kind.top1, one_kind.binary) == (1.0, None)


def test_videos_of_a_group_count_less_than_as_many_others():
    rng = np.random.default_rng(0)
    easy = rng.random(20) < 0.7
    best = np.where(easy.repeat(5), 0, 1)
    scores = np.eye(2)[best]
    groups = [str(i // 5) for i in range(100)]
    alone = measure(scores, [(0,)] * 100, "ab", Task())
    grouped = measure(scores, [(0,)] * 100, "ab", Task(), groups=groups)
    assert (alone.num_groups, grouped.num_groups) == (None, 20)
    width = [high - low for low, high in (m.intervals["top1"] for m in (alone, grouped))]
    assert width[1] > 1.8 * width[0]
    assert alone.top1 == grouped.top1


def test_top5_counts_the_five_best_of_many():
    scores = softmax(np.arange(10.0))[None].repeat(2, 0)
    result = measure(scores, [(5,), (4,)], "abcdefghij", Task())
    assert (result.top1, result.top5) == (0.0, 0.5)


def test_an_action_is_its_verb_and_noun_as_in_epic_kitchens():
    rng = np.random.default_rng(0)
    verb, noun = rng.random((500, VERBS)) ** 4, rng.random((500, NOUNS)) ** 4
    truth = np.stack([rng.integers(VERBS, size=500), rng.integers(NOUNS, size=500)], axis=1)
    verb[np.arange(500), truth[:, 0]] += 0.7
    noun[np.arange(500), truth[:, 1]] += 0.5
    scores = np.concatenate([verb, noun], axis=1)
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
    result = measure(scores, targets, "abcdef", Task(multi_label=True))
    assert result.mean_average_precision == result.score == pytest.approx(np.mean(expected))
    assert result.per_class["b"]["average_precision"] == pytest.approx(expected[1])
    assert result.per_class["c"]["average_precision"] is None
    assert result.per_class["c"]["num_videos"] == 0
    low, high = result.intervals["mean_average_precision"]
    assert low < result.score < high
    assert result.baselines["prevalence"] == pytest.approx(shown[:, [0, 1, 3, 4, 5]].mean())
    assert result.top1 == pytest.approx(shown[np.arange(40), scores.argmax(1)].mean())
    assert (result.mean_class_accuracy, result.confusion) == (None, [])


def test_no_label_at_all_cannot_be_measured():
    with pytest.raises(DataError, match=r"no video has a label \(0 of 2\)"):
        measure(np.random.default_rng(0).random((2, 3)), [(), ()], "abc", Task(multi_label=True))


def test_a_head_may_have_one_class():
    task = Task(heads=(("verb", 1), ("noun", 2)))
    result = measure(np.array([[1.0, 0.2, 0.8]]), [(0, 1)], ("v/a", "n/a", "n/b"), task)
    assert (result.top1, result.heads["noun"]["top1"]) == (0.0, 0.0)
    assert result.heads["verb"]["top1"] == 1.0
