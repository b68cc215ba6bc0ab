# SPDX-License-Identifier: Apache-2.0
"""What the page's buttons and links do in a real browser: copy, download, switch the theme."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser


def test_exports_are_copied(browser: Any, exported: str, exported_text: str) -> None:
    """By keyboard, to the clipboard; where that refuses, the older way or a selection is left."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(exported)
    page.locator("details.export summary").first.click()
    button = page.locator("details.export button").first
    button.focus()
    page.keyboard.press("Enter")
    page.locator("details.export button:has-text('Copied')").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == exported_text
    page = context.new_page()
    page.add_init_script("delete Navigator.prototype.clipboard")
    page.goto(exported)
    page.locator("details.export summary").first.click()
    page.locator("details.export button").first.click()
    page.locator("details.export button:has-text('Cop'):not(:has-text('Copy'))").wait_for()
    assert page.evaluate("getSelection().toString()") == exported_text


def beside(url: str, name: str) -> bytes:
    """The file of that name next to a page."""
    return Path(url.removeprefix("file://")).with_name(name).read_bytes()


def test_downloads_come_unpacked(browser: Any, url: str, tmp_path: Path) -> None:
    """From a file, without a server: the same bytes as those beside the page."""
    page = browser.new_page()
    page.goto(url)
    for name in ("analysis.json", "layers.csv"):
        with page.expect_download() as waited:
            page.locator("#download ~ ul a", has_text=name).click()
        assert waited.value.suggested_filename == name
        waited.value.save_as(tmp_path / "again" / name)
        assert (tmp_path / "again" / name).read_bytes() == beside(url, name)


def test_downloads_without_script_are_packed(browser: Any, url: str, tmp_path: Path) -> None:
    """The link itself is the file."""
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(url)
    with page.expect_download() as waited:
        page.locator("#download ~ ul a", has_text="analysis.json.gz").click()
    waited.value.save_as(tmp_path / "again.gz")
    assert gzip.decompress((tmp_path / "again.gz").read_bytes()) == beside(url, "analysis.json")


def test_theme_is_switched_and_remembered(browser: Any, url: str) -> None:
    """By keyboard, against the system's; where nothing can be stored it lasts as long as it is."""
    context = browser.new_context(color_scheme="light")
    page = context.new_page()
    page.goto(url)
    ground = "getComputedStyle(document.body).backgroundColor"
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(ground) == "rgb(21, 24, 28)"
    assert page.locator("#theme").inner_text() == "Light theme"
    page.reload()
    assert page.evaluate(ground) == "rgb(21, 24, 28)"
    page.locator("#theme").click()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    locked = browser.new_context(color_scheme="dark").new_page()
    noise: list[str] = []
    locked.on("pageerror", lambda error: noise.append(str(error)))
    locked.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } })"
    )
    locked.goto(url)
    locked.locator("#theme").click()
    assert locked.evaluate(ground) == "rgb(255, 255, 255)"
    assert noise == []
