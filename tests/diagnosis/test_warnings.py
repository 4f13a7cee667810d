"""Each warning appears with its number, and not where there is nothing to warn about."""

from dataclasses import replace

import pytest
from situations import PAIR, SITUATIONS, SIX, epochs, evaluation, even, run, scenes, videos

from st_adapter.diagnosis.measures import guess_of, interval_of
from st_adapter.diagnosis.warnings import (
    OF_RESULTS,
    OF_TRAINING,
    OF_VIDEOS,
    order_of_frames,
    result_warnings,
    run_warnings,
    unvalidated_classes,
    useless_classes,
)

ORDER = {"in_order": 0.9, "reversed": 0.9, "shuffled": 0.89, "frozen": 0.85}
LINES = {
    "not above the largest class": (
        run(evaluation([[7, 2], [4, 1]], PAIR)),
        "top-1 57% (33% to 79% with 95% confidence) is not above always answering Sit, which "
        "reaches 64%",
    ),
    "wide interval": (
        run(evaluation([[7, 2], [4, 1]], PAIR)),
        "top-1 57% of 14 validation videos can be anything from 33% to 79%: the 95% interval is 46 "
        "points wide",
    ),
    "class hardly recognised": (
        SITUATIONS["useless class"],
        "class hardly recognised: Surfing (2 of 20 videos); the others reach 91% together",
    ),
    "class without validation videos": (
        run(evaluation([[20, 0, 0], [0, 20, 0], [0, 0, 0]], ("a", "b", "c"))),
        "1 of 3 classes has no validation videos, so that nothing is known about c",
    ),
    "order of frames": (
        run(even(90, 100, temporal=ORDER)),
        "the order of frames does not matter to this classifier: 90% in order, 90% reversed, 89% "
        "shuffled, 85% with one frame",
    ),
    "overfitting": (
        SITUATIONS["overfitting"],
        "overfitting since epoch 2: by epoch 5 the training loss fell from 0.60 to 0.02, and the "
        "validation loss rose from 0.90 to 1.60",
    ),
    "shared scenes": (
        SITUATIONS["shared scenes"],
        "114 of 120 validation videos share a scene with a training video (30 by nearly equal "
        "frames, 114 by name), such as g01_c1.mp4 and g01_c2.mp4",
    ),
    "labels of look-alikes": (
        SITUATIONS["labels"],
        "82 of 100 pairs of training videos that look the same have different labels: labels are "
        "wrong, or only motion tells these classes apart",
    ),
    "file facts": (
        SITUATIONS["file facts"],
        "a classifier that sees only width and length reaches 81% of 120 validation videos "
        "(largest class: 17%), and recognises Dunk (right in 20 of its 20 videos, wrong in 3 of "
        "100 others)",
    ),
}


@pytest.mark.parametrize("rule", LINES)
def test_a_warning_is_one_line_with_the_number_behind_it(rule):
    facts, line = LINES[rule]
    found = {warning.rule: warning.text for warning in run_warnings(facts)}
    assert found[rule] == line


def test_every_rule_is_tested():
    assert set(LINES) == {*OF_RESULTS, *OF_TRAINING, *OF_VIDEOS}


@pytest.mark.parametrize("cause", ["nothing", "image model", "small pictures", "long gaps"])
def test_a_sound_run_is_not_warned_about(cause):
    facts = replace(SITUATIONS[cause], evaluation=even(90, 100))
    assert run_warnings(facts) == []


def test_intervals_are_those_of_wilson_unless_the_evaluation_has_others():
    # As scipy.stats.binomtest(8, 14).proportion_ci(method="wilson") returns it.
    older = evaluation([[8, 6], [0, 0]], PAIR)
    assert interval_of(older) == pytest.approx((0.3259, 0.7862), abs=1e-4)
    results = even(16, 20, intervals={"top1": [0.6, 0.9]}, num_groups=7)
    assert interval_of(results) == (0.6, 0.9)
    text = {w.rule: w.text for w in result_warnings(results)}["wide interval"]
    assert "80% of 120 validation videos from 7 sources can be anything from 60% to 90%" in text


def test_results_of_several_labels_are_compared_with_a_constant_score():
    several = {
        "metric": "mean_average_precision", "mean_average_precision": 0.2, "num_videos": 100,
        "confusion": [], "labels": list(SIX), "per_class": {}, "temporal": None,
        "intervals": {"mean_average_precision": [0.15, 0.25]}, "baselines": {"prevalence": 0.18},
    }  # fmt: skip
    assert [warning.text for warning in result_warnings(several)] == [
        "mAP 20% (15% to 25% with 95% confidence) is not clearly above scoring all videos alike, "
        "which reaches 18%"
    ]
    older = {key: several[key] for key in several if key not in ("intervals", "baselines")}
    assert result_warnings(older) == []


