"""What every page must do in a real browser: fit, need no network, and pass axe."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}
VIEWS = [("desktop", "light"), ("phone", "dark")]
"""Width decides the layout, and the scheme the colours: each is tried, but not every pair."""

WORST = ("serious", "critical")
LARGEST = 3_000_000

OUTSIDE = """() => [...document.querySelectorAll("body *")].filter(e => {
    const box = e.getBoundingClientRect(), room = e.closest(".scroll");
    const scrolls = room && room !== e && room.scrollWidth > room.clientWidth;
    return box.width && !e.closest("i") && !scrolls
        && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(e => e.outerHTML.slice(0, 80))"""
"""Elements that reach beyond the screen."""

CUT_TABLES = """() => [...document.querySelectorAll(".scroll:has(> table:not(.matrix))")]
    .filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"""
"""Tables that are wider than their card."""


@contextmanager
def started_browser(*flags) -> Iterator:
    """A browser; the test is skipped only where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        args = ["--no-sandbox", *flags]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield started
        started.close()


@contextmanager
def checked_page(browser, path, screen, scheme, *, with_axe=True) -> Iterator:
    """Open a page without a network, check it, and yield it. Complaints of scripts fail."""
    assert path.stat().st_size < LARGEST
    width, height = SCREENS[screen]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    outside = [url for url in requests if not url.startswith(("file:", "data:"))]
    assert (complaints, outside) == ([], [])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(CUT_TABLES) == []
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert page.locator("svg").count() >= 1
    assert not with_axe or worst_findings(page) == []
    yield page
    assert complaints == []
    context.close()


def worst_findings(page) -> list[str]:
    """What axe finds serious in a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [violation["id"] for violation in found if violation["impact"] in WORST]
