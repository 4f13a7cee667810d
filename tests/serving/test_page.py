"""The page of a server in a real browser; skipped only where there is none."""

import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from servers import serving

from browser_checks import CHROMIUM, OUTSIDE, SCREENS, VIEWS, started_browser, worst_findings
from conftest import TINY, write_video
from st_adapter.training.loop import train

FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
FILES = files("st_adapter.serving") / "static"
TOKEN = "a token of the tests"
KEPT_TOKEN = f"sessionStorage.setItem('st-adapter-token', '{TOKEN}')"
ANSWERED = "#answer-card .verdict"
CURRENT_TIME = "document.querySelector('#player').currentTime"
DROP = """async ([name, text]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], name, {type: "video/mp4"}));
    document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
}"""


def scene(colour, seed, num_frames=10):
    """Noisy frames of one colour."""
    rng = np.random.default_rng(seed)
    level = np.array({"red": [200, 40, 40], "blue": [40, 40, 200]}[colour])
    return [(level + rng.integers(0, 50, (64, 96, 3))).astype(np.uint8) for _ in range(num_frames)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A short video, the same in a format that no browser plays, a long one, and text."""
    root = tmp_path_factory.mktemp("videos for the page")
    short, long = scene("red", 100), [*scene("red", 101, 40), *scene("blue", 102, 40)]
    text = root / "text.mp4"
    text.write_text("This is not a video.")
    return {
        "short": write_video(root / "short.mp4", short),
        "avi": write_video(root / "short.avi", short, codec="mpeg4"),
        "long": write_video(root / "long.mp4", long),
        "text": text,
    }


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A run that tells red from blue."""
    root = tmp_path_factory.mktemp("colours")
    for colour in ("red", "blue"):
        for i in range(6):
            write_video(root / "data" / colour / f"{i}.mp4", scene(colour, i))
    train(root / "data", root / "colours", replace(TINY, epochs=5, dropout=0.0))
    return root / "colours"


@pytest.fixture(scope="module")
def served(colours, label_runs, tmp_path_factory):
    """Address of a server with three tasks, which asks for a token."""
    token = tmp_path_factory.mktemp("server") / "token"
    token.write_text(TOKEN)
    runs = [colours, label_runs["doing"], label_runs["tags"]]
    with serving(*runs, "--token-file", token) as server:
        yield server.address + "/"


@pytest.fixture(scope="module")
def browser():
    with started_browser(*FAKE_CAMERA) as started:
        yield started


@pytest.fixture
def open_page(browser, served):
    """Opens the page; in the end, no script may have complained, and nothing else was asked."""
    contexts, complaints, requests = [], [], []

    def opened(screen="desktop", scheme="light"):
        width, height = SCREENS[screen]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(KEPT_TOKEN)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(served)
        page.locator("#tasks li").first.wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    # A browser says itself that an answer was an error.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []
    assert [url for url in requests if not url.startswith((served, "data:", "blob:"))] == []


def send(page, video):
    """Choose a video, and wait until all is answered."""
    page.set_input_files("#file", video)
    page.locator(ANSWERED).wait_for()
    page.locator("#work").wait_for(state="hidden")


def check_screen(page):
    """Nothing is wider than the screen, and axe finds nothing serious."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(OUTSIDE) == []
    assert worst_findings(page) == []


@pytest.mark.parametrize(("screen", "scheme"), VIEWS)
def test_the_page_fits_and_passes_axe(open_page, videos, screen, scheme):
    page = open_page(screen, scheme)
    check_screen(page)
    send(page, videos["long"])
    assert page.locator("#spans tr").count() == 2
    check_screen(page)
    page.set_input_files("#file", videos["text"])
    page.locator("#error:not(:empty)").wait_for()
    check_screen(page)


def test_the_page_is_small_and_names_no_other_host():
    sources = {path.name: path.read_text() for path in FILES.iterdir()}
    assert {"index.html", "app.js", "style.css"} <= {*sources}
    assert sum(len(text.encode()) for text in sources.values()) < 60_000
    outside = re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", "".join(sources.values()))
    assert outside == []
    assert "default-src 'self'" in sources["index.html"]
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", sources["index.html"])


def test_a_video_is_answered_with_bars_and_the_frames_that_were_seen(open_page, videos):
    page = open_page()
    send(page, videos["short"])
    assert page.locator(f"{ANSWERED} b").inner_text() == "red"
    assert page.locator("#answer .bars .name").all_inner_texts() == ["red", "blue"]
    shares = page.locator("#answer .bars .value").all_inner_texts()
    assert sum(float(share.removesuffix("\xa0%")) for share in shares) == pytest.approx(
        100, abs=0.2
    )
    frames = page.locator("#frames button")
    assert frames.count() == TINY.frames
    assert page.evaluate("[...document.images].every(i => i.hidden || i.naturalWidth > 0)")
    frames.nth(2).click()
    at = frames.nth(2).inner_text()
    assert page.locator("#now").inner_text() == at
    assert 0 < page.evaluate(CURRENT_TIME) < 1


def test_a_position_is_chosen_with_the_pointer_and_with_the_keyboard(open_page, videos):
    page = open_page()
    send(page, videos["long"])
    chart = page.locator("#chart")
    box = chart.bounding_box()
    page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 40)
    page.wait_for_function(f"5.5 < {CURRENT_TIME} && {CURRENT_TIME} < 7")
    assert re.fullmatch(r"0:06\.\d, blue", chart.get_attribute("aria-valuetext"))
    assert "blue" in page.locator("tr.current").inner_text()
    chart.focus()
    page.keyboard.press("PageDown")
    start = page.evaluate(CURRENT_TIME)
    assert start == pytest.approx(4.0, abs=0.5)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(CURRENT_TIME) > start
    page.keyboard.press("Home")
    assert page.evaluate(CURRENT_TIME) == 0
    assert chart.get_attribute("aria-valuetext") == "0:00.0, red"


def test_a_short_video_after_a_long_one_has_no_spans(open_page, videos):
    page = open_page()
    send(page, videos["long"])
    assert page.locator("#h-answer").inner_text() == "Answer for the whole video"
    send(page, videos["short"])
    assert not page.locator("#spans-box").is_visible()
    assert page.locator("#time-note").inner_text() == ""
    assert page.locator("#h-answer").inner_text() == "Answer"


def test_a_span_is_played_from_its_start(open_page, videos):
    page = open_page()
    send(page, videos["long"])
    page.get_by_role("button", name=re.compile("play blue")).focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{CURRENT_TIME} > 3.5 && !document.querySelector('#player').paused")


def test_tasks_are_tabs_that_the_arrow_keys_change(open_page, videos):
    page = open_page()
    send(page, videos["short"])
    tabs = page.get_by_role("tab")
    assert [text.split("\n")[0] for text in tabs.all_inner_texts()] == ["colours", "doing", "tags"]
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", selected=True).inner_text().startswith("doing")
    assert page.locator("#answer h3").all_inner_texts() == ["verb", "noun"]
    page.keyboard.press("ArrowRight")
    assert "with at least 50.0\xa0%" in page.get_by_role("tabpanel").inner_text()
    assert page.locator(":focus").inner_text().startswith("tags")


def test_only_the_chosen_tasks_are_asked_for(open_page, videos):
    page = open_page()
    for name in ("doing", "tags"):
        page.get_by_role("checkbox", name=name).uncheck()
    send(page, videos["short"])
    assert page.get_by_role("tab").count() == 0
    assert page.locator("#status").inner_text() == "colours: red"
    page.get_by_role("checkbox", name="colours").uncheck()
    page.get_by_role("button", name="Classify again").click()
    page.get_by_text("Choose at least one task.").wait_for()


def test_a_file_without_a_video_gets_the_reason_of_the_server(open_page, videos):
    page = open_page()
    page.evaluate(DROP, ["text.mp4", videos["text"].read_text()])
    page.get_by_role("alert").get_by_text("cannot be decoded").wait_for()
    assert not page.locator("#work").is_visible()
    send(page, videos["short"])
    assert page.locator("#error").inner_text() == ""


def test_a_format_that_the_browser_cannot_play_is_shown_in_pictures(open_page, videos):
    page = open_page()
    send(page, videos["avi"])
    page.get_by_text("This browser cannot play this format.").wait_for()
    assert page.locator(f"{ANSWERED} b").inner_text() == "red"
    page.locator("#frames button").last.click()
    assert page.locator("#picture").get_attribute("alt").startswith("Frame at 0.")


def test_a_clip_of_the_camera_is_recorded_and_answered(open_page):
    page = open_page()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_text("1 second left").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator(ANSWERED).wait_for()
    assert not page.locator("#live").is_visible()
    assert page.locator("h2#h-video").inner_text() == "camera.webm"
    seconds = float(page.locator("#chart").get_attribute("aria-valuemax"))
    assert 0.3 < seconds < 3
    page.locator("#frames button").last.click()
    page.wait_for_function(f"{CURRENT_TIME} > 0.2")


def test_the_camera_is_watched_until_it_is_stopped(open_page):
    page = open_page()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("checkbox", name="Keep watching").check()
    page.locator(ANSWERED).wait_for()
    assert page.locator("#live").is_visible()
    page.get_by_role("button", name="Stop").click()
    page.locator("#live").wait_for(state="hidden")
    page.locator("#time-card").wait_for()


def test_a_file_takes_the_place_of_the_camera(open_page, videos):
    page = open_page()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_text("seconds left").wait_for()
    send(page, videos["short"])
    page.locator("#live").wait_for(state="hidden")
    assert page.locator("#player").is_visible()
    assert page.locator("h2#h-video").inner_text() == "short.mp4"


def test_without_a_camera_the_page_says_so(browser, served):
    plain = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = plain.new_page()
    page.goto(served)
    page.locator("#token-form").wait_for()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("alert").get_by_text(re.compile("camera")).wait_for()
    assert page.get_by_role("button", name="Choose a video").is_visible()
    plain.close()


def test_a_token_is_asked_for_and_kept_until_the_tab_is_closed(browser, served):
    context = browser.new_context()
    page = context.new_page()
    page.goto(served)
    field = page.get_by_label("Token", exact=True)
    field.fill("a wrong one")
    page.keyboard.press("Enter")
    page.get_by_text("The token is not right.").wait_for()
    field.fill(TOKEN)
    page.get_by_role("button", name="Continue").click()
    page.locator("#tasks li").first.wait_for()
    assert page.locator("#error").inner_text() == ""
    page.reload()
    page.locator("#tasks li").first.wait_for()
    assert not field.is_visible()
    assert context.cookies() == []
    assert page.evaluate("localStorage.length") == 0
    context.close()


def test_a_token_that_no_longer_holds_is_asked_for_once(open_page, videos):
    """Who looks it up in another tab makes the page ask for its tasks again."""
    page = open_page()
    page.evaluate("sessionStorage.setItem('st-adapter-token', 'that of the last start')")
    page.set_input_files("#file", videos["short"])
    field = page.get_by_label("Token", exact=True)
    field.wait_for()
    with page.expect_response("**/v1/tasks"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    field.fill(TOKEN)
    page.keyboard.press("Enter")
    page.locator(ANSWERED).wait_for(timeout=10_000)


def test_a_busy_server_is_asked_again_when_it_says(open_page, videos):
    """The first answer is one of a proxy before a server that is full."""
    page, answers = open_page(), []

    def answer(route):
        answers.append(route.request.url)
        headers = {"Retry-After": "1"}
        route.fulfill(status=503, headers=headers) if len(answers) == 1 else route.continue_()

    page.route("**/v1/predict", answer)
    page.set_input_files("#file", videos["short"])
    page.get_by_text("The server is busy. Sending again in 1 s").wait_for()
    page.locator(ANSWERED).wait_for()
    assert len(answers) == 2


def test_what_is_sent_can_be_cancelled(open_page, videos):
    page = open_page()
    page.route("**/v1/predict", lambda route: None)  # as over a line that is stuck
    page.set_input_files("#file", videos["short"])
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    assert not page.locator("#work").is_visible()
    page.unroute("**/v1/predict")
    send(page, videos["short"])
