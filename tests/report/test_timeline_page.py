"""The page of a timeline in a real browser; skipped only where there is none."""

import re
from dataclasses import replace

import numpy as np
import pytest
from made_timelines import make_timeline
from PIL import Image

from browser_checks import VIEWS, checked_page, started_browser
from conftest import write_video
from st_adapter import Span
from st_adapter.report.timeline_files import write_timelines
from st_adapter.report.timeline_plot import choose_lanes, columns_of, shorten

LABELS = ["Serve", "Rally <b>& more</b>", "$x^2$ 跳远 " + "with a name that is very long " * 3]
PAGES = ("playable", "not playable", "far away", "no spans", "three hours")
FAST = {"deadline": "realtime", "cpu-used": "8"}
SEEKS = "a[data-seek]"


@pytest.fixture(scope="module")
def browser():
    with started_browser() as started:
        yield started


def scenes(seconds, rate=10):
    for second in range(seconds):
        colours = np.random.default_rng(second).integers(0, 256, (4, 6, 3), np.uint8)
        yield from [np.asarray(Image.fromarray(colours).resize((160, 120)))] * rate


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("timelines")
    webm = write_video(
        root / "near" / "a match #1.webm", [*scenes(30)], codec="libvpx", options=FAST
    )
    (root / "near" / "broken.mp4").write_bytes(b"no video")
    made = {
        "playable": (root / "near" / "a.html", make_timeline(webm, LABELS, 30.0)),
        "not playable": (
            root / "near" / "b.html",
            make_timeline(root / "near" / "broken.mp4", LABELS, 30.0),
        ),
        "far away": (root / "far" / "c.html", make_timeline(webm, LABELS, 30.0)),
        "no spans": (
            root / "near" / "d.html",
            replace(make_timeline(webm, LABELS[:1], 2.0), spans=[]),
        ),
        "three hours": (
            root / "near" / "e.html",
            make_timeline(
                write_video(
                    root / "near" / "long.webm", [*scenes(100, 2)], codec="libvpx", options=FAST
                ),
                [f"class {i} with a name" for i in range(40)],
                10_800.0,
                rate=200 / 10_800,
            ),
        ),
    }
    for path, timeline in made.values():
        write_timelines(path, [timeline])
    return {name: path for name, (path, _) in made.items()}


@pytest.mark.parametrize(("screen", "scheme"), VIEWS)
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_need_no_network_and_pass_axe(browser, pages, name, screen, scheme):
    """Axe takes a minute for 2,000 rows, which are like those of the other pages."""
    with checked_page(browser, pages[name], screen, scheme, with_axe=name != "three hours") as page:
        assert page.locator("h1").inner_text().startswith("Timeline of ")


def test_a_span_is_played_from_its_start_with_the_keyboard(browser, pages):
    page = browser.new_page()
    page.goto(pages["playable"].as_uri())
    page.locator("video").wait_for(state="visible")
    link = page.locator(SEEKS).nth(2)
    start = float(link.get_attribute("data-seek"))
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('video').currentTime >= {start}")
    assert page.evaluate("document.querySelector('video').currentTime") < start + 5
    assert page.url.endswith("a.html")
    assert page.evaluate("document.querySelector('.player').getBoundingClientRect().top") >= 0
    page.close()


@pytest.mark.parametrize("name", ["not playable", "far away"])
def test_without_a_video_that_plays_times_are_plain_text(browser, pages, name):
    page = browser.new_page()
    page.goto(pages[name].as_uri())
    page.wait_for_function("!document.querySelector('video')")
    assert page.locator(SEEKS).count() == 0
    assert page.locator("#table-of-spans tbody td").first.inner_text() == "0:00.0"
    page.close()


def test_without_scripts_times_lead_to_the_video(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["playable"].as_uri())
    assert not page.locator("video").is_visible()
    assert re.fullmatch(
        r"a%20match%20%231\.webm#t=0\.0,[\d.]+", page.locator(SEEKS).first.get_attribute("href")
    )
    context.close()


def test_spans_are_searched_and_sorted_by_time(browser, pages):
    page = browser.new_page()
    page.goto(pages["three hours"].as_uri())
    rows = page.locator("#table-of-spans tbody tr")
    count = rows.count()
    assert 1500 < count < 3000
    page.locator("#table-of-spans thead button", has_text="Start").click()
    page.locator("#table-of-spans thead button", has_text="Start").click()
    assert rows.first.locator("td").first.inner_text().startswith("2:59:")
    page.get_by_label("Search spans").fill("class 7 ")
    shown = page.locator("#table-of-spans tbody tr:visible")
    assert 0 < shown.count() < count
    assert {*shown.locator("th").all_inner_texts()} == {"class 7 with a name"}
    page.close()


def test_the_longest_spans_have_a_picture_and_the_page_says_how_many(browser, pages):
    page = browser.new_page()
    page.goto(pages["three hours"].as_uri())
    count = page.locator("#table-of-spans img").count()
    assert 100 <= count <= 120  # how many bytes they take depends on the encoder
    assert f"{count} of the longest spans have a picture" in page.locator("#spans").inner_text()
    page.goto(pages["playable"].as_uri())
    rows = page.locator("#table-of-spans tbody tr").count()
    assert page.locator("#table-of-spans img").count() == rows > 2
    page.close()


def test_names_are_text_in_the_plot_and_in_the_tables(browser, pages):
    text = pages["playable"].read_text()
    assert "<b>&amp;" not in text
    page = browser.new_page()
    page.goto(pages["playable"].as_uri())
    names = {*page.locator("svg:not(.narrow) text").all_text_contents()}
    assert {shorten(label) for label in LABELS} <= names
    assert page.locator("#table-of-spans th span", has_text="$x^2$ 跳远").count() >= 1
    page.close()


def test_on_paper_the_table_ends_and_says_so(browser, pages):
    page = browser.new_page()
    page.goto(pages["three hours"].as_uri())
    page.emulate_media(media="print")
    assert page.locator("#table-of-spans tbody tr:visible").count() == 100
    assert "On paper, the table ends after 100 rows" in page.locator("#spans").inner_text()
    page.close()


def test_labels_without_a_line_share_a_lane():
    timeline = make_timeline("a.mp4", [f"{i}" for i in range(20)], 600.0)
    lanes = choose_lanes(timeline)
    assert [lane.label is None for lane in lanes] == [False] * 6 + [True]
    assert lanes[-1].name == f"{len({span.label for span in timeline.spans}) - 6} other labels"
    assert sum(len(lane.spans) for lane in lanes) == len(timeline.spans)


def span(start, end):
    return Span(
        start_seconds=start, end_seconds=end, start_frame=0, end_frame=1, label="a", score=1.0
    )


def test_short_spans_are_seen_and_those_that_touch_are_one():
    bars = columns_of([span(10, 20), span(20, 30), span(500.0, 500.01)], 0.0, 700.0)
    assert bars == [(10.0, 20.0), (500.0, 1.0)]