def test_with_several_heads_the_guess_is_the_most_frequent_combination():
    rows = [["verb/open", "noun/door"]] * 3 + [["verb/open", "noun/jar"]]
    heads = {
        "top1": 0.5, "num_videos": 4, "heads": {"verb": {}, "noun": {}}, "confusion": [[1]],
        "labels": ["verb/open"], "predictions": [{"label": row} for row in rows],
    }  # fmt: skip
    assert guess_of(heads) == (0.75, "always answering open and door")
    assert "is not above always answering open and door" in result_warnings(heads)[0].text


@pytest.mark.parametrize(
    ("right", "total", "named"),
    [(0, 20, True), (4, 20, True), (12, 20, False), (0, 3, False), (1, 4, True)],
)
def test_a_class_is_named_only_if_its_videos_are_enough_to_tell(right, total, named):
    rest = [[19, 1, 0], [1, 19, 0]]
    results = evaluation([*rest, [total - right, 0, right]], ("a", "b", "weak"))
    assert bool(useless_classes(results)) == named


def test_no_class_is_named_if_all_are_poor():
    assert useless_classes(even(4, 20)) is None


@pytest.mark.parametrize(
    ("temporal", "says"),
    [
        ({"reversed": 0.9, "shuffled": 0.9, "frozen": 0.5}, "does not matter"),
        ({"reversed": 0.7, "shuffled": 0.8, "frozen": 0.7}, None),
        ({"reversed": 0.1, "shuffled": 0.5, "frozen": 0.5}, "is all that matters"),
        ({"reversed": 0.1, "shuffled": 0.5, "frozen": 0.8}, None),
    ],
)
def test_order_is_warned_about_where_it_was_measured(temporal, says):
    results = evaluation([[45, 5], [5, 45]], PAIR, temporal={"in_order": 0.9} | temporal)
    line = order_of_frames(results)
    assert (line is None) if says is None else says in line
    assert order_of_frames(results | {"temporal": None}) is None


def test_one_video_more_or_less_is_not_the_order_of_frames():
    temporal = {"in_order": 9 / 10, "reversed": 8 / 10, "shuffled": 9 / 10, "frozen": 4 / 10}
    assert order_of_frames(evaluation([[5, 0], [1, 4]], PAIR, temporal=temporal))


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([1.5, 0.9, 0.6], [1.3, 0.9, 0.8]),  # both fall
        ([1.5, 0.9, 0.6], [1.3, 0.9, 0.93]),  # rises by a little
        ([0.05, 0.03, 0.01], [0.03, 0.02, 0.05]),  # rises by a lot of next to nothing
        ([1.5, 0.9, 1.6], [1.3, 0.9, 1.8]),  # the training loss rises, too
        ([1.5], [1.3]),
    ],
)
def test_losses_that_do_not_show_overfitting(train, val):
    assert OF_TRAINING["overfitting"](run(epochs=epochs(train, val))) is None


def test_runs_without_validation_after_each_epoch_have_no_validation_loss():
    assert OF_TRAINING["overfitting"](run(epochs=epochs([0.9, 0.5], [None, None]))) is None


@pytest.mark.parametrize(("shared", "warned"), [(0, 0), (1, 0), (3, 0), (5, 0), (6, 1), (60, 1)])
def test_a_few_shared_scenes_do_not_mislead(shared, warned):
    found = OF_VIDEOS["shared scenes"](videos(scenes=scenes(shared)))
    assert bool(found) == warned


@pytest.mark.parametrize(
    ("alike", "apart", "warned"), [(100, 0, 0), (100, 24, 0), (100, 25, 1), (1, 1, 0), (5, 3, 1)]
)
def test_labels_are_in_doubt_if_many_look_alikes_differ(alike, apart, warned):
    found = videos(scenes=scenes(alike=alike, alike_apart=apart))
    assert bool(OF_VIDEOS["labels of look-alikes"](found)) == warned


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accuracy": 0.58}, None),  # half of the gap would be 0.585
        ({"accuracy": 0.6}, "reaches 60% of 120"),
        (  # too few to tell
            {"num_videos": 6, "accuracy": 0.67, "largest_class": 0.33}
            | {"num_label": 2, "found": 1, "false_alarms": 0},
            None,
        ),
        (
            {"found": 19, "false_alarms": 1},
            "sees only length recognises Dunk (right in 19 of its 20 videos, wrong in 1 of 100",
        ),
        ({"found": 17, "false_alarms": 1}, None),
    ],
)
def test_file_facts_mislead_if_they_tell_all_classes_or_one(change, says):
    known = videos()
    line = OF_VIDEOS["file facts"](replace(known, file_facts=replace(known.file_facts, **change)))
    assert (line is None) if says is None else says in line


def test_names_of_many_classes_are_cut_short():
    labels = [f"class {i}" for i in range(20)]
    rows = [[0] * 20 for _ in labels]
    rows[0][0] = 5
    line = unvalidated_classes(evaluation(rows, labels))
    assert line.startswith("19 of 20 classes have no validation videos")
    assert line.endswith("...")
