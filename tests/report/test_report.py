"""The pages in a real browser; skipped only where there is none."""

import shutil
from pathlib import Path

import pytest

from st_adapter.errors import ArgumentError
from st_adapter.report.figures import frontier
from st_adapter.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}
WORST = ("serious", "critical")
LARGEST = 3_000_000


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module", params=["run", "comparison"])
def page_file(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / request.param
    if request.param == "run":
        shutil.copytree(request.getfixturevalue("trained_run"), folder)
        skipped = folder / "skipped.jsonl"
    else:
        shutil.copytree(request.getfixturevalue("compared"), folder)
        skipped = next(folder.glob("runs/*/*/eval.json")).with_name("skipped.jsonl")
    skipped.write_text('{"path": "a<b>.mp4", "reason": "a<b>.mp4: empty"}\n')
    return write_report(folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_pages_need_no_network_and_pass_axe(browser, page_file, screen, scheme):
    from axe_playwright_python.sync_playwright import Axe

    assert page_file.stat().st_size < LARGEST
    width, height = SCREENS[screen]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    outside = [url for url in requests if not url.startswith(("file:", "data:"))]
    assert (complaints, outside) == ([], [])
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in WORST] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert page.locator("svg").count() >= 1
    context.close()


def test_a_page_escapes_what_files_are_called(page_file):
    text = page_file.read_text()
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


def test_the_frontier_names_every_method():
    svg = frontier([("full", 5e6, 0.5, 0.4, 0.6), ("linear", 2e2, 0.5, 0.5, 0.5)], "top-1")
    assert all(f">{name}<" in svg for name in ("full", "linear"))
    assert "var(--ink)" in svg
