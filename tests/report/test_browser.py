# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: silent, sortable by keyboard, readable without script."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyzer.records import Analysis, Step
from analyzer.report.files import write_reports
from analyzer.report.plots import steps_plot

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


@pytest.fixture
def full(advised: Analysis, tmp_path: Path) -> str:
    return write_reports(advised, tmp_path / "full")["report.html"].as_uri()


def names(page: Any) -> list[str]:
    return page.locator("table.layers tbody tr > th > bdi").all_inner_texts()


@pytest.mark.parametrize(("which", "plots"), [("url", 2), ("full", 4)])
def test_page_is_silent_and_stays_at_home(
    browser: Any, which: str, plots: int, request: pytest.FixtureRequest
) -> None:
    """No console message, no error, no dialog, no request but for the file and its own data."""
    page = browser.new_context(offline=True).new_page()
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("dialog", lambda dialog: noise.append(dialog.message))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(request.getfixturevalue(which))
    page.locator("#count:has-text('7 of 7 layers')").wait_for()
    assert noise == []
    assert [r for r in requests if not r.startswith(("file:", "data:image/svg+xml"))] == []
    loaded = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth > 0)")
    assert loaded == [True] * plots


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


def test_narrow_window_does_not_scroll_sideways(browser: Any, full: str) -> None:
    """On a phone only tables and plots scroll, not the page, whatever is unfolded."""
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(full)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_causes_and_contributors_show_as_text(browser: Any, full: str) -> None:
    """Names made of markup are read in cards, balance and parts, and lead to their rows."""
    page = browser.new_page()
    page.goto(full)
    script = "</script><img src=x onerror=alert(1)>"
    assert page.locator(".card .places").first.inner_text() == script
    assert f"where {script}" in page.locator(".card .evidence").first.inner_text()
    assert page.locator("table.makeup tbody th").first.inner_text() == script
    assert page.locator("details.contributors").count() == 2
    assert page.locator("details.contributors[open]").count() == 1
    page.locator(".card .places a").first.click()
    row = page.locator("tr:target th > bdi")
    assert row.inner_text() == script
    assert row.is_visible()


def test_proposals_read_without_script(browser: Any, full: str) -> None:
    """The recommended plan is open, the log unfolds, and names lead to their rows."""
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(full)
    best = page.locator(".card.best")
    assert best.locator("table.changes tbody tr:visible").count() == 2
    assert best.locator("table.brings tbody tr:visible").count() == 5
    assert "</script><img src=x onerror=alert(1)>" in best.locator("p").first.inner_text()
    log = page.locator("table.attempts tbody tr")
    assert not log.first.is_visible()
    page.locator("summary", has_text="Log: 4 simulations").click()
    assert log.first.is_visible()
    best.locator(".where a").first.click()
    assert page.locator("tr:target th > bdi").inner_text() == (
        "</script><img src=x onerror=alert(1)>"
    )


def test_lost_slice_is_marked_and_indented(browser: Any, full: str) -> None:
    """A slice stands to the right of its output's name, and the mark is seen."""
    page = browser.new_page()
    page.goto(full)
    left = [
        page.locator(".outputs tbody th bdi").nth(i).bounding_box()["x"] for i in range(3)
    ]  # out, boxes, scores
    assert left[0] < left[1] == left[2]
    assert page.locator(".outputs .badge").inner_text() == "lost: always 0"


WIDTHS = "all => all.map(e => e.getBoundingClientRect().width)"


def test_bars_have_the_widths_of_their_shares(browser: Any, full: str) -> None:
    """Pieces fill their stack in proportion; contributors' bars are as their shares."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(full)
    pieces = page.locator(".stack").first.locator(".piece")
    weight, input_, output = pieces.evaluate_all(WIDTHS)
    assert abs(input_ / weight - 2.5) < 0.05
    assert abs(output / weight - 1.5) < 0.05
    first, second, _ = page.locator("details[open] .strip .bar").evaluate_all(WIDTHS)
    assert abs(first / second - 4) < 0.1


NUMBERED = """svg => [...svg.querySelectorAll('text')].map(t => {
  const box = t.getBoundingClientRect();
  return [t.textContent, box.x, box.y, box.width, box.height];
})"""


def test_numbers_in_the_waterfall_do_not_overlap(browser: Any, booked: Analysis) -> None:
    """Five rises side by side in a large network carry five numbers that can be read."""
    steps = tuple(Step("conv_first", i + 1, {"out": 0.01 * min(i, 5)}) for i in range(200))
    assert booked.balance
    crowded = dataclasses.replace(booked, balance=dataclasses.replace(booked.balance, steps=steps))
    page = browser.new_page()
    page.set_content(steps_plot(crowded) or "")
    texts = page.locator("svg").evaluate(NUMBERED)
    numbers = [(x, y, w, h) for text, x, y, w, h in texts if text in "12345" and y < texts[0][2]]
    assert len(numbers) == 5
    for i, (x, y, w, h) in enumerate(numbers):
        for u, v, a, b in numbers[:i]:
            assert x >= u + a or u >= x + w or y >= v + b - 2 or v >= y + h - 2


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_overlaps(browser: Any, full: str, width: int) -> None:
    """Cards, their lines, and the cells of a row stand beside or below each other."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(full)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert page.evaluate(OVERLAPS) == []


OVERLAPS = """() => {
  const found = [];
  const groups = [".cards", ".card", ".verdict dl", "main", ".balance tbody tr",
                  ".outputs tbody tr", ".makeup tbody tr", "table.contributors tbody tr",
                  ".rises tbody tr"];
  for (const parent of document.querySelectorAll(groups.join(","))) {
    const boxes = [...parent.children].map(e => e.getBoundingClientRect()).filter(b => b.width);
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 1) found.push([parent.className || parent.tagName, x, y]);
    }));
  }
  return found;
}"""


def test_paper_shows_bars_and_leaves_out_links(browser: Any, full: str) -> None:
    """Printed, the bars keep their colours and what only works on a screen is gone."""
    page = browser.new_page()
    page.goto(full)
    page.emulate_media(media="print")
    assert page.locator("nav:visible").count() == 0
    colour = "e => getComputedStyle(e).printColorAdjust"
    assert page.locator(".piece").first.evaluate(colour) == "exact"
