# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: silent, readable in every theme, on paper and without script."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from analyzer.records import Analysis, Step
from analyzer.report.plots import steps_plot

pytestmark = pytest.mark.browser


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
    outside = [r for r in requests if not r.startswith(("file:", "data:image/svg+xml", "blob:"))]
    assert outside == []
    loaded = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth > 0)")
    assert loaded == [True] * plots


def test_names_show_as_text(browser: Any, url: str, analysis: Analysis) -> None:
    """A name made of markup is read, not run."""
    page = browser.new_page()
    page.goto(url)
    shown = names(page)
    assert shown[:2] == ["/head[red]/Conv[/head]", "</script><img src=x onerror=alert(1)>"]
    assert analysis.layers[3].name in shown


def test_three_statements_come_first(browser: Any, full: str) -> None:
    """What hurts, why, what to change, and then the numbers before and after."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(full)
    titles = page.locator(".statements h3")
    assert titles.all_inner_texts() == ["What hurts", "Why", "What to change"]
    tops = [titles.nth(i).bounding_box() for i in range(3)]
    assert len({box["y"] for box in tops}) == 1
    assert tops[0]["y"] < 300
    hurts, why, change = page.locator(".statements > div").all_inner_texts()
    assert "(2 layers)" in hurts
    assert "80 %" in hurts
    assert "93 % of the output noise goes without it" in why
    assert "10 % of the noise is left" in change
    assert "2.10 % of the MACs moved" in change
    first = page.locator(".verdict .figures > div").first
    assert first.inner_text().split() == [
        "NSR", "at", "the", "worst", "output", "3.00", "%", "\u2192", "with", "the", "plan",
        "0.300", "%",
    ]  # fmt: skip
    assert first.bounding_box()["y"] < 800


def test_page_without_script(browser: Any, url: str, exported: str, exported_text: str) -> None:
    """All rows, plots and exports are there; what could not work without is not."""
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(url)
    assert page.locator("table.layers tbody tr:visible").count() == 7
    assert page.locator("#filter:visible").count() == 0
    assert page.locator("#theme:visible").count() == 0
    assert page.locator("button:not(thead button):visible").count() == 0
    for fold in page.locator("details:has(> figure) > summary").all():
        fold.click()
    assert page.locator("img:visible").count() == 2
    page.goto(exported)
    page.locator("details.export summary").first.click()
    assert page.locator("details.export pre").first.inner_text() == exported_text


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
    assert page.locator(".cards .places").first.inner_text() == script
    assert f"where {script}" in page.locator(".cards .evidence").first.inner_text()
    assert page.locator("details.contributors").count() == 2
    assert page.locator("details.contributors[open]").count() == 1
    page.locator(".cards .places a").first.click()
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
    first, second, *_ = page.locator("details[open] .strip .bar").evaluate_all(WIDTHS)
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
                  ".outputs tbody tr", ".layers tbody tr", "table.contributors tbody tr",
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


def test_paper_shows_bars_and_leaves_out_controls(browser: Any, exported: str) -> None:
    """Printed, bars keep their colours, text that explains is unfolded, controls are gone."""
    page = browser.new_page(viewport={"width": 700, "height": 1000}, color_scheme="dark")
    page.goto(exported)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    for gone in (".sections", "#theme", ".filter", ".copied button"):
        assert page.locator(f"{gone}:visible").count() == 0
    colour = "e => getComputedStyle(e).printColorAdjust"
    assert page.locator(".piece").first.evaluate(colour) == "exact"
    assert page.locator(".layers td[style]").first.evaluate(colour) == "exact"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 32, 38)"
    assert page.locator(".provenance dl").is_visible()
    assert page.evaluate(CLIPPED) == []
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator(".provenance dl").is_visible()


CLIPPED = """() => [...document.querySelectorAll("table, pre, img")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => [e.tagName, e.className, e.getBoundingClientRect().right])"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier(browser: Any, exported: str, scheme: str) -> None:
    """axe-core finds nothing serious or critical, whatever is unfolded."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
    )
    page = browser.new_page(color_scheme=scheme)
    page.goto(exported)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    found = axe.Axe().run(page).response["violations"]
    severe = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"][:200] for node in v["nodes"]][:3]) for v in severe] == []
