# SPDX-License-Identifier: Apache-2.0
"""The drawing of the network in a real browser: drawn, selectable, by mouse and by keyboard."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyzer.records import Analysis, LayerError, Network
from analyzer.report.html import render_html

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


def wired(analysis: Analysis) -> Analysis:
    """Layers 0 → 1 → (2, 3) → 4 → 5 → 6; 2 and 3 side by side."""
    edges = ((0, 1), (1, 2), (1, 3), (2, 4), (3, 4), (4, 5), (5, 6))
    network = Network(edges, {"x": (0,)}, {"</script><b>": (6,)})
    return dataclasses.replace(analysis, network=network)


def chain(analysis: Analysis, count: int) -> Analysis:
    """A deep network with a shortcut over every fourth layer."""
    layers = tuple(
        LayerError(f"/block.{i}/Conv", "Conv", isolated_nsr=0.1 / (1 + (i * 37) % count))
        for i in range(count)
    )
    edges = {*((i - 1, i) for i in range(1, count)), *((i, i + 4) for i in range(0, count - 4, 5))}
    network = Network(tuple(sorted(edges)), {"x": (0,)}, {"y": (count - 1,)})
    plan = dataclasses.replace(analysis.plan, quantizers=())
    return dataclasses.replace(analysis, layers=layers, network=network, plan=plan, findings=())


def opened(browser: Any, analysis: Analysis, folder: Path, **options: Any) -> Any:
    """A page, its messages collected in `noise`."""
    file = folder / "report.html"
    file.write_text(render_html(analysis), encoding="utf-8")
    page = browser.new_context(viewport={"width": 1280, "height": 900}, **options).new_page()
    page.noise = []
    page.on("console", lambda message: page.noise.append(message.text))
    page.on("pageerror", lambda error: page.noise.append(str(error)))
    page.goto(file.as_uri())
    return page


def drawn(browser: Any, analysis: Analysis, folder: Path, **options: Any) -> Any:
    page = opened(browser, analysis, folder, **options)
    page.locator(".network-tools:visible").wait_for()
    return page


def selected(page: Any) -> list[str]:
    """Ids of rows, and links of boxes and of cells that are marked."""
    read = "all => all.map(e => e.id || e.getAttribute('href'))"
    return page.eval_on_selector_all(
        "tr.selected, a.node.selected, .network-strip .selected", read
    )


def node(page: Any, layer: int) -> Any:
    return page.locator(f"a.node[href='#layer-{layer}']")


def test_all_is_drawn_in_silence(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """A box for each layer, with its name as text; an end for each input and output."""
    page = drawn(browser, wired(analysis), tmp_path, offline=True)
    assert page.locator("a.node").count() == 7
    assert page.locator(".end text").all_text_contents() == ["x", "</script><b>"]
    assert "</script><img src=x onerror=alert(1)>" in node(page, 1).locator("title").text_content()
    assert node(page, 1).locator(".value").text_content() == "3.10 %"
    assert page.noise == []


BOXES = """() => [...document.querySelectorAll('a.node, g.end')].map(e => {
  const box = e.querySelector('rect').getBoundingClientRect();
  return [box.left, box.top, box.right, box.bottom];
})"""


@pytest.mark.parametrize("count", [1, 40])
def test_boxes_do_not_overlap(
    browser: Any, analysis: Analysis, tmp_path: Path, count: int
) -> None:
    """All boxes are in sight, beside or below each other."""
    page = drawn(browser, chain(analysis, count), tmp_path)
    boxes = page.evaluate(BOXES)
    canvas = page.locator(".network-canvas").bounding_box()
    assert len(boxes) == count + 2
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert canvas["x"] <= left < right <= canvas["x"] + canvas["width"]
        assert canvas["y"] <= top < bottom <= canvas["y"] + canvas["height"] + 1
        for a, b, c, d in boxes[:i]:
            assert left >= c or a >= right or top >= d or b >= bottom


def test_click_on_a_box_leads_to_its_row(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """The row is marked, in sight, and in the address; a button leads back."""
    page = drawn(browser, chain(analysis, 40), tmp_path)
    node(page, 20).click()
    assert selected(page) == ["#layer-20", "#layer-20", "layer-20"]
    assert page.url.endswith("#layer-20")
    assert 0 <= page.locator("#layer-20").bounding_box()["y"] < 900
    page.locator(".network-back:visible").click()
    assert node(page, 20).evaluate("e => document.activeElement === e")


def test_click_on_a_row_marks_its_box(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """The row stays where it is; links and folds in a row do what they always do."""
    page = drawn(browser, wired(analysis), tmp_path)
    row = page.locator("#layer-3")
    row.locator("td").nth(1).hover()
    before = row.bounding_box()["y"]
    row.locator("td").nth(1).click()
    assert selected(page) == ["#layer-3", "#layer-3", "layer-3"]
    page.wait_for_timeout(100)
    assert row.bounding_box()["y"] == pytest.approx(before, abs=1)
    page.locator("#layer-0 summary").first.click()
    assert selected(page) == ["#layer-3", "#layer-3", "layer-3"]
    page.go_back()
    assert page.locator("tr.selected").count() == 1


def test_address_selects_what_is_filtered_out(
    browser: Any, analysis: Analysis, tmp_path: Path
) -> None:
    """A link to a layer shows its row and its box, whatever the filter says."""
    page = drawn(browser, wired(analysis), tmp_path)
    page.locator("#filter").fill("no such layer")
    assert page.locator("#layer-5:visible").count() == 0
    page.evaluate("location.hash = '#layer-5'")
    page.locator("#layer-5.selected:visible").wait_for()
    assert selected(page) == ["#layer-5", "#layer-5", "layer-5"]


def test_keyboard(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """g enters the drawing, arrows walk along edges, n goes to the worst, Enter to the row."""
    page = drawn(browser, wired(analysis), tmp_path)
    focused = "document.activeElement.getAttribute('href')"
    page.keyboard.press("g")
    assert page.evaluate(focused) == "#layer-2"  # inf: the worst
    walk = {"ArrowLeft": "1", "ArrowRight": "2", "ArrowDown": "3", "ArrowUp": "2"}
    seen = []
    for key in walk:
        page.keyboard.press(key)
        seen.append(page.evaluate(focused).removeprefix("#layer-"))
    assert seen in ([*walk.values()], ["1", "3", "2", "3"], ["1", "2", "2", "3"])
    page.keyboard.press("n")
    assert selected(page) == ["#layer-2", "#layer-2", "layer-2"]
    page.keyboard.press("n")
    assert page.evaluate(focused) == "#layer-1"
    page.keyboard.press("Enter")
    assert selected(page) == ["#layer-1", "#layer-1", "layer-1"]
    page.keyboard.press("?")
    assert page.locator(".network-shortcuts:visible").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".network-shortcuts:visible").count() == 0
    page.locator("#filter").fill("g?")
    assert page.locator(".network-shortcuts:visible").count() == 0


def test_zoom_and_drag(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """Buttons and Ctrl with the wheel zoom, dragging moves and does not select."""
    page = drawn(browser, chain(analysis, 40), tmp_path)
    width = "document.querySelector('.network-canvas svg').viewBox.baseVal.width"
    whole = page.evaluate(width)
    page.locator(".network-tools [data-key='+']").click()
    assert page.evaluate(width) == pytest.approx(whole / 1.25)
    page.locator("#network").evaluate("e => e.scrollIntoView()")
    box = page.locator(".network-canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_timeout(100)
    assert page.evaluate(width) == pytest.approx((box["width"] - 2) / 2.5)  # the closest
    left = "document.querySelector('.network-canvas svg').viewBox.baseVal.x"
    start = page.evaluate(left)
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=4)
    page.mouse.up()
    assert page.evaluate(left) == pytest.approx(start - 100 / 2.5, abs=1)
    assert selected(page) == []
    page.locator(".network-tools [data-key='0']").click()
    assert page.evaluate(width) == pytest.approx(whole)


def test_another_number_colours(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """Boxes, cells and legend follow the choice; values are the text of the boxes."""
    page = drawn(browser, wired(analysis), tmp_path)
    assert "shade8" in node(page, 1).get_attribute("class")
    page.locator(".network-tools label", has_text="graphwise").click()
    assert node(page, 1).locator(".value").text_content() == "4.00 %"
    assert "none" in node(page, 6).get_attribute("class").split()
    assert page.locator(".network-legend .range").last.text_content() == "3 % and more"
    assert page.locator(".network-by").text_content() == "graphwise error"
    first = page.locator(".network-strip a").first.get_attribute("class")
    assert first == node(page, 0).get_attribute("class").removeprefix("node ")


def test_deep_networks_are_wrapped(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """1,000 layers, more than dagre can take at once, are drawn in rows; the worst in view."""
    page = drawn(browser, chain(analysis, 1000), tmp_path)
    assert page.locator("a.node").count() == 1000
    worst = node(page, 0).locator(".box").bounding_box()
    canvas = page.locator(".network-canvas").bounding_box()
    assert canvas["x"] <= worst["x"] <= canvas["x"] + canvas["width"]
    assert canvas["y"] <= worst["y"] <= canvas["y"] + canvas["height"]
    assert page.noise == []


def test_too_large_networks_fall_back(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """5,000 layers: no drawing, but the strip, and its cells lead to rows."""
    page = opened(browser, chain(analysis, 5000), tmp_path)
    assert page.locator(".network-canvas").count() == 0
    page.locator(".network-strip a").nth(7).click()
    assert page.locator("tr.selected:visible").count() == 1
    assert page.noise == []


def test_layout_that_fails_says_so(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """Where the worker cannot work, a line says so; table and strip stay."""
    file = tmp_path / "broken.html"
    file.write_text(render_html(wired(analysis)).replace("var dagre=", "var lost="), "utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.locator(".network-status", has_text="the layout failed").wait_for()
    assert page.locator(".network-canvas:visible, .network-tools:visible").count() == 0
    assert page.locator(".network-strip a:visible").count() == 7


def test_without_script_the_strip_leads_to_rows(
    browser: Any, analysis: Analysis, tmp_path: Path
) -> None:
    """Cells and legend are there, tools that could not work are not."""
    page = opened(browser, wired(analysis), tmp_path, java_script_enabled=False)
    cells = page.locator(".network-strip a:visible")
    assert cells.count() == 7
    assert page.locator(".network-legend .range:visible").count() == 9
    assert page.locator(".network-section :is(button, input, svg, dialog):visible").count() == 0
    cells.nth(4).click()
    assert page.locator("tr:target").get_attribute("id") == "layer-4"


def test_paper_shows_all_of_the_drawing(browser: Any, analysis: Analysis, tmp_path: Path) -> None:
    """Printing fits the whole network, and colours are kept."""
    page = drawn(browser, chain(analysis, 40), tmp_path)
    shown = "document.querySelector('.network-canvas svg').getAttribute('viewBox')"
    whole = page.evaluate(shown)
    page.locator(".network-tools [data-key='+']").click()
    assert page.evaluate(shown) != whole
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(shown) == whole
    page.emulate_media(media="print")
    assert page.locator(".network-tools:visible").count() == 0
    colour = "e => getComputedStyle(e).printColorAdjust"
    assert page.locator("a.node .box").first.evaluate(colour) == "exact"
