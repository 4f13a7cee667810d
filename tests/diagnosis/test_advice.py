"""Advice names what limits a result first, and its commands can be run."""

import json
import shlex
from dataclasses import replace

import click
import pytest
from situations import PAIR, SITUATIONS, SIX, epochs, evaluation, even, run, videos

from st_adapter.cli.main import app, main
from st_adapter.cli.options import given_settings
from st_adapter.config import TrainConfig
from st_adapter.diagnosis.advice import CAUSES, IDEAS, find_advice


@pytest.mark.parametrize("cause", SITUATIONS)
def test_the_cause_comes_first(cause):
    found = find_advice(SITUATIONS[cause])
    assert [advice.cause for advice in found][:1] == [cause]
    assert all(advice.reason and advice.action for advice in found)


def test_every_rule_has_a_situation():
    assert {rule.cause for rule in (*CAUSES, *IDEAS)} == set(SITUATIONS)


@pytest.mark.parametrize(
    ("cause", "reason", "words"),
    [
        ("few videos", "only 6 training videos per class", "--head-init prototype"),
        ("overfitting", "from 0.90 to 1.60", "--randaugment --dropout 0.5 --epochs 2"),
        ("too few epochs", "training from 1.40 to 1.00", "--resume --epochs 6"),
        ("opposite classes", "45 of 100 videos", "--frames 16 --reversal Sit=Stand"),
        ("mirrored classes", "44 of 100 videos", "--mirror names"),
        ("shared scenes", "114 of 120", "--group"),
        ("file facts", "81% of 120", "scale=-2:240 -r 25"),
        ("useless class", "Surfing (2 of 20 videos); the others reach 91%", "report"),
        ("few validation videos", "57% of 14", "--folds 5"),
        ("labels", "82 of 100 pairs", "report"),
        ("short clips", "spans 0.6 s of videos that are 20.0 s long", "--stride 0 --frames 16"),
        ("long gaps", "one every 11.2 s", "--frames 16 --stride 6 --views 5x1"),
        ("random weights", "432 training videos", "--weights hub"),
        ("divergence", "in 5 steps of 40", "--lr 0.00033 --precision float32"),
        ("uneven classes", "Surfing has 7 training videos and Archery has 80", "check"),
        ("one frame is enough", "one frame reaches 96%", "--frames 4"),
        ("underfitting", "settled at 1.29 after 4 epochs; guessing gives 1.79", "--lr 0.003"),
        ("few frames", "costs 20 points", "--frames 16"),
        ("small pictures", "96 pixels", "--size 224"),
        ("uncertain result", "67% of 72", "--folds 5"),
        ("image model", "top-1 is 80%", "--backbone vit_base_patch16_clip_quickgelu_224.openai"),
        ("nothing", "top-1 is 97% (95% to 98%)", "NEW_VIDEOS"),
    ],
)
def test_reasons_have_numbers_and_commands_do_what_the_advice_says(cause, reason, words):
    first = find_advice(SITUATIONS[cause])[0]
    assert reason in first.reason
    assert words in first.command


def settings_of(command):
    """The settings that a command line gives, which click has checked."""
    words = [word for word in shlex.split(command)[1:] if word not in ("DATA", "VIDEO")]
    verb = app.commands[words[0]]
    given = verb.make_context(words[0], words[1:] + ["DATA"] * (command.count(" DATA "))).params
    return words, given_settings({n: v for n, v in given.items() if n in vars(TrainConfig())})


def test_every_command_is_accepted_with_the_settings_of_the_run():
    seen = 0
    for facts in SITUATIONS.values():
        for advice in find_advice(facts):
            if advice.command.startswith("ffmpeg "):
                continue
            words, given = settings_of(advice.command)
            assert replace(facts.config, **given)  # the settings do not contradict each other
            if words[0] == "train":
                assert "/data/my videos" in words
            seen += 1
    assert seen > 30


def test_the_guard_of_that_test_notices_an_unknown_flag():
    with pytest.raises(click.NoSuchOption):
        settings_of("st-adapter train DATA --out run --no-such-flag 3")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (("Sit", "Stand"), True),
        (("Sitting down", "standing up"), True),
        (("OpenDoor", "CloseDoor"), True),
        (("opening the box", "Closing a box"), True),
        (("approaches", "recedes"), True),
        (("Moving up", "Moving down"), True),
        (("Jump up", "Sit down"), False),
        (("Open door", "Close box"), False),
        (("Archery", "Surfing"), False),
        (("Standing", "Outstanding"), False),
    ],
)
def test_opposite_classes_are_recognised_by_their_names(labels, found):
    facts = replace(SITUATIONS["opposite classes"], evaluation=evaluation([[9, 9], [9, 9]], labels))
    assert any(advice.cause == "opposite classes" for advice in find_advice(facts)) == found


def test_classes_that_are_told_apart_or_reversed_already_are_left_alone():
    told_apart = run(evaluation([[48, 2], [3, 47]], PAIR))
    reversed_already = replace(
        SITUATIONS["opposite classes"], config=TrainConfig(reversal="Sit=Stand")
    )
    for facts in (told_apart, reversed_already):
        assert "opposite classes" not in [advice.cause for advice in find_advice(facts)]


def test_a_split_of_the_users_own_is_not_changed_by_flags_that_would_be_ignored():
    shared = SITUATIONS["shared scenes"]
    own = replace(shared, videos=replace(shared.videos, held_out=False))
    assert find_advice(own)[0].command == "st-adapter check '/data/my videos'"
    few = SITUATIONS["few validation videos"]
    own = replace(few, videos=replace(few.videos, held_out=False))
    assert "--folds" not in find_advice(own)[0].command


def test_runs_without_facts_about_their_videos_get_advice_from_the_rest():
    old = run(even(14, 20), videos=None, epochs=epochs([1.5, 0.5, 0.1], [1.3, 0.9, 1.2]))
    assert find_advice(old)[0].cause == "overfitting"
    assert find_advice(run({}, epochs=(), videos=None)) == []


def test_several_labels_and_several_heads_are_no_obstacle():
    per_class = {label: {"num_videos": 20, "average_precision": 0.5} for label in SIX}
    several = {
        "metric": "mean_average_precision", "top1": 0.6, "mean_average_precision": 0.5,
        "heads": {}, "labels": list(SIX), "confusion": [], "num_videos": 120,
        "per_class": per_class, "predictions": [{"path": "a", "label": ["Dunk"]}], "temporal": None,
    }  # fmt: skip
    found = find_advice(run(several, videos=videos(file_facts=None)))
    assert [advice.cause for advice in found] == ["image model"]
    assert found[0].reason == "mAP is 50%, and nothing else stands out"
    heads = {"verb": {"top1": 0.5}, "noun": {"top1": 0.6}}
    assert find_advice(run(even(16, 20) | {"heads": heads}))


def test_the_command_prints_advice_about_a_run(trained_run, capsys):
    assert main(["advise", str(trained_run)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("1. start from a pretrained image model\n   random weights: ")
    assert main(["advise", str(trained_run), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert set(first) == {"cause", "reason", "action", "command"}
    assert shlex.quote(str(trained_run / "config.json")) in first["command"]


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, capsys):
    assert main(["advise", str(tmp_path)]) == 2
    assert "does not contain the config.json of a run" in capsys.readouterr().err
