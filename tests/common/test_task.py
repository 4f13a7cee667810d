"""Several heads and many labels, from a table to the page."""

import json
import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import st_adapter
from st_adapter.cli.main import main
from st_adapter.common.task import Task
from st_adapter.comparison.run import compare
from st_adapter.config import DataConfig
from st_adapter.data.annotations import read_annotations
from st_adapter.errors import ArgumentError, DataError
from st_adapter.evaluation.score import probabilities
from st_adapter.official.exporter import export_official
from st_adapter.report.page import write_report
from st_adapter.training.loop import train
from st_adapter.training.step import task_loss

HEADS = Task(heads=(("verb", 2), ("noun", 3)))
COLUMNS = "label=verb+noun"


@pytest.fixture(scope="module")
def tables(folder_data):
    """The clips with a verb and a noun each, and with any number of labels."""
    rows = [f"{label}/clip {i}.mp4" for label in ("brightens", "darkens") for i in range(6)]
    with (folder_data / "heads.csv").open("w") as file:
        file.write("path,verb,noun\n")
        for i, row in enumerate(rows):
            file.write(f"{row},{row.split('/')[0]},{('cup', 'door', 'lamp')[i % 3]}\n")
    with (folder_data / "many.csv").open("w") as file:
        file.write("path,labels\n")
        for i, row in enumerate(rows):
            labels = [row.split("/")[0], *(["odd"] if i % 2 else [])] if i % 5 else []
            file.write(f"{row},{';'.join(labels)}\n")
    return folder_data


def run_cli(capsys, *arguments):
    code = main([os.fspath(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_loss_of_one_label_is_cross_entropy():
    logits, classes = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    for smoothing in (0.0, 0.1):
        loss = task_loss(logits, F.one_hot(classes, 5).float(), [slice(0, 5)], smoothing)
        torch.testing.assert_close(
            loss, F.cross_entropy(logits, classes, label_smoothing=smoothing)
        )


def test_heads_are_scored_apart_and_their_losses_averaged():
    logits, verbs, nouns = torch.randn(4, 5), torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 1, 2])
    scores = probabilities(logits, HEADS)
    torch.testing.assert_close(scores[:, :2].sum(1), torch.ones(4))
    torch.testing.assert_close(scores[:, 2:], logits[:, 2:].softmax(1))
    targets = torch.cat([F.one_hot(verbs, 2), F.one_hot(nouns, 3)], dim=1).float()
    expected = F.cross_entropy(logits[:, :2], verbs) + F.cross_entropy(logits[:, 2:], nouns)
    torch.testing.assert_close(task_loss(logits, targets, [slice(0, 2), slice(2, 5)]), expected / 2)


def test_many_labels_are_independent():
    logits, targets = torch.randn(3, 4), torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    many = Task(multi_label=True)
    torch.testing.assert_close(probabilities(logits, many), logits.sigmoid())
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(
        task_loss(logits, targets, [slice(0, 4)], multi_label=True), expected
    )


def test_verb_and_noun_from_training_to_the_page(tables, tmp_path, tiny, capsys):
    out = tmp_path / "run"
    config = replace(tiny, columns=COLUMNS, val=str(tables / "heads.csv"))
    result = train(tables / "heads.csv", out, config)
    assert result.heads.keys() == {"verb", "noun"}
    assert result.predictions[0]["label"] == ["verb/brightens", "noun/cup"]
    assert st_adapter.load(out).spec.task == HEADS
    code, text, _ = run_cli(capsys, "evaluate", out, tables / "heads.csv")  # columns as in training
    assert code == 0
    assert [line.split(" top-1")[0] for line in text.splitlines()[:3]] == [
        "verb",
        "noun",
        "all heads",
    ]
    video = tables / "darkens" / "clip 0.mp4"
    _, text, _ = run_cli(capsys, "predict", out, video)
    assert ": brightens " in text or ": darkens " in text
    assert "; verb " in text
    assert "; noun " in text
    _, text, _ = run_cli(capsys, "predict", out, video, "--json")
    heads, actions = (json.loads(text)[name] for name in ("heads", "predictions"))
    best = {name: scores[0] for name, scores in heads.items()}
    assert actions[0]["label"] == f"{best['verb']['label']} {best['noun']['label']}"
    product = best["verb"]["score"] * best["noun"]["score"]
    assert actions[0]["score"] == pytest.approx(product, abs=1e-5)
    assert sum(p["score"] for p in heads["noun"]) == pytest.approx(1, abs=1e-5)
    assert {p["label"] for p in heads["verb"]} == {"brightens", "darkens"}
    page = write_report(out).read_text()
    assert "all heads" in page
    with pytest.raises(ArgumentError, match="one label for each of verb, noun per video"):
        export_official(out, tmp_path / "official.pth")


def test_many_labels_from_training_to_the_page(tables, tmp_path, tiny, capsys):
    out = tmp_path / "run"
    result = train(tables / "many.csv", out, replace(tiny, val=str(tables / "many.csv")))
    assert result.metric == "mean_average_precision"
    record = json.loads((out / "eval.json").read_text())
    assert record["mean_average_precision"] == pytest.approx(result.score)
    epochs = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("mean_average_precision" in line for line in epochs)
    code, text, _ = run_cli(capsys, "evaluate", out, tables / "many.csv", "--temporal")
    assert code == 0
    assert text.startswith("mAP ")
    assert "frames in order" in text
    page = write_report(out).read_text()
    assert "mAP" in page
    assert "Confusion" not in page


@pytest.mark.parametrize(("name", "columns"), [("heads.csv", COLUMNS), ("many.csv", None)])
def test_methods_are_compared_on_other_tasks(tables, tmp_path, tiny, name, columns):
    config = replace(tiny, epochs=1, columns=columns, val=str(tables / name))
    rows = compare(
        tables / name, tmp_path / "out", config, methods=["linear"], seeds=[0], rates=[1e-3]
    )
    metric = "top1" if columns else "mean_average_precision"
    record = json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]
    assert record[metric] == record["score"] == rows[0].score
    assert write_report(tmp_path / "out").exists()


def test_a_run_is_measured_on_labels_of_its_own_kind(tables, trained_run):
    spec = st_adapter.load(trained_run).spec
    options = DataConfig(columns=COLUMNS)
    with pytest.raises(
        DataError, match="has one label for each of verb, noun per video, but the classes"
    ):
        read_annotations(tables / "heads.csv", spec.labels, options, spec.task)
    with pytest.raises(DataError, match="has any number of labels per video"):
        read_annotations(tables / "many.csv", spec.labels, task=spec.task)


def test_reversal_takes_one_label_a_video(tables, tmp_path, tiny):
    config = replace(tiny, columns=COLUMNS, reversal="brightens=darkens")
    with pytest.raises(ArgumentError, match="reversal needs one label per video"):
        train(tables / "heads.csv", tmp_path / "run", config)
