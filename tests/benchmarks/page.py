# SPDX-License-Identifier: Apache-2.0
"""How large the report page is, how long it takes to write, and to open in Chromium.

python tests/benchmarks/page.py [ANALYSIS.json ...] [--layers 100 1000 5000] [--repeat 5]

Opening is from the navigation until the script has counted the rows, which is when the page can be
used; the drawing of the network follows in a worker and is timed by itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import machine, table
from synthetic_analysis import synthetic

from analyzer.records import Analysis
from analyzer.report.html import render_html
from analyzer.store import load_analysis

_READY = "#count:has-text('layers')"
_SORT = """() => {
  const start = performance.now();
  document.querySelectorAll("table.layers thead button")[5].click();
  document.body.offsetHeight;
  return performance.now() - start;
}"""
_SHOW_ALL = """() => {
  const start = performance.now();
  const box = document.querySelector("#problems");
  if (box && box.checked) box.click();
  document.body.offsetHeight;
  return performance.now() - start;
}"""


def main() -> None:
    """Print one row per page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("analyses", nargs="*", type=Path)
    parser.add_argument("--layers", nargs="*", type=int, default=[100, 1000, 5000])
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    print(machine())
    rows = []
    for name, analysis in _analyses(arguments.analyses, arguments.layers):
        start = time.perf_counter()
        page = render_html(analysis)
        written = time.perf_counter() - start
        rows.append([name, len(page.encode()) / 1000, written, *_opened(page, arguments.repeat)])
    table(["page", "kB", "write s", "open s", "show all s", "sort s"], rows)


def _analyses(paths: list[Path], sizes: list[int]) -> Iterator[tuple[str, Analysis]]:
    for size in sizes:
        yield f"{size} synthetic layers", synthetic(size)
    for path in paths:
        yield path.parent.name or str(path), load_analysis(path)


def _opened(page: str, repeat: int) -> list[float]:
    """Medians of opening, of showing all rows and of sorting them, in seconds."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    times: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(page, encoding="utf-8")
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        times += [_once(chromium, file.as_uri()) for _ in range(repeat)]
        chromium.close()
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _once(chromium: Any, url: str) -> list[float]:  # Any: playwright's browser
    context = chromium.new_context()
    page = context.new_page()
    start = time.perf_counter()
    page.goto(url)
    page.locator(_READY).wait_for()
    opened = time.perf_counter() - start
    found = [opened, page.evaluate(_SHOW_ALL) / 1000, page.evaluate(_SORT) / 1000]
    context.close()
    return found


if __name__ == "__main__":
    main()
