# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: silent, sortable by keyboard, readable without script."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyzer.records import Analysis
from analyzer.report.files import write_reports

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium in PATH or CHROMIUM"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    with api.sync_playwright() as playwright:
        # --no-sandbox: as root in a container Chromium does not start without.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def url(analysis: Analysis, tmp_path: Path) -> str:
    return write_reports(analysis, tmp_path)["report.html"].as_uri()


def names(page: Any) -> list[str]:
    return page.locator("table.layers tbody tr > th > bdi").all_inner_texts()


def test_page_is_silent_and_stays_at_home(browser: Any, url: str) -> None:
    """No console message, no error, no dialog, no request but for the file and its own data."""
    page = browser.new_context(offline=True).new_page()
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("dialog", lambda dialog: noise.append(dialog.message))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    page.locator("#count:has-text('7 of 7 layers')").wait_for()
    assert noise == []
    assert [r for r in requests if not r.startswith(("file:", "data:image/svg+xml"))] == []
    loaded = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth > 0)")
    assert loaded == [True, True]


def test_names_show_as_text(browser: Any, url: str, analysis: Analysis) -> None:
    """A name made of markup is read, not run."""
    page = browser.new_page()
    page.goto(url)
    shown = names(page)
    assert shown[:2] == ["/head[red]/Conv[/head]", "</script><img src=x onerror=alert(1)>"]
    assert analysis.layers[3].name in shown


def test_keyboard_sorts(browser: Any, url: str) -> None:
    """Enter on a header sorts, again reverses; unmeasured rows stay last both ways."""
    page = browser.new_page()
    page.goto(url)
    header = page.locator("th", has_text="Local")
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert page.locator("table.layers [aria-sort]").count() == 1
    worst = names(page)
    assert worst[0] == "</script><img src=x onerror=alert(1)>"
    assert worst[-1] == "softmax"
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "ascending"
    assert names(page) == [*reversed(worst[:-1]), "softmax"]


def test_text_columns_sort_from_a(browser: Any, url: str) -> None:
    """The first click on names sorts upwards."""
    page = browser.new_page()
    page.goto(url)
    header = page.locator("th[scope=col]", has_text="Op").filter(has=page.locator("button"))
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    ops = page.locator("table.layers tbody td:nth-child(3)").all_inner_texts()
    assert ops == ["Add", "Conv", "Conv", "Conv", "Gemm", "MatMul", "Softmax"]


def test_filter_hides_rows(browser: Any, url: str) -> None:
    """Words of name, op and status narrow the rows, and the count says so."""
    page = browser.new_page()
    page.goto(url)
    page.locator("#filter").fill("time LIMIT")
    assert page.locator("#count").inner_text() == "1 of 7 layers"
    assert page.locator("table.layers tbody tr:visible").count() == 1
    page.locator("#filter").fill("")
    assert page.locator("table.layers tbody tr:visible").count() == 7


def test_page_without_script(browser: Any, url: str) -> None:
    """All rows and plots are there; the filter, which could not work, is not."""
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(url)
    assert page.locator("table.layers tbody tr:visible").count() == 7
    assert page.locator("img:visible").count() == 2
    assert page.locator("#filter:visible").count() == 0


def test_dark_mode(browser: Any, url: str) -> None:
    """The system's dark scheme changes ground and text."""
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(url)
        style = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
        colours[scheme] = page.locator("body").evaluate(style)
    assert colours == {
        "light": ["rgb(255, 255, 255)", "rgb(28, 32, 38)"],
        "dark": ["rgb(21, 24, 28)", "rgb(229, 232, 236)"],
    }


def test_narrow_window_does_not_scroll_sideways(browser: Any, url: str) -> None:
    """On a phone only tables and plots scroll, not the page."""
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(url)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
