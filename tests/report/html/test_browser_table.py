# SPDX-License-Identifier: Apache-2.0
"""The table of layers in a real browser: sorted, filtered and reached by keyboard, at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_analysis import synthetic

from analyzer.report.files import write_reports

pytestmark = pytest.mark.browser


def names(page: Any) -> list[str]:
    return page.locator("table.layers tbody tr > th > bdi").all_inner_texts()


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
    """Words of name, op and status narrow the rows, folded details do not, the count says so."""
    page = browser.new_page()
    page.goto(url)
    page.locator("#filter").focus()
    page.keyboard.type("time LIMIT")
    assert page.locator("#count").inner_text() == "1 of 7 layers"
    assert page.locator("table.layers tbody tr:visible").count() == 1
    page.locator("#filter").fill("bn_first")
    assert page.locator("#count").inner_text() == "0 of 7 layers"
    page.locator("#filter").fill("")
    assert page.locator("table.layers tbody tr:visible").count() == 7


def test_only_problems(browser: Any, url: str) -> None:
    """Off for small models; Space leaves the rows that hurt, and narrows what is found."""
    page = browser.new_page()
    page.goto(url)
    box = page.locator("#problems")
    assert not box.is_checked()
    box.focus()
    page.keyboard.press("Space")
    # 1 % of the mean of 3.1 and 0.2 %: inf, 3.1 %, 1.2 %, 0.05 %; the first layer makes 0.0042 %
    assert page.locator("#count").inner_text() == "4 of 7 layers"
    page.locator("#filter").fill("conv")
    assert page.locator("#count").inner_text() == "3 of 7 layers"


def test_a_link_to_a_hidden_row_shows_it(browser: Any, full: str) -> None:
    """And opens what is folded around its goal."""
    page = browser.new_page()
    page.goto(full)
    page.locator("#filter").fill("no such layer")
    assert page.locator("table.layers tbody tr:visible").count() == 0
    page.locator(".verdict a[href='#layer-0']").first.click()
    assert page.locator("table.layers tbody tr:visible").get_attribute("id") == "layer-0"
    page.locator(".wide a[href='#nsr']").click()
    assert page.locator("#nsr").is_visible()


@pytest.mark.parametrize("layers", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_large_model_opens_with_its_problems(browser: Any, layers: int, tmp_path: Path) -> None:
    """Problems first, all others one click away; sorting and searching work."""
    page = browser.new_page()
    page.goto(write_reports(synthetic(layers), tmp_path)["report.html"].as_uri())
    count = page.locator("#count")
    page.locator(f"#count:has-text('of {layers} layers')").wait_for()
    shown = int(count.inner_text().split()[0])
    # a finding every fifty layers, and about 25 of 5,000 that make 1 % of the 20 % alone
    assert layers / 50 <= shown <= layers / 50 + 30
    assert page.locator("table.layers tbody tr:visible").count() == shown
    page.locator("#filter").fill("conv299/")
    page.locator("#problems").click()
    assert count.inner_text() == f"1 of {layers} layers"
    page.locator("#filter").fill("")
    assert count.inner_text() == f"{layers} of {layers} layers"
    page.locator("table.layers thead button", has_text="#").click()
    first = page.locator("table.layers tbody tr").first
    assert first.get_attribute("id") == "layer-0"
