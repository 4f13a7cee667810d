"""The pages in a real browser; skipped only where there is none."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import made_results
import pytest

from browser_checks import SCREENS, VIEWS, checked_page, started_browser
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.report.figures import MethodPoint, frontier
from st_adapter.report.page import write_report

PAGES = ("run", "comparison", "2 classes", "6 classes", "400 classes", "1 method", "12 methods")

LABELS = """() => [...document.querySelectorAll(".plot.wide svg")].map(svg =>
    [...svg.querySelectorAll("text")].map(e => [e.textContent, e.getBoundingClientRect()])
    .filter(([, box]) => box.width).map(([text, b]) => [text, b.left, b.top, b.right, b.bottom]))"""
"""Texts of the plot of methods with their boxes."""


@pytest.fixture(scope="module")
def browser():
    with started_browser() as started:
        yield started


@pytest.fixture(scope="module")
def videos(folder_data):
    return sorted(folder_data.rglob("*.mp4"))


class Pages(dict):
    """Every page by its name, written when it is first asked for."""

    def __init__(self, request, root):
        self.request, self.root = request, root

    def __missing__(self, name):
        self[name] = write_report(self.make(name, self.root / name))
        return self[name]

    def make(self, name, folder):
        videos = sorted(self.request.getfixturevalue("folder_data").rglob("*.mp4"))
        if name == "run":
            return with_skipped(
                shutil.copytree(self.request.getfixturevalue("trained_run"), folder)
            )
        if name == "2 classes":
            made_results.write_folds(folder, [0.5, 0.62, 0.7])
            return made_results.write_run(folder, 2, 40, videos, skill=0.6)
        if name == "6 classes":
            return made_results.write_run(folder, 6, 120, videos)
        if name == "400 classes":
            return made_results.write_run(folder, 400, 20_000, videos, skill=3.0)
        compared = self.request.getfixturevalue("compared")
        if name == "comparison":
            shutil.copytree(compared, folder)
            with_skipped(next(folder.glob("runs/*/*/eval.json")).parent)
            return folder
        methods = ["st-adapter"] if name == "1 method" else list(METHODS)
        return made_results.write_comparison(folder, compared, methods, videos)


def with_skipped(run):
    line = '{"path": "a<b>.mp4", "reason": "a<b>.mp4: empty"}\n'
    (run / "skipped.jsonl").write_text(line)
    return run


@pytest.fixture(scope="module")
def pages(request, tmp_path_factory):
    return Pages(request, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize(("screen", "scheme"), VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_need_no_network_and_pass_axe(browser, pages, name, screen, scheme):
    with checked_page(browser, pages[name], screen, scheme):
        pass


@pytest.mark.parametrize("screen", SCREENS)
def test_names_of_methods_do_not_collide(browser, pages, screen):
    width, height = SCREENS[screen]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(pages["12 methods"].as_uri())
    (texts,) = filter(None, page.evaluate(LABELS))  # one of the two plots is hidden
    assert {*METHODS} <= {text for text, *_ in texts}
    for (a, *first), (b, *second) in combinations(texts, 2):
        apart = first[2] <= second[0] or second[2] <= first[0]
        assert apart or first[3] <= second[1] + 2 or second[3] <= first[1] + 2, (a, b)
    page.close()


def test_mistakes_come_first_and_can_be_searched_and_played(browser, pages):
    page = browser.new_page()
    page.goto(pages["400 classes"].as_uri())
    rows = page.locator("#answers tbody tr")
    assert {rows.nth(i).get_attribute("data-is") for i in range(20)} == {"wrong"}
    record = json.loads((pages["400 classes"].parent / "eval.json").read_text())
    box = page.get_by_label("Search predictions")
    label = record["labels"][123]
    expected = sum(label in (p["label"], p["predicted"]) for p in record["predictions"])
    box.fill(label)
    assert page.locator("[data-answers] output").inner_text() == f"{expected} found"
    assert rows.count() == expected
    page.get_by_label("Which predictions").select_option("right")
    right = sum(label == p["label"] == p["predicted"] for p in record["predictions"])
    assert rows.count() == right > 0
    box.fill("no such thing")
    assert rows.count() == 0
    box.fill("")
    page.get_by_label("Which predictions").select_option("wrong")
    rows.first.locator("a").last.click()
    assert rows.first.locator("video").get_attribute("src").endswith(".mp4")
    page.close()


def test_without_scripts_the_answers_are_there(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["6 classes"].as_uri())
    assert page.locator("#answers tbody tr").count() == 120
    assert not page.locator(".tools").first.is_visible()
    context.close()


def test_classes_are_sorted_and_searched(browser, pages):
    page = browser.new_page()
    page.goto(pages["400 classes"].as_uri())
    table = page.locator("#classes")
    table.get_by_role("button", name="Videos").click()
    counts = [int(text) for text in table.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert len(counts) == 400
    assert counts == sorted(counts)
    page.get_by_label("Search classes").fill("Opening 35")
    assert table.locator("tbody tr:visible").count() == 3  # 35, 350 and 357
    page.close()


@pytest.mark.parametrize(
    ("skill", "words"),
    [(0.0, "Not clearly better than a baseline"), (9.0, "Better than the best baseline")],
)
def test_the_first_card_compares_with_the_best_baseline(videos, tmp_path, skill, words):
    text = write_report(made_results.write_run(tmp_path, 2, 40, videos, skill)).read_text()
    assert words in text
    assert ("wide interval" in text) == (skill == 0.0)  # the warnings of this result
    assert text.index("h-score") < text.index("h-check") < text.index("Training videos")


def test_a_run_that_records_little_has_a_page(videos, tmp_path):
    made_results.write_run(tmp_path, 2, 14, videos)
    file = tmp_path / "eval.json"
    record = json.loads(file.read_text())
    for name in ("intervals", "baselines", "calibration", "binary", "threshold", "num_groups"):
        del record[name]
    del record["date"], record["seconds"], record["machine"]
    record["per_class"] = {
        label: {"accuracy": values["accuracy"], "num_videos": values["num_videos"]}
        for label, values in record["per_class"].items()
    }
    file.write_text(json.dumps(record))
    text = write_report(tmp_path).read_text()
    assert "No interval was recorded" in text
    assert "Always the largest class" in text
    assert "ROC curve" not in text


def test_links_lead_to_videos_that_exist(videos, tmp_path):
    near = shutil.copy(videos[0], tmp_path / "a clip #1.mp4")
    gone = tmp_path / "gone.mp4"
    made_results.write_run(tmp_path / "run", 2, 12, [near, gone, videos[1]])
    text = write_report(tmp_path / "run").read_text()
    assert 'href="../a%20clip%20%231.mp4"' in text
    assert f'href="{videos[1].as_uri()}"' in text
    assert "gone.mp4" in text
    assert 'gone.mp4"' not in text


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_a_page_escapes_what_files_are_called(pages, name):
    text = pages[name].read_text()
    assert "a&lt;b&gt;.mp4: empty" in text
    assert "<b>.mp4" not in text
    assert "{{" not in text


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"contains neither eval\.json of a run"):
        write_report(tmp_path)


def test_a_page_of_another_version_is_refused(tmp_path):
    for name in ("eval.json", "config.json"):
        Path(tmp_path / name).write_text('{"config": {}}')
    with pytest.raises(ArgumentError, match="was written by another version"):
        write_report(tmp_path)


def _points(*scores):
    names = ("full", "linear", "lora")
    return [
        MethodPoint(method=name, parameters=10**i, score=score, seeds=(score - 0.05, score + 0.05))
        for i, (name, score) in enumerate(zip(names, scores, strict=False), 2)
    ]


def test_the_frontier_names_every_method_and_says_where_its_axis_starts():
    svg = frontier(_points(0.5, 0.6, 0.4), "top-1")
    assert all(f">{name}<" in svg for name in ("full", "linear", "lora"))
    assert "var(--ink)" in svg
    assert "axis starts" not in svg
    assert "(axis starts at 70 %)" in frontier(_points(0.9, 0.86), "top-1")
