# SPDX-License-Identifier: Apache-2.0
"""Make the pictures of the README: the top of the example report, light and dark.

    python tests/benchmarks/screenshots.py

Chromium opens reports/example/report.html, which `example_report.py` makes; the pictures go to
.github/docs/report-light.png and report-dark.png, in 256 colours and below 200 kB each.
"""

from __future__ import annotations

import io
import os
import shutil
from typing import Any

from measure import ROOT
from PIL import Image

PAGE = ROOT / "reports" / "example" / "report.html"
INTO = ROOT / ".github" / "docs"
SIZE = {"width": 1200, "height": 1000}  # of the window, in CSS pixels
SCALES = (1.5, 1.25, 1.0)  # pixels per CSS pixel, the first that is small enough
MOST = 200_000  # bytes


def main() -> None:
    """Take both pictures."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        # --no-sandbox: as root in a container Chromium does not start without.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            path = INTO / f"report-{theme}.png"
            path.write_bytes(picture(browser, theme))
            print(f"{path.stat().st_size / 1000:.0f} kB  {path.relative_to(ROOT)}")
        browser.close()


def picture(browser: Any, theme: str) -> bytes:
    """Return a PNG of the top of the page."""
    for scale in SCALES:
        page = browser.new_page(viewport=SIZE, color_scheme=theme, device_scale_factor=scale)
        page.goto(PAGE.as_uri())
        page.wait_for_timeout(1500)  # the network is laid out in a worker
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        page.close()
        buffer = io.BytesIO()
        image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() < MOST:
            break
    return buffer.getvalue()


if __name__ == "__main__":
    main()
